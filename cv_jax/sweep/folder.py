"""The sweep directory: its sweep, and the progress of its trials.

`sweep.json` holds the config file, its argument, the overrides for all points, and `points`, a list
of {name, overrides, arguments}; for a search also `search`, its method and ranges. The same sweep
may continue with more points, such as more seeds, and after its data have moved. A sweep with other
values or without one of the stored points is another sweep and is refused.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from cv_jax import config as configs
from cv_jax import paths
from cv_jax.config.fields import FIELDS
from cv_jax.config.values import tuples
from cv_jax.errors import InputError, one_line, shell_line
from cv_jax.run import json_files, lock, workdir
from cv_jax.sweep.points import Point, Sweep


class Trial(NamedTuple):
    """A run of a sweep, which can be killed and started again at any time.

    Attributes:
      name: name of the point.
      command: words of the command that starts or continues the run.
      workdir: the run directory.
      log: file to which the output is appended.
      total_steps: updates of the whole run.
      batch_size: examples of an update.
    """

    name: str
    command: list[str]
    workdir: Path
    log: Path
    total_steps: int
    batch_size: int

    def finished(self) -> bool:
        """Whether the run has finished; the summary is the last file that it writes."""
        summary = summary_of(self.workdir)
        return summary is not None and summary["step"] == self.total_steps

    def pruned(self) -> bool:
        """Whether a search has stopped the trial for good."""
        return was_pruned(self.workdir)

    def open_log(self) -> IO[bytes]:
        """Open the log for appending, and write the command to it unless the disk is full."""
        log = self.log.open("ab", buffering=0)
        with contextlib.suppress(OSError):
            log.write(f"$ {shell_line(self.command)}\n".encode())
        return log


def default_folder(sweep: Sweep, names: str) -> Path:
    """Return `runs/<config>-<kind>[-<names>]-<digest of the common argument and overrides>`.

    Args:
      sweep: a sweep or search.
      names: comma-separated names of the generators.
    """
    kind = f"search-{sweep.search['method']}" if sweep.search else "sweep"
    shared = json.dumps([sweep.argument, _lasting(sweep.overrides)], sort_keys=True)
    digest = hashlib.sha256(shared.encode()).hexdigest()[:8]
    chosen = [name for name in names.split(",") if name]
    return Path("runs") / "-".join([Path(sweep.config).stem, kind, *chosen, digest])


def read(folder: Path) -> Sweep:
    """Read the sweep of a folder.

    Raises:
      InputError: `sweep.json` is missing or damaged.
    """
    if not (folder / "sweep.json").is_file():
        raise InputError(f"{folder} holds no sweep: sweep.json is missing")
    try:
        stored = paths.read_json(folder / "sweep.json")
        points = [Point(**tuples(point)) for point in stored.pop("points")]
        if any("/" in point.name or point.name in ("", ".", "..") for point in points):
            raise ValueError("the name of a point is no name of a folder")
        return Sweep(**tuples(stored), points=tuple(points))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / 'sweep.json'}: {one_line(error)}") from None


def check(folder: Path, sweep: Sweep) -> None:
    """Check that a folder is new, empty, or belongs to this sweep; write nothing.

    Raises:
      InputError: the folder holds another sweep or other files.
    """
    workdir.check_writable(folder, "--sweep_dir")
    if not (folder / "sweep.json").is_file():
        if folder.is_dir() and any(child.name != "lock" for child in folder.iterdir()):
            raise InputError(
                f"--sweep_dir={folder} holds files but no sweep; give an empty or new folder"
            )
        return
    old, new = _identity(read(folder)), _identity(sweep)
    lines = [
        f"{key}: was {old[key]!r}, is now {new[key]!r}"
        for key in ("config", "argument", "overrides", "search")
        if old[key] != new[key]
    ]
    there = set(new["points"])
    lines += [f"point {name} is missing" for name in old["points"] if name not in there]
    if lines:
        shown = "; ".join(lines[:5]) + ("; …" if len(lines) > 5 else "")
        raise InputError(
            f"--sweep_dir={folder} holds another sweep; give another --sweep_dir: {shown}"
        )


@contextlib.contextmanager
def claimed(folder: Path, sweep: Sweep) -> Iterator[lock.Claim]:
    """Lock the folder for this process, and write `sweep.json`.

    Raises:
      InputError: another process holds the lock, or `check` refuses the folder.
    """
    with lock.claimed(folder, "--sweep_dir") as claim:
        check(folder, sweep)
        write(folder, sweep)
        yield claim


def write(folder: Path, sweep: Sweep) -> None:
    """Write `sweep.json`; the caller holds the lock."""
    stored = {**sweep._asdict(), "points": [point._asdict() for point in sweep.points]}
    json_files.write_json(folder / "sweep.json", stored)


def summary_of(path: Path) -> dict[str, Any] | None:
    """Return the summary of a run; `None` for an unfinished run or a damaged file.

    The run itself reports the damage.
    """
    with contextlib.suppress(FileNotFoundError, json_files.Damaged):
        return json_files.read_record(path / "summary.json")
    return None


def prune(path: Path, reason: dict[str, Any]) -> None:
    """Write to the folder of a trial why a search has stopped it for good."""
    json_files.write_json(path / "pruned.json", {"trial": path.name, **reason})


def was_pruned(path: Path) -> bool:
    """Whether a search has stopped the trial of a folder for good, and not another trial."""
    try:
        found = json_files.read_object(path / "pruned.json")
    except FileNotFoundError:
        return False
    except json_files.Damaged:
        return True
    return found.get("trial", path.name) == path.name


def starts_of(path: Path) -> list[dict[str, Any]]:
    """Return the starts of a run; none if it has not begun or the file is damaged."""
    with contextlib.suppress(FileNotFoundError, json_files.Damaged):
        return workdir.read_starts(path)
    return []


def progress(path: Path) -> int:
    """Return the step of a run's summary or of its last metric line."""
    line = summary_of(path) or newest(path / "metrics.jsonl")
    return line["step"] if line else 0


def newest(path: Path, split: str | None = None) -> dict[str, Any] | None:
    """Return the last complete line of a JSON-lines file, or of one split in it.

    Only the end of the file is read. `None` if it holds no such line.
    """
    try:
        lines = tail(path).split(b"\n")
    except OSError:
        return None
    for line in reversed(lines[:-1]):
        # The first line may be incomplete.
        with contextlib.suppress(ValueError, KeyError, TypeError):
            value = paths.parse_json(line)
            if split is None or value["split"] == split:
                return value
    return None


def tail(path: Path, start: int = 0) -> bytes:
    """Read the last 64 KiB of a file, but nothing before byte `start`."""
    with path.open("rb") as file:
        file.seek(max(start, file.seek(0, os.SEEK_END) - 65536))
        return file.read(65536)


def _lasting(overrides: dict[str, str]) -> dict[str, str]:
    """Return the overrides of result and evaluation fields; run fields may change."""
    running = {name for name, field in FIELDS.items() if field.kind == "run"}
    return {name: text for name, text in overrides.items() if name not in running}


def _identity(sweep: Sweep) -> dict[str, Any]:
    dataset, *options = configs.split_argument(sweep.argument) or [""]
    return {
        "config": Path(sweep.config).name,
        "argument": ",".join([_without_place("data.name", dataset), *options]),
        "overrides": {n: _without_place(n, x) for n, x in _lasting(sweep.overrides).items()},
        "search": sweep.search,
        "points": [point.name for point in sweep.points],
    }


def _without_place(name: str, text: str) -> str:
    """Return the text of an override without a place: each trial checks what is in the place."""
    if name in ("distill.teacher", "init_from") and text.lower() != "none":
        return "…"
    kind, colon, _ = text.partition(":")
    return f"{kind}:…" if name == "data.name" and kind in ("folder", "records") and colon else text
