"""Copies of the metric lines and pictures in TensorBoard and Weights & Biases.

The originals are `metrics.jsonl` and the PNG files in `PICTURES`. At every start a writer receives
all lines of the run, so a restart neither repeats nor skips a line, and a writer can be added to a
run at any time. A value of a line is a number, or the path of a picture. A writer that fails causes
one message and is off until the next start; it never stops the run.
"""

import importlib.util
import re
import secrets
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections

from cv_jax import config as configs
from cv_jax.devices import processes
from cv_jax.errors import InputError, one_line
from cv_jax.run import json_files, owner

Line = dict[str, Any]
PICTURES = "pictures"  # folder of the pictures, in the run directory
_PICTURE = re.compile(r"(\d+)(?:_([a-z]+))?\.png")


class Writer(NamedTuple):
    """A destination of metric lines.

    Attributes:
      write: writes one line; its values are numbers and paths of PNG files.
      close: ends the writer, given the exit code of the run.
    """

    write: Callable[[Line], None]
    close: Callable[[int], None]


def _tensorboard(config, workdir: Path, lines: list[Line]) -> Writer:
    """Writer of event files for `tensorboard --logdir DIR`.

    The file is rewritten at every start, because a restart drops the lines after its checkpoint.
    Earlier points then have the time of the restart. Events are written synchronously: the thread
    of a `SummaryWriter` loses events after a kill, and ends without an error on a full disk.
    """
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.proto.summary_pb2 import Summary
    from tensorboardX.summary import scalar

    folder = workdir / "tensorboard"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("events.*"):
        old.unlink()
    file = EventsWriter(str(folder / "events"))
    # A running TensorBoard drops the points of the old file at this event.
    file.write_event(Event(step=0, session_log=SessionLog(status=SessionLog.START)))

    def picture(name, path):
        png = path.read_bytes()
        width, height = struct.unpack(">II", png[16:24])
        image = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=png)
        return Summary(value=[Summary.Value(tag=name, image=image)])

    def write(*lines):
        for line in lines:
            for name, value in _values(line).items():
                summary = (picture if isinstance(value, Path) else scalar)(name, value)
                file.write_event(Event(wall_time=time.time(), step=line["step"], summary=summary))
        file.flush()

    write(*lines)
    return Writer(write, lambda code: file.close())


def _wandb(config, workdir: Path, lines: list[Line]) -> Writer:
    """Writer of a Weights & Biases run; `wandb.json` stores its id, so a restart continues it.
    A `wandb.json` of another run is replaced.

    All lines of a step are sent as one row, and a step that the service has is not sent again.
    Offline (`WANDB_MODE=offline`) each start writes the whole history; `wandb sync` the newest.
    """
    import wandb

    file, name = workdir / "wandb.json", owner.of(workdir).name
    if not file.is_file() or json_files.read_record(file).get("run", name) != name:
        json_files.write_record(file, {"id": secrets.token_hex(8), "run": name})
    run = wandb.init(
        project=config.log.wandb_project,
        id=json_files.read_record(file)["id"],
        resume="allow",
        name=workdir.name,
        dir=str(workdir),
        config=configs.flatten(config),
        settings=wandb.Settings(console="off"),
    )
    first, row = run.step, {}

    def send():
        if row and row["step"] >= first:
            run.log({k: v for k, v in row.items() if k != "step"}, step=row["step"], commit=True)
        row.clear()

    def write(line):
        if row and row["step"] != line["step"]:
            send()
        for name, value in _values(line).items():
            row[name] = wandb.Image(str(value)) if isinstance(value, Path) else value
        row["step"] = line["step"]

    def close(code):
        send()
        run.finish(exit_code=code)

    for line in lines:
        write(line)
    return Writer(write, close)


# Name in config.log.writers → (package, function that opens the writer).
WRITERS: dict[str, tuple[str, Callable]] = {
    "tensorboard": ("tensorboardX", _tensorboard),
    "wandb": ("wandb", _wandb),
}


def check(config: ml_collections.ConfigDict) -> None:
    """Raise an `InputError` if the package of a writer is not installed."""
    for name in config.log.writers:
        package, _ = WRITERS[name]
        if importlib.util.find_spec(package) is None:
            raise InputError(f"config.log.writers: {name} is not installed; pip install {package}")


def open_writers(
    config: ml_collections.ConfigDict,
    workdir: Path,
    lines: list[Line],
    say: Callable[[str], None],
) -> Writer:
    """Return one writer for all `config.log.writers`; it writes in process 0 only.

    Args:
      config: the run's config.
      workdir: the run directory.
      lines: the run's metric lines before this start.
      say: prints a message for the user.
    """
    opened: dict[str, Writer] = {}

    def attempt(name, action, *arguments):
        try:
            return action(*arguments)
        except (Exception, SystemExit) as error:
            opened.pop(name, None)
            reason = one_line(f"{type(error).__name__}: {error}", 300)
            say(f"log.writers: {name} has failed and is off; metrics.jsonl continues; {reason}")
            return None

    for name in config.log.writers if processes.is_main() else ():
        writer = attempt(name, WRITERS[name][1], config, workdir, lines)
        if writer is not None:
            opened[name] = writer

    def write(line):
        for name, writer in list(opened.items()):
            attempt(name, writer.write, line)

    def close(code):
        for name, writer in list(opened.items()):
            attempt(name, writer.close, code)

    return Writer(write, close)


def picture_file(workdir: Path, step: int, name: str = "") -> Path:
    """Return the file of a picture: `PICTURES/STEP.png`, or `PICTURES/STEP_NAME.png`."""
    return workdir / PICTURES / (f"{step:08d}_{name}.png" if name else f"{step:08d}.png")


def picture_line(file: Path) -> Line:
    """Return a picture in the form of a line; one without a name is a reconstruction."""
    step, name = _PICTURE.fullmatch(file.name).groups()
    split = "train" if name == "batch" else "test"
    return {"step": int(step), "split": split, name or "reconstruction": file}


def drawn(workdir: Path) -> list[Line]:
    """Return the pictures of a run directory in the form of lines."""
    files = sorted((workdir / PICTURES).glob("*.png"))
    return [picture_line(file) for file in files if _PICTURE.fullmatch(file.name)]


def _values(line: Line) -> dict[str, float | Path]:
    """Return `split/name` → value of a line."""
    split = line["split"]
    return {f"{split}/{k}": v for k, v in line.items() if k not in ("step", "split")}
