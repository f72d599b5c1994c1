"""What a run directory says of its run: `config.json`, and the starts in `run.json`."""

import contextlib
import os
from pathlib import Path
from typing import Any

from cv_jax.errors import InputError
from cv_jax.run import identity, json_files


def read_starts(path: Path) -> list[dict[str, Any]]:
    """Return the starts in `run.json` of a run directory.

    Raises:
      FileNotFoundError: `run.json` is missing.
      json_files.Damaged: `run.json` or one of its starts is damaged.
    """
    return [json_files.unsealed(start) for start in json_files.read_json(path / "run.json", list)]


def known_starts(path: Path) -> list[dict[str, Any]]:
    """Return the starts of a run; [] if `run.json` is missing or damaged."""
    with contextlib.suppress(json_files.Damaged, FileNotFoundError):
        return read_starts(path)
    return []


def started_with(path: Path) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Return the config of the first start, `None` without a run, and the list of starts.

    Each start has the config too, so a sound `run.json` replaces a damaged `config.json`.

    Raises:
      InputError: the directory has a run, but both files are damaged or missing, or they are of
        two runs.
    """
    starts = known_starts(path)
    try:
        config = json_files.read_record(path / "config.json")
    except FileNotFoundError:
        if not os.path.lexists(path / "run.json"):
            return None, []
        reason = "config.json is missing, run.json is damaged"
    except json_files.Damaged as error:
        reason = f"config.json is damaged ({error})"
    else:
        require_one_run(path, config, starts)
        return config, starts
    if not starts:
        raise InputError(
            f"--workdir={path}: {reason}, so the run is unknown; give another --workdir"
        )
    return starts[0]["config"], starts


def require_one_run(path: Path, config: dict[str, Any], starts: list[dict[str, Any]]) -> None:
    """Check that `config.json` has the result fields of the starts in `run.json`.

    Raises:
      InputError: one of the two files is of another run.
    """
    lines = identity.contradictions(config, starts[0]["config"]) if starts else []
    if lines:
        raise InputError(
            f"{path}: config.json and run.json are of two runs ({'; '.join(lines[:3])}); put back "
            "the file that belongs here, or give another --workdir"
        )
