"""Whose a checkpoint is: the mark in it, compared with the marks of the run it lies in.

A mark names the run, by a random name that the first start draws, and has the digest of its result
fields and those of its data. Every start records its mark in `run.json`, and every checkpoint that
the start writes has it in `meta.json`. Versions before the marks wrote starts and checkpoints
without them; in the directory of a run that such a version began, they belong to the run.
"""

import copy
import hashlib
import json
import secrets
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections

from cv_jax import config as configs
from cv_jax.errors import InputError
from cv_jax.run import json_files, starts

Mark = dict[str, Any]


def mark(config: ml_collections.ConfigDict, fingerprint: dict[str, Any], run: str) -> Mark:
    """Return the mark of a run.

    Args:
      config: the run's config.
      fingerprint: identity of the data.
      run: name of the run; see `new_name`.
    """
    return {"run": run, **properties(config, fingerprint)}


def properties(config: ml_collections.ConfigDict, fingerprint: dict[str, Any]) -> Mark:
    """Return what a mark has besides the name of the run."""
    parts = {part: _digest(value) for part, value in fingerprint.items()}
    return {"config": _digest_of(config), "data": parts}


def new_name() -> str:
    """Draw the name of a new run."""
    return secrets.token_hex(8)


class Owner(NamedTuple):
    """What a run directory knows of the checkpoints of its run.

    Attributes:
      marks: marks of the run; with fewer entries if `run.json` is lost, () if nothing is known.
      unmarked: whether checkpoints without a mark belong to the run.
      complete: whether the starts are known, so that no other mark belongs to the run.
    """

    marks: tuple[Mark, ...]
    unmarked: bool
    complete: bool = False

    @property
    def name(self) -> str | None:
        """Name of the run; `None` if it is unknown, or an older version began the run."""
        return next(reversed(self.names), None)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the run: another one after its marks were lost."""
        return tuple(one["run"] for one in self.marks if "run" in one)

    def objection(self, found: Mark | None) -> str | None:
        """Return why a checkpoint with this mark is not of this run; `None` if it is."""
        if found is None:
            return None if self.unmarked else "it is of a run of an older version"
        if any(_agree(one, found) for one in self.marks) or not (self.marks or self.complete):
            return None
        for name, what in (("config", "with other result fields"), ("data", "on other data")):
            differ = [name in one and one[name] != found.get(name) for one in self.marks]
            if differ and all(differ):
                return f"it is of a run {what}"
        return "it is of another run"


def of(path: Path, asking: Mark | None = None) -> Owner:
    """Return what a run directory knows of its checkpoints.

    Args:
      path: the run directory.
      asking: `properties` of the run that asks, in place of a lost `run.json`.
    """
    known = starts.known_starts(path)
    if known:
        marks = tuple(start["mark"] for start in known if "mark" in start)
        return Owner(marks, len(marks) < len(known), complete=True)
    own = asking or _of_config(path)
    marked = any(read_mark(folder) for folder in (path / "checkpoints").glob("[0-9]*"))
    return Owner((own,) if own else (), not marked)


def read_mark(checkpoint: Path) -> Mark | None:
    """Return the mark of a checkpoint; `None` if it has none or cannot be read."""
    try:
        found = json_files.read_object(checkpoint / "meta.json").get("mark")
    except (json_files.Damaged, OSError):
        return None
    return found if isinstance(found, dict) else None


def _of_config(path: Path) -> Mark | None:
    """Return what `config.json` tells of the mark of its run."""
    try:
        config = configs.restore(json_files.read_record(path / "config.json"))
        return {"config": _digest_of(config)}
    except (json_files.Damaged, InputError, OSError, KeyError, ValueError, TypeError):
        return None


def _digest_of(config: ml_collections.ConfigDict) -> str:
    """Return the digest of the result fields; what is in a place may move."""
    config = copy.deepcopy(config)
    config.init_from = config.distill.teacher = None
    kind, colon, _ = config.data.name.partition(":")
    config.data.name = f"{kind}{colon}"
    return configs.digest(config)


def _agree(known: Mark, found: Mark) -> bool:
    return all(found.get(name) == value for name, value in known.items())


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
