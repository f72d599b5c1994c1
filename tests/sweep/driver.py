"""Run one fake trial for each kind: `driver.py FOLDER SLOTS STEPS KIND KIND …`."""

import sys
from pathlib import Path

from cv_jax import output
from cv_jax.sweep import local, main
from cv_jax.sweep.display import Board
from cv_jax.sweep.folder import Trial
from cv_jax.sweep.slots import Slot

STAND_IN = Path(__file__).with_name("stand_in.py")


def trials_of(folder, steps, kinds):
    """Yield one trial for each kind."""
    for i, kind in enumerate(kinds):
        workdir = folder / f"trial={i}"
        words = [sys.executable, "-I", "-S", str(STAND_IN), str(workdir), str(steps), kind]
        yield Trial(workdir.name, words, workdir, folder / f"trial={i}.log", steps, 8)


if __name__ == "__main__":
    output.guard()
    output.optional()
    folder, slots, steps, *kinds = sys.argv[1:]
    trials = list(trials_of(Path(folder), int(steps), kinds))
    shares = [Slot(f"slot {i}", {"SLOT": str(i)}, ()) for i in range(int(slots))]
    outcomes = local.run(iter(trials), shares, Path(folder), Board(len(trials), len(shares)))
    sys.exit(main.report(outcomes, len(trials), folder))
