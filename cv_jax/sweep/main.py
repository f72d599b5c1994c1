"""`launch.py --sweep` and `--search`: from the flags to the trials and back to an exit code."""

import functools
import itertools
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from cv_jax import config as configs
from cv_jax.devices import compile_cache
from cv_jax.errors import InputError, RunError
from cv_jax.evaluation.metrics import quality
from cv_jax.sweep import folder as folders
from cv_jax.sweep import local, points, search, slots, slurm, trials, vmapped
from cv_jax.sweep.display import Board
from cv_jax.training import loop

FAILED, KILLED = 1, 130


def main(
    flags: Namespace,
    overrides: dict[str, str],
    program: list[str],
    check_flags: Callable[[str], Any],
) -> int:
    """Runs the sweep or search, or lists it.

    Args:
      flags: `config`, `sweep_dir`, `slots`, `sweep_executor`, `slurm.…`, `dry_run`, and `sweep`,
        `seeds` or `search`, `trials`.
      overrides: for all points.
      program: the words before the flags of a plain command.
      check_flags: raises an `InputError` unless XLA knows these flags.

    Returns:
      0 if all trials are done or given up, or are with Slurm, 1 if one failed, 75 if a signal
      stopped them, 130 after a second Ctrl-C, which killed them.

    Raises:
      InputError: a mistake in the sweep or in any point, before the first trial.
      RunError: the disk is full, or the like.
    """
    searching = flags.search is not None
    if searching:
        count = 20 if flags.trials is None else flags.trials
        if count < 1:
            raise InputError(f"--trials={count} must be at least 1")
        sweep, ranges = search.read(flags.config, overrides, flags.search)
    else:
        sweep = points.read(flags.config, overrides, flags.sweep, flags.seeds)
    folder = flags.sweep_dir or folders.default_folder(sweep, flags.sweep or "")
    together, cluster = (flags.sweep_executor == name for name in ("vmap", "slurm"))
    if cluster:
        options = slurm.options(flags)
        _simulate(slurm.devices(options))
    else:
        plan = slots.plan(flags.slots)
        if plan.platform != "cpu" and not together:
            _simulate(plan.devices)
    prepare = functools.partial(
        trials.prepare, folder=folder, program=program, check_flags=check_flags
    )

    # ---- Every point that is known beforehand is tried on paper
    if searching and (folder / "sweep.json").is_file():
        sweep = sweep._replace(points=folders.read(folder).points)
    folders.check(folder, sweep)
    todo, total = prepare(sweep), len(sweep.points)
    if searching:
        total = max(total, count)
        # Of points at random all are known; of Optuna's, the first shows whether any can be.
        while len(todo) < (total if flags.search == "random" else 1):
            sweep, trial = search.next_point(sweep, ranges, [], prepare)
            todo.append(trial)
    if flags.dry_run:
        for line in trials.listing(sweep, folder):
            print(line)
        slots_text = "" if cluster else f"{len(plan.slots)} slots ({plan.slots[0].name}, …)"
        print(f"{total} trials on {slots_text or 'Slurm'}, {folder}")
        return loop.DONE

    # ---- The trials
    if together:
        return _together(sweep, todo, folder)
    if cluster:
        try:
            with folders.claimed(folder, sweep):
                slurm.run(todo, options, folder)
        except OSError as error:
            raise RunError(f"the sweep in {folder} cannot go on: {error}") from None
        return loop.DONE
    with folders.claimed(folder, sweep):
        board, source, rule = Board(total, len(plan.slots)), iter(todo), {}
        board.line(f"{total} trials on {len(plan.slots)} slots, {folder}")
        if searching:
            rule = {"hopeless": search.hopeless(folder)}
            more = search.proposals(sweep, ranges, total, folder, prepare, board.line)
            source = itertools.chain(todo, more)
        try:
            outcomes = local.run(source, plan.slots, folder, board, **rule)
        except KeyboardInterrupt:
            print("killed; the same command continues", file=sys.stderr)
            return KILLED
        except OSError as error:
            raise RunError(f"the sweep in {folder} cannot go on: {error}") from None
    code = report(outcomes, total, folder)
    if searching:
        _tell_best(outcomes)
    return code


def _simulate(devices: int) -> None:
    """Points are tried on as many simulated devices: the real ones are left to the trials."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)


def _together(sweep: points.Sweep, todo: list[local.Trial], folder: Path) -> int:
    """Runs the trials in this process, in one program; returns the exit code."""

    def say(text):
        print(text, file=sys.stderr, flush=True)

    loaded = [configs.load(sweep.reference(p), sweep.texts(p)) for p in sweep.points]
    compile_cache.use(loaded[0].compile_cache)
    runs = {trial.workdir: config for trial, config in zip(todo, loaded, strict=True)}
    vmapped.check({trial.name: runs[trial.workdir] for trial in todo})
    with folders.claimed(folder, sweep):
        codes = vmapped.run(runs, say)
    states = {loop.DONE: local.DONE, loop.STOPPED: local.STOPPED}
    outcomes = [
        local.Outcome(trial, states.get(code, local.FAILED), code)
        for trial, code in zip(todo, codes, strict=True)
    ]
    return report(outcomes, len(todo), folder)


def report(outcomes: list[local.Outcome], total: int, folder: Path) -> int:
    """Says how all ended, with the end of the log of each that failed; returns the exit code."""
    failed = [outcome for outcome in outcomes if outcome.state == local.FAILED]
    for outcome in failed:
        print(f"\n{outcome.trial.name} failed, {local.said(outcome.code)}:", file=sys.stderr)
        for line in outcome.log:
            print(f"  {line}", file=sys.stderr)
        print(f"  (all of it: {outcome.trial.log})", file=sys.stderr)
    done, pruned = (sum(o.state == state for o in outcomes) for state in (local.DONE, local.PRUNED))
    left = total - done - pruned - len(failed)
    text = f"{done} of {total} trials done"
    text += f", {pruned} given up" if pruned else ""
    text += f", {len(failed)} failed" if failed else ""
    text += f", {left} not finished; the same command continues" if left else ""
    print(f"{text}, in {folder}")
    if left:
        return loop.STOPPED
    return FAILED if failed else loop.DONE


def _tell_best(outcomes: list[local.Outcome]) -> None:
    reached = [(search.final(o.trial.workdir), o.trial) for o in outcomes if o.state == local.DONE]
    if reached:
        values, trial = max(reached, key=lambda pair: quality(pair[0]))
        shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
        print(f"best: {trial.name}, {shown}, in {trial.workdir}")
