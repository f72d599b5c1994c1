"""What the files of one run say, also if the run is empty, unfinished or damaged."""

import contextlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from cv_jax.config.fields import UNITS
from cv_jax.errors import InputError, one_line, shell_line
from cv_jax.run import class_names, json_files, lock, workdir

FILES = ("config.json", "run.json", "metrics.jsonl", "timing.jsonl", "summary.json", "lock")


class RunFiles(NamedTuple):
    """The records of a run directory.

    Attributes:
      path: the run directory.
      config: flat values of config.json; empty without a sound one.
      starts: entries of run.json; empty without a sound one.
      classes: names of the classes; () if unknown.
      lines: metric lines: step, split, name → finite number.
      times: timing lines.
      summary: summary.json; empty for an unfinished run.
      state: progress in words.
      damage: one line for each file that could not be read.
      total_steps: updates of the whole run; `None` if it is unknown.
      epoch: updates of an epoch; `None` if it is unknown.
      title: name of the run on a page; "" for the name of its directory.
    """

    path: Path
    config: dict[str, Any]
    starts: list[dict[str, Any]]
    classes: tuple[str, ...]
    lines: list[dict[str, Any]]
    times: list[dict[str, Any]]
    summary: dict[str, Any]
    state: str
    damage: list[str]
    total_steps: int | None
    epoch: float | None
    title: str = ""

    @property
    def name(self) -> str:
        """The title, or else the name of the directory."""
        return self.title or self.path.resolve().name or str(self.path)

    @property
    def step(self) -> int:
        """Updates made, as far as the records say."""
        return max([self.summary.get("step", 0), *(line["step"] for line in self.lines)])

    @property
    def command(self) -> str:
        """The command of the last start; "" without one."""
        words = self.starts[-1].get("command", []) if self.starts else []
        return shell_line(["python", *map(str, words)]) if words else ""


def is_run(path: Path) -> bool:
    """Whether a folder is a run directory or can become one: it has a file of a run, or none."""
    names = {child.name for child in path.iterdir()}
    return not names or bool(names & {*FILES, "checkpoints"})


def read(path: Path) -> RunFiles:
    """Read a run directory; what cannot be read is named in `damage`.

    Raises:
      InputError: the path is not a folder, or holds files but no run.
    """
    if not path.is_dir():
        raise InputError(f"{path} is not a folder; give a run directory or a sweep directory")
    if not is_run(path):
        raise InputError(f"{path} holds no sweep and no run")
    damage: list[str] = []

    def recorded(read: Callable, file: Path, absent: Any) -> Any:
        try:
            return read(file)
        except FileNotFoundError:
            return absent
        except (json_files.Damaged, OSError, ValueError) as error:
            damage.append(f"{file.name}: {one_line(error, 200)}")
            return absent

    config = recorded(json_files.read_record, path / "config.json", {})
    starts = recorded(lambda file: workdir.read_starts(file.parent), path / "run.json", [])
    names = recorded(lambda file: class_names.read(file.parent), path / class_names.FILE, ())
    summary = recorded(json_files.read_record, path / "summary.json", {})
    lines = recorded(_sound_lines(("step", "split"), damage), path / "metrics.jsonl", [])
    times = recorded(_sound_lines(("step", "seconds"), damage), path / "timing.jsonl", [])
    if not config and starts:
        config = starts[0].get("config", {})
    epoch, total = _durations(config, starts, names)
    if isinstance(summary.get("step"), int):
        total = summary["step"]
    found = RunFiles(
        path,
        config,
        starts,
        tuple(map(str, names)),
        lines,
        times,
        summary,
        "",
        damage,
        total,
        epoch,
    )
    return found._replace(state=_state(found))


def _sound_lines(needed: tuple[str, ...], damage: list[str]) -> Callable:
    """Return the function `file → complete lines with these keys`; others are named once."""

    def read(file):
        found, wrong = [], 0
        if not file.is_file():
            return found
        content = json_files.read_text(file, json_files.LINES_BYTES, errors="replace")
        for text in content.splitlines(True):
            line = None
            with contextlib.suppress(ValueError, RecursionError):
                line = json.loads(text)
            if isinstance(line, dict) and all(_is_sound(key, line.get(key)) for key in needed):
                found.append({k: x for k, x in line.items() if k == "split" or _is_number(x)})
            elif text.endswith("\n"):  # an incomplete last line is being written
                wrong += 1
        if wrong:
            damage.append(f"{file.name}: {wrong} lines cannot be read")
        return found

    return read


def _is_sound(key: str, value: Any) -> bool:
    if key == "split":
        return isinstance(value, str)
    whole = key != "step" or isinstance(value, int)
    return _is_number(value) and whole and 0 <= value < 2**53


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number; a line may hold others after a damage."""
    kinds = (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)


def _durations(config: dict, starts: list[dict], classes: tuple) -> tuple[float | None, int | None]:
    """Return the updates of an epoch and of the whole run, each `None` if it is unknown."""
    batch = config.get("batch_size")
    examples = _training_examples(config, starts, classes)
    epoch = examples / batch if examples and batch else None
    values = {unit: config.get(f"total_{unit}") for unit in UNITS}
    steps = values["steps"]
    if steps is None and batch:
        if values["examples"] is not None:
            steps = round(values["examples"] / batch)
        elif values["epochs"] is not None and epoch:
            steps = round(values["epochs"] * epoch)
    return epoch, steps


def _training_examples(config: dict, starts: list[dict], classes: tuple) -> int | None:
    """Return the number of training examples; `None` if the records do not say it."""
    try:
        sizes = starts[0]["data"]["train"]["splits"]
        count = sizes[config["data.train_split"]]
        if config.get("data.fraction") is not None:
            return round(count * config["data.fraction"])
        if config.get("data.per_class") is not None:
            return config["data.per_class"] * len(classes) or None
        return int(count)
    except (LookupError, TypeError, ValueError):
        return None


def _state(run: RunFiles) -> str:
    of = f" of {run.total_steps:,}" if run.total_steps else ""
    if lock.in_use(run.path):
        return f"running, step {run.step:,}{of}"
    if run.summary:
        return f"finished, {run.step:,} steps"
    if not run.config and not run.lines:
        return "damaged: no file of the run can be read" if run.damage else "has not begun"
    return f"not finished, step {run.step:,}{of}"
