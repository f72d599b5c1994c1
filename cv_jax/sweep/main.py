"""`launch.py --sweep` and `--search`: from flags to trials and an exit code."""

import functools
import itertools
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from cv_jax import config as configs
from cv_jax.devices import compile_cache, start
from cv_jax.errors import ExitCode, InputError, RunError, printable
from cv_jax.evaluation.metrics import implausible, quality
from cv_jax.run import identity
from cv_jax.run.lock import Claim
from cv_jax.sweep import folder as folders
from cv_jax.sweep import local, points, search, slots, slurm, trials, vmapped
from cv_jax.sweep.display import Board
from cv_jax.sweep.folder import Trial
from cv_jax.sweep.points import Sweep
from cv_jax.sweep.search import Search


def main(
    flags: Namespace,
    overrides: dict[str, str],
    program: list[str],
    check_flags: Callable[[str], Any],
) -> int:
    """Run or list a sweep or a search.

    Args:
      flags: `config`, `sweep_dir`, `slots`, `sweep_executor`, `slurm.…`, `dry_run`, and `sweep`,
        `seeds` or `search`, `trials`.
      overrides: overrides for all points.
      program: words of a plain command before its flags.
      check_flags: raises an `InputError` for unknown XLA flags.

    Returns:
      0 if all trials are done or pruned, or are in Slurm's queue; 1 if a trial failed; 75 if a
      signal stopped the sweep; 130 if a second Ctrl-C killed the trials.

    Raises:
      InputError: the sweep or a point is invalid; no trial has started.
      RunError: a file of the sweep cannot be written.
    """
    if flags.search is None:
        sweep = points.read(flags.config, overrides, flags.sweep, flags.seeds)
    else:
        count = 20 if flags.trials is None else flags.trials
        if not 1 <= count <= points.MOST:
            raise InputError(f"--trials={count} must be at least 1 and at most {points.MOST}")
        sweep, ranges = search.read(flags.config, overrides, flags.search)
    folder = flags.sweep_dir or folders.default_folder(sweep, flags.sweep or "")
    executor, place = flags.sweep_executor or "slots", "one program"
    if executor == "slurm":
        options, place = slurm.options(flags, folder), "Slurm"
        _simulate_devices(slurm.devices(options))
    elif executor == "slots":
        plan = slots.plan(flags.slots)
        place = f"{len(plan.slots)} slots ({plan.slots[0].name}, …)"
        if plan.platform != "cpu":
            _simulate_devices(plan.devices)

    # ---- Validation of all points that are known before the first trial
    start.check_devices()
    prepare = functools.partial(
        trials.prepare, folder=folder, program=program, check_flags=check_flags, kept={}
    )
    if flags.search is not None and (folder / "sweep.json").is_file():
        sweep = sweep._replace(points=folders.read(folder).points)
    folders.check(folder, sweep)
    todo, total, draws = prepare(sweep), len(sweep.points), None
    if flags.search is not None:
        draws, total = Search(ranges, folder, prepare), max(total, count)
        # Random points do not depend on results. Optuna's first point shows that ranges are valid.
        while len(todo) < (total if flags.search == "random" else 1):
            sweep, trial = draws.next_point(sweep, [])
            todo.append(trial)
    if flags.dry_run:
        print("\n".join(trials.listing(sweep, folder)))
        print(printable(f"{total} trials on {place}, {folder}"))
        return ExitCode.DONE

    # ---- Trials
    if executor == "vmap":
        return _run_together(sweep, todo, folder)
    try:
        with folders.claimed(folder, sweep) as claim:
            if executor == "slots":
                return _run_on_slots(sweep, todo, total, plan.slots, claim, draws)
            slurm.run(todo, options, folder)
            return ExitCode.DONE
    except OSError as error:
        raise RunError(f"the sweep in {folder} cannot continue: {error}") from None


def _simulate_devices(count: int) -> None:
    """Validate points on simulated devices; the trials use the real ones."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)


def _run_on_slots(
    sweep: Sweep,
    todo: list[Trial],
    total: int,
    shares: list[slots.Slot],
    claim: Claim,
    draws: Search | None,
) -> int:
    """Run each trial in its own process, and further trials of a search; return the exit code."""
    folder, options = claim.path, {"guard": claim.check}
    board, source = Board(total, len(shares)), iter(todo)
    board.line(f"{total} trials on {len(shares)} slots, {folder}")
    if draws is not None:
        source = itertools.chain(todo, draws.proposals(sweep, total, board.line))
        options["prune"] = search.Pruner(folder)
    outcomes = local.run(source, shares, folder, board, **options)
    code = report(outcomes, total, folder)
    if draws is not None:
        _report_best(outcomes)
    return code


def _run_together(sweep: Sweep, todo: list[Trial], folder: Path) -> int:
    """Run the trials in one program in this process; return the exit code."""

    def say(text):
        print(printable(text), file=sys.stderr, flush=True)

    loaded = [configs.load(sweep.reference(p), sweep.texts(p)) for p in sweep.points]
    compile_cache.use(loaded[0].compile_cache)
    runs = {trial.workdir: config for trial, config in zip(todo, loaded, strict=True)}
    vmapped.check({trial.name: runs[trial.workdir] for trial in todo})
    with folders.claimed(folder, sweep):
        codes = vmapped.run(runs, say)
    states = {ExitCode.DONE: local.DONE, ExitCode.STOPPED: local.STOPPED}
    outcomes = [
        local.Outcome(trial, states.get(code, local.FAILED), code)
        for trial, code in zip(todo, codes, strict=True)
    ]
    return report(outcomes, len(todo), folder)


def report(outcomes: list[local.Outcome], total: int, folder: Path) -> int:
    """Print the number of trials in each state, and the logs of failures; return the exit code."""
    failed = [outcome for outcome in outcomes if outcome.state == local.FAILED]
    for outcome in failed:
        head = f"{outcome.trial.name} failed, {local.exit_text(outcome.code)}:"
        lines = [head, *(f"  {line}" for line in outcome.log), f"  (full log: {outcome.trial.log})"]
        print("", *map(printable, lines), sep="\n", file=sys.stderr)
    done, pruned = (sum(o.state == state for o in outcomes) for state in (local.DONE, local.PRUNED))
    left = total - done - pruned - len(failed)
    text = f"{done} of {total} trials done"
    text += f", {pruned} pruned" if pruned else ""
    text += f", {len(failed)} failed" if failed else ""
    text += f", {left} not finished; the same command continues" if left else ""
    print(printable(f"{text}, in {folder}"))
    runs = (folders.starts_of(o.trial.workdir) for o in outcomes if o.state == local.DONE)
    mixed = identity.mixed_conditions(runs)
    if mixed:
        print(printable(f"WARNING: trials ran in other conditions: {mixed}"), file=sys.stderr)
    if left:
        return ExitCode.STOPPED
    return ExitCode.FAILED if failed else ExitCode.DONE


def _report_best(outcomes: list[local.Outcome]) -> None:
    ended = []
    for trial in (o.trial for o in outcomes if o.state == local.DONE):
        values = search.final(trial.workdir)
        reason = implausible(values)
        if reason is None:
            ended.append((values, trial))
        else:
            print(printable(f"WARNING: {trial.name} is not counted: {reason}"), file=sys.stderr)
    if ended:
        values, trial = max(ended, key=lambda pair: quality(pair[0]))
        shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
        print(printable(f"best: {trial.name}, {shown}, in {trial.workdir}"))
