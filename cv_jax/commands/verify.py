"""`python -m cv_jax verify DIR…`: checks the files of runs or prepared records by their digests.

The data of a run are read as a whole and compared with its record.
"""

import contextlib
from pathlib import Path
from typing import Any

from cv_jax.commands import option_types
from cv_jax.errors import InputError, Parser, RunError, one_line, printable


def main(arguments: list[str]) -> int:
    """Print a line per checkpoint, per damaged file and per split; return 0 if all are sound, or
    else 1.

    Raises:
      InputError: a directory holds neither checkpoints nor records.
    """
    parser = Parser(prog="python -m cv_jax verify", description=__doc__)
    parser.add_argument(
        "workdir", nargs="+", type=option_types.path, help="run directory, or folder of records"
    )
    damaged = 0
    for workdir in parser.parse_args(arguments).workdir:
        prepared = (workdir / "index.json").is_file()
        damaged += _verify_records(workdir) if prepared else _verify_run(workdir)
    return 1 if damaged else 0


def _verify_run(workdir: Path) -> int:
    from cv_jax.run import checkpoint_files, record_damage

    folder = workdir / "checkpoints"
    steps = checkpoint_files.finished(folder)
    wrong = dict.fromkeys(checkpoint_files.misnamed(folder), "a step is written in another way")
    if not steps and not wrong:
        raise InputError(f"{workdir} holds neither checkpoints nor records")
    examined = {step: checkpoint_files.examined(folder / str(step)) for step in steps}
    reasons = {step: reason for step, reason in examined.items() if reason != ""}  # not deleted
    newest = max((step for step, reason in reasons.items() if reason is None), default=0)
    for step, reason in reasons.items():
        if reason and step < newest:
            fate = "moved away" if reason.startswith("it is ") else "deleted"
            reason += f"; a newer checkpoint is sound: this one can be {fate}"
        print(printable(f"{folder / str(step)}: {reason or 'sound'}"))
    kept = ""
    with contextlib.suppress(OSError):  # deleted since then
        kept = checkpoint_files.read_lines(folder / str(newest)) if newest else ""
    wrong = [f"{path}: {reason}" for path, reason in wrong.items()]
    wrong += record_damage.damage(workdir, kept, newest or None)
    for line in wrong:
        print(printable(line))
    damaged = sum(reason is not None for reason in reasons.values())
    return damaged + len(wrong) + _verify_data(workdir)


def _verify_data(workdir: Path) -> int:
    """Print a line per split of a run's data; return the number of those that have changed."""
    from cv_jax import config as configs
    from cv_jax.data import digests, fingerprint, splits
    from cv_jax.data.decode import BrokenExample
    from cv_jax.run import json_files
    from cv_jax.run import workdir as records

    try:
        recorded = records.read_starts(workdir)[-1]["data"]
        config = configs.restore(json_files.read_record(workdir / "config.json"))
    except (FileNotFoundError, IndexError, KeyError, json_files.Damaged):
        return 0  # named by `record_damage.damage`
    changed = 0
    for part, field in (("train", "train_split"), ("eval", "eval_split")):
        before, split = recorded.get(part, {}), config.data[field]
        config.data.hash = "full" if before.get("contents") else "auto"
        try:
            if part == "train":
                source = splits.open_train(config)
            else:
                source = splits.open_split(config, config.data.name, split, f"data.{field}")
                source = splits.noted(config, source, split, {})
            differing = fingerprint.differing(before, source.fingerprint)
            if differing:
                line = f"changed since the training ({', '.join(differing)})"
            elif before.get("contents"):
                line = "the data of the training"
            else:
                line = "names and sizes of the training; without a recorded hash (data.hash=full)"
                line += _verify_examples(source, workdir, part)
            changed += bool(differing)
        except (digests.Changed, BrokenExample) as error:
            changed, line = changed + 1, one_line(error)
        except (InputError, RunError, OSError) as error:
            line = f"not checked: {one_line(error)}"
        print(printable(f"{workdir}, data.{field}: {line}"))
    return changed


def _verify_examples(source: Any, workdir: Path, part: str) -> str:
    """Compare the examples with what a run has read; return how many it has, as words to append."""
    from cv_jax.data import digests
    from cv_jax.progress import counted

    if not isinstance(source.records, digests.Noted):
        return ""
    known = source.records.learn(workdir, part)
    for index in counted(known, f"reading examples of {source.name}"):
        source.read(int(index))
    count = f"{len(known):,} of {len(source):,}"
    return f"; {count} examples were read by the run, and are unchanged" if len(known) else ""


def _verify_records(folder: Path) -> int:
    from cv_jax.data import records

    lines = records.damage(folder)
    for line in lines or [f"{folder}: sound"]:
        print(printable(line))
    return len(lines)
