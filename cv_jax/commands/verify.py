"""`python -m cv_jax verify WORKDIR…`: checks every checkpoint against its digests."""

import argparse
from pathlib import Path

from cv_jax.errors import InputError


def main(arguments: list[str]) -> int:
    """Prints a line for each checkpoint; 0 if all are sound, 1 if one is damaged.

    Raises:
      InputError: a directory holds no checkpoints.
    """
    parser = argparse.ArgumentParser(prog="python -m cv_jax verify", description=__doc__)
    parser.add_argument("workdir", nargs="+", type=Path)
    from cv_jax import checkpoint

    damaged = 0
    for workdir in parser.parse_args(arguments).workdir:
        folder = workdir / "checkpoints"
        steps = checkpoint.finished(folder)
        if not steps:
            raise InputError(f"{workdir} holds no checkpoints")
        for step in steps:
            reason = checkpoint.damage(folder / str(step))
            damaged += reason is not None
            print(f"{folder / str(step)}: {reason or 'sound'}")
    return 1 if damaged else 0
