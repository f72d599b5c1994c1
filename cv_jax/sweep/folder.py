"""The folder of a sweep: whose it is, and how far its trials are.

`sweep.json` holds the config file, its argument, the overrides for all points, and `points`, a list
of {name, overrides, arguments}; of a search also `search`, its method and ranges. A sweep may come
back with more points, such as more seeds; with other values, or without points that it had, it is
another sweep and is refused.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cv_jax.config.fields import FIELDS
from cv_jax.errors import InputError
from cv_jax.run import json_files, workdir
from cv_jax.sweep.points import Point, Sweep


class Trial(NamedTuple):
    """A run that may be started, killed and started again.

    Attributes:
      name: of its point.
      command: the words that train it, or go on with it.
      workdir: its run directory.
      log: file that its output is added to.
      total_steps: updates of the whole run.
      batch_size: examples in each.
    """

    name: str
    command: list[str]
    workdir: Path
    log: Path
    total_steps: int
    batch_size: int

    def finished(self) -> bool:
        """Whether it is trained to its end: the summary is written when all else is."""
        summary = summary_of(self.workdir)
        return summary is not None and summary["step"] == self.total_steps

    def pruned(self) -> bool:
        """Whether a search has given it up."""
        return (self.workdir / "pruned.json").is_file()


def default_folder(sweep: Sweep, names: str) -> Path:
    """`runs/<config>-<kind>[-<names>]-<digest of what all points share>`.

    Args:
      sweep: a sweep or search.
      names: of its generators, comma-separated.
    """
    kind = f"search-{sweep.search['method']}" if sweep.search else "sweep"
    shared = json.dumps([sweep.argument, _lasting(sweep.overrides)], sort_keys=True)
    digest = hashlib.sha256(shared.encode()).hexdigest()[:8]
    chosen = [name for name in names.split(",") if name]
    return Path("runs") / "-".join([Path(sweep.config).stem, kind, *chosen, digest])


def read(folder: Path) -> Sweep:
    """The sweep that a folder belongs to.

    Raises:
      InputError: it holds no sweep, or its `sweep.json` is damaged.
    """
    if not (folder / "sweep.json").is_file():
        raise InputError(f"{folder} holds no sweep: there is no sweep.json")
    try:
        stored = json.loads((folder / "sweep.json").read_text())
        points = [Point(**_tuples(point)) for point in stored.pop("points")]
        return Sweep(**_tuples(stored), points=tuple(points))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / 'sweep.json'}: {error}") from None


def check(folder: Path, sweep: Sweep) -> None:
    """Makes sure that this sweep may go on here; writes nothing.

    Raises:
      InputError: the folder belongs to another sweep, or to something else.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--sweep_dir={folder} is a file; give a folder")
    if not (folder / "sweep.json").is_file():
        if folder.is_dir() and any(child.name != "lock" for child in folder.iterdir()):
            raise InputError(
                f"--sweep_dir={folder} holds files but no sweep; give an empty or new folder"
            )
        return
    then, now = _identity(read(folder)), _identity(sweep)
    lines = [
        f"{key}: {then[key]!r} there, {now[key]!r} now"
        for key in ("config", "argument", "overrides", "search")
        if then[key] != now[key]
    ]
    lines += [f"no point {name} now" for name in then["points"] if name not in now["points"]]
    if lines:
        shown = "; ".join(lines[:5]) + ("; …" if len(lines) > 5 else "")
        raise InputError(
            f"--sweep_dir={folder} holds another sweep; give another --sweep_dir: {shown}"
        )


@contextlib.contextmanager
def claimed(folder: Path, sweep: Sweep) -> Iterator[None]:
    """Holds the folder for this process, and writes `sweep.json`.

    Raises:
      InputError: another process runs a sweep there, or `check` refuses.
    """
    with workdir.claimed(folder, "--sweep_dir"):
        check(folder, sweep)
        write(folder, sweep)
        yield


def write(folder: Path, sweep: Sweep) -> None:
    """Writes `sweep.json`, for the holder of the folder."""
    stored = {**sweep._asdict(), "points": [point._asdict() for point in sweep.points]}
    json_files.write_json(folder / "sweep.json", stored)


def summary_of(path: Path) -> dict[str, Any] | None:
    """The summary of a run; none if it has not ended, or if its file is damaged, of which the run
    itself will tell."""
    with contextlib.suppress(FileNotFoundError, json_files.Damaged):
        return json_files.read_record(path / "summary.json")
    return None


def progress(path: Path) -> int:
    """Updates that a run has made, as far as its files tell."""
    line = summary_of(path) or newest(path / "metrics.jsonl")
    return line["step"] if line else 0


def newest(path: Path, split: str | None = None) -> dict[str, Any] | None:
    """The last whole line of a file of lines, or the last one of that split; none if there is none.

    Only the end of the file is read: it grows while this is asked every second.
    """
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 65536))
            lines = file.read().split(b"\n")
    except OSError:
        return None
    for line in reversed(lines[:-1]):
        with contextlib.suppress(ValueError):  # the first may have been cut
            value = json.loads(line)
            if split is None or value["split"] == split:
                return value
    return None


def _lasting(overrides: dict[str, str]) -> dict[str, str]:
    """The overrides that decide what is computed or measured; the others may change."""
    running = {name for name, field in FIELDS.items() if field.kind == "run"}
    return {name: text for name, text in overrides.items() if name not in running}


def _tuples(value: Any) -> Any:
    """Lists, as JSON has them, back to tuples."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _identity(sweep: Sweep) -> dict[str, Any]:
    return {
        "config": Path(sweep.config).name,
        "argument": sweep.argument,
        "overrides": _lasting(sweep.overrides),
        "search": sweep.search,
        "points": [point.name for point in sweep.points],
    }
