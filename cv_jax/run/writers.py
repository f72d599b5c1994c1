"""TensorBoard and Weights & Biases beside `metrics.jsonl`, which stays the truth.

At every start a writer is given the lines that the run kept: what it lacks it takes from there, so
that a restart leaves neither gap nor double, and a writer may be added to a run at any time. One
that fails is told once and left out until the next start; it never stops the run.
"""

import importlib.util
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections

from cv_jax import config as configs
from cv_jax.devices import processes
from cv_jax.errors import InputError
from cv_jax.run import json_files

Line = dict[str, Any]


class Writer(NamedTuple):
    """Where metric lines go.

    Attributes:
      write: takes one line.
      close: takes the run's exit code when it ends.
    """

    write: Callable[[Line], None]
    close: Callable[[int], None]


def _tensorboard(config, workdir: Path, lines: list[Line]) -> Writer:
    """`tensorboard --logdir DIR`. The file is written anew at every start, so that it never holds
    what the run took back; points of before a restart bear the time of the restart.

    The events are written here and now: a `SummaryWriter` hands them to a thread, where they are
    lost at a kill, and which ends in silence when the disk is full.
    """
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.summary import scalar

    folder = workdir / "tensorboard"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("events.*"):
        old.unlink()
    file = EventsWriter(str(folder / "events"))
    # At this a TensorBoard that is watching drops what it read from the old file.
    file.write_event(Event(step=0, session_log=SessionLog(status=SessionLog.START)))

    def write(line):
        for name, value in _numbers(line).items():
            summary = scalar(name, value)
            file.write_event(Event(wall_time=time.time(), step=line["step"], summary=summary))

    def write_now(line):
        write(line)
        file.flush()

    for line in lines:
        write(line)
    file.flush()
    return Writer(write_now, lambda code: file.close())


def _wandb(config, workdir: Path, lines: list[Line]) -> Writer:
    """A run whose id stands in `wandb.json`, so that a restart continues it.

    All lines of a step are sent together; a step that the service has is not sent again. Offline
    (`WANDB_MODE=offline`) each start writes the whole history: `wandb sync` the newest.
    """
    import wandb

    file = workdir / "wandb.json"
    if not file.is_file():
        json_files.write_record(file, {"id": secrets.token_hex(8)})
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
        row.update(_numbers(line), step=line["step"])

    def close(code):
        send()
        run.finish(exit_code=code)

    for line in lines:
        write(line)
    return Writer(write, close)


# Name in config.log.writers → its package, and what opens it.
WRITERS: dict[str, tuple[str, Callable]] = {
    "tensorboard": ("tensorboardX", _tensorboard),
    "wandb": ("wandb", _wandb),
}


def check(config: ml_collections.ConfigDict) -> None:
    """Raises an `InputError` if the package of a writer is not installed."""
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
    """One writer for all of `config.log.writers`; of several processes only the first has any.

    Args:
      config: the run's config.
      workdir: the run directory.
      lines: the metric lines that the run has kept.
      say: takes a message for the user.
    """
    opened: dict[str, Writer] = {}

    def attempt(name, action, *arguments):
        try:
            return action(*arguments)
        except Exception as error:
            opened.pop(name, None)
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            say(f"log.writers: {name} is left out from here on, metrics.jsonl goes on; {reason}")
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


def _numbers(line: Line) -> dict[str, float]:
    """`split/name` → number."""
    split = line["split"]
    return {f"{split}/{k}": v for k, v in line.items() if k not in ("step", "split")}
