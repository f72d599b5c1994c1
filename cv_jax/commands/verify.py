"""`python -m cv_jax verify DIR…`: checks checkpoints or prepared records by their digests."""

import argparse
from pathlib import Path

from cv_jax.errors import InputError


def main(arguments: list[str]) -> int:
    """Prints a line for each checkpoint or damaged file; 0 if all are sound, 1 if one is not.

    Raises:
      InputError: a directory holds neither checkpoints nor records.
    """
    parser = argparse.ArgumentParser(prog="python -m cv_jax verify", description=__doc__)
    parser.add_argument("workdir", nargs="+", type=Path, help="of a run, or folder of records")
    from cv_jax import checkpoint

    damaged = 0
    for workdir in parser.parse_args(arguments).workdir:
        if (workdir / "index.json").is_file():
            damaged += _verify_records(workdir)
            continue
        folder = workdir / "checkpoints"
        steps = checkpoint.finished(folder)
        if not steps:
            raise InputError(f"{workdir} holds neither checkpoints nor records")
        for step in steps:
            reason = checkpoint.damage(folder / str(step))
            damaged += reason is not None
            print(f"{folder / str(step)}: {reason or 'sound'}")
    return 1 if damaged else 0


def _verify_records(folder: Path) -> int:
    from cv_jax.data import records

    lines = records.damage(folder)
    for line in lines or [f"{folder}: sound"]:
        print(line)
    return len(lines)
