"""`launch.py --sweep`: from the flags to the trials and back to an exit code."""

import sys
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import jax

from cv_jax import train
from cv_jax.errors import RunError
from cv_jax.sweep import folder as folders
from cv_jax.sweep import local, points, slots, trials
from cv_jax.sweep.board import Board

FAILED, KILLED = 1, 130


def main(
    flags: Namespace,
    overrides: dict[str, str],
    program: list[str],
    check_flags: Callable[[str], Any],
) -> int:
    """Runs the sweep, or lists it.

    Args:
      flags: `config`, `sweep`, `seeds`, `sweep_dir`, `slots`, `dry_run`.
      overrides: for all points.
      program: the words before the flags of a plain command.
      check_flags: raises an `InputError` unless XLA knows these flags.

    Returns:
      0 if all trials are done, 1 if one failed, 75 if a signal stopped them, 130 after a second
      Ctrl-C, which killed them.

    Raises:
      InputError: a mistake in the sweep or in any point, before the first trial.
      RunError: the disk is full, or the like.
    """
    sweep = points.read(flags.config, overrides, flags.sweep, flags.seeds)
    folder = flags.sweep_dir or folders.default_folder(sweep, flags.sweep)
    plan = slots.plan(flags.slots)
    if plan.platform != "cpu":
        # Points are tried on as many simulated devices: the real ones are left to the trials.
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", plan.devices)
    todo = trials.prepare(sweep, folder, program, check_flags)
    if flags.dry_run:
        for line in trials.listing(sweep, folder):
            print(line)
        print(f"{len(todo)} points on {len(plan.slots)} slots ({plan.slots[0].name}, …), {folder}")
        return train.DONE
    with folders.claimed(folder, sweep):
        board = Board(len(todo), len(plan.slots))
        board.line(f"{len(todo)} trials on {len(plan.slots)} slots, {folder}")
        try:
            outcomes = local.run(iter(todo), plan.slots, folder, board)
        except KeyboardInterrupt:
            print("killed; the same command continues", file=sys.stderr)
            return KILLED
        except OSError as error:
            raise RunError(f"the sweep in {folder} cannot go on: {error}") from None
    return report(outcomes, len(todo), folder)


def report(outcomes: list[local.Outcome], total: int, folder) -> int:
    """Says how all ended, with the end of the log of each that failed; returns the exit code."""
    failed = [outcome for outcome in outcomes if outcome.state == local.FAILED]
    for outcome in failed:
        print(f"\n{outcome.trial.name} failed, {local.said(outcome.code)}:", file=sys.stderr)
        for line in outcome.log:
            print(f"  {line}", file=sys.stderr)
        print(f"  (all of it: {outcome.trial.log})", file=sys.stderr)
    done = sum(outcome.state == local.DONE for outcome in outcomes)
    left = total - done - len(failed)
    text = f"{done} of {total} trials done"
    text += f", {len(failed)} failed" if failed else ""
    text += f", {left} not finished; the same command continues" if left else ""
    print(f"{text}, in {folder}")
    if left:
        return train.STOPPED
    return FAILED if failed else train.DONE
