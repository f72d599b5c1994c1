"""`python -m cv_jax verify DIR…`: checks the files of runs or prepared records by their digests."""

import contextlib
from pathlib import Path

from cv_jax.commands import option_types
from cv_jax.errors import InputError, Parser, printable


def main(arguments: list[str]) -> int:
    """Print a line per checkpoint and per damaged file; return 0 if all are sound, or else 1.

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
    from cv_jax.run import checkpoint_files
    from cv_jax.run import workdir as records

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
    wrong += records.damage(workdir, kept)
    for line in wrong:
        print(printable(line))
    return len(wrong) + sum(reason is not None for reason in reasons.values())


def _verify_records(folder: Path) -> int:
    from cv_jax.data import records

    lines = records.damage(folder)
    for line in lines or [f"{folder}: sound"]:
        print(printable(line))
    return len(lines)
