"""The training loop, readable from top to bottom.

The order of writing is: step, evaluation, metric lines, checkpoint. A run that is killed anywhere
finds its newest sound checkpoint, takes the metric lines from there as well, and goes on; since
every draw is a function of (seed, step, position), it then does what it would have done anyway.
"""

import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import psutil

from cv_jax import config as configs
from cv_jax.devices import processes
from cv_jax.errors import InputError
from cv_jax.evaluation.metrics import quality
from cv_jax.evaluation.run import make_evaluator, record, table
from cv_jax.interop.pretrained import digest
from cv_jax.progress import Progress, clock
from cv_jax.run import json_files, provenance
from cv_jax.run import workdir as records
from cv_jax.run.checkpoint import Checkpoints, finished
from cv_jax.run.writers import open_writers
from cv_jax.training import profiling
from cv_jax.training.dry_run import sizes
from cv_jax.training.experiment import Experiment
from cv_jax.training.objective import metrics_of
from cv_jax.training.step import all_finite

DONE, NOT_FINITE, STOPPED = 0, 3, 75


def train(experiment: Experiment, workdir: Path, command: str) -> int:
    """Trains, or continues what is in `workdir`, to the end.

    Args:
      experiment: the parts; see `experiment.build`.
      workdir: the run directory.
      command: what the user would type to continue; shown at the end.

    Returns:
      The exit code: 0 done, 3 the loss is not finite, 75 stopped by a signal with all saved.

    Raises:
      InputError: `workdir` belongs to another run.
      CheckpointError: a checkpoint could not be written, or none is sound.
    """

    def goes_on():
        records.check(workdir, experiment.config, experiment.fingerprint)
        return bool(finished(workdir / "checkpoints"))

    # Read before anything is written; a run with a checkpoint does not need them any more.
    weights = None if processes.decided(goes_on) else experiment.pretrained()
    traced = profiling.tracing(experiment.config, workdir)
    with records.shared(workdir), signals_caught() as stop, traced as trace:
        return _loop(experiment, workdir, command, weights, stop, trace)


def _loop(
    experiment: Experiment,
    workdir: Path,
    command: str,
    weights,
    stop: "_Stop",
    trace: profiling.Trace,
) -> int:
    config, total_steps = experiment.config, experiment.total_steps
    started = time.monotonic()
    main = processes.is_main()  # of several processes, the one that reads and writes records

    # ---- State: restored, or made
    if main:
        records.repair(workdir)
    checkpoints = Checkpoints(
        workdir / "checkpoints", config.checkpoint.keep_last, config.checkpoint.keep_best
    )
    restored = checkpoints.restore(experiment.abstract_state())
    state, start_step = restored or (experiment.init()(weights), 0)
    loaded = None if restored or weights is None else digest(weights)
    processes.require_same("config.init_from", {"sha256": loaded})
    kept = checkpoints.lines(start_step) if main and restored else ""
    lines = json_files.Lines(workdir / "metrics.jsonl", kept) if main else None

    def begin():
        """Brings the records to this step; the summary, if all is done."""
        if start_step == total_steps and (workdir / "summary.json").exists():
            summary = summarise(config, lines.values(), total_steps, *sizes(experiment))
            json_files.restore_record(workdir / "summary.json", summary)
            return summary
        records.record_start(workdir, config, experiment.fingerprint, start_step, loaded)
        return None

    if summary := processes.decided(begin):
        print(f"finished already: {_result_line(summary, workdir)}")
        return DONE
    kept = lines.values() if main else []
    best = max((quality(line) for line in kept if line["split"] == "test"), default=-math.inf)

    # ---- Functions and durations
    train_step = experiment.train_step()
    utilisation = profiling.utilisation(experiment)
    evaluators = [(e, make_evaluator(experiment, e)) for e in experiment.evaluations]
    log_every = experiment.every("log.every")
    save_every = experiment.every("checkpoint.every")
    progress = Progress(total_steps, start_step, config.batch_size)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    progress.line(
        f"{config.model.name}, {parameters:,} parameters, on {config.data.name}: step {start_step} "
        f"of {total_steps}, {experiment.mesh.size} {jax.devices()[0].platform} device(s), {workdir}"
    )
    progress.line(f"training on {experiment.train_images.place(experiment.resident)}")

    writers = open_writers(config, workdir, kept, progress.line)

    def write_timing(line):
        if main:
            json_files.append_line(workdir / "timing.jsonl", line)

    def write(step, split, metrics):
        if main:
            line = {"step": step, "split": split, **metrics}
            lines.append(line)
            writers.write(line)

    def settle(step, metrics):
        """Fetches a step's metrics and writes its line if one is due; whether all is finite."""
        norms = metrics.pop("norms", None)
        metrics = jax.device_get(metrics)
        if not math.isfinite(metrics["loss"]):
            return False
        if is_due(step, log_every) or step == total_steps:
            means = metrics_of(metrics["sums"])
            rate = float(experiment.schedule(step - 1))
            write(step, "train", {**means, "learning_rate": rate})
            if norms is not None:
                write(step, "norms", {name: x.item() for name, x in jax.device_get(norms).items()})
            speed = {"step": step, "seconds": round(time.monotonic() - started, 3)}
            speed["images_per_second"] = round(progress.images_per_second(), 2)
            progress.note = f", loss {means['loss']:.4f}"
            if utilisation is not None:
                speed["utilisation"] = round(utilisation(speed["images_per_second"]), 4)
                progress.note += f", {speed['utilisation']:.1%} of the peak"
            write_timing(speed)
        return True

    def not_finite(step):
        checkpoints.close()
        writers.close(NOT_FINITE)
        saved = checkpoints.steps()
        good = f"the last good checkpoint is {saved[-1]}" if saved else "nothing was saved before"
        progress.close()
        if main:
            text = f"error: the loss is not finite at step {step}; {good} in {workdir}"
            print(text, file=sys.stderr)
        return NOT_FINITE

    # ---- The loop
    step, saved_step, saved_time, pending = start_step, start_step, time.monotonic(), None
    batches = experiment.train_batches(start_step)
    agreement = processes.Agreement(start_step, lambda: stop.signal)
    while step < total_steps and not (agreement.signal and saved_step == step):
        batch = next(batches)
        state, metrics = trace.step(step, train_step, state, batch)
        step += 1
        if step == start_step + 1:
            told = profiling.first_step(metrics)
            passed = round(time.monotonic() - started, 3)
            write_timing({"step": step, "seconds": passed, **told})
            progress.line(
                f"first step after {told['first_step_seconds']:.1f} s; compiling took "
                f"{told['compile_seconds']:.1f} s, {told['programs_loaded']} of {told['programs']} "
                "programs came from the cache"
            )
        # The step before this one has ended by now or soon will: fetching it keeps this one queued.
        if pending is not None and not settle(*pending):
            return not_finite(pending[0])
        pending = step, metrics
        progress.update(step)

        last = step == total_steps
        due = [(e, score) for e, score in evaluators if is_due(step, e.every) or last]
        seconds = config.checkpoint.every_seconds
        timed = seconds is not None and time.monotonic() - saved_time >= seconds
        timed = agreement.reach(step, timed)
        saves = is_due(step, save_every) or timed or last or bool(agreement.signal)
        if not due and not saves:
            continue

        # ---- Evaluation, metric lines, checkpoint
        if not settle(*pending):
            return not_finite(step)
        pending = None
        scores = {}
        for evaluation, score in due:
            found = score(state.eval_variables).metrics
            write(step, evaluation.name, found)
            progress.line(f"step {step}: {evaluation.name} {_reached(found)}")
            if evaluation is experiment.evaluations[0]:  # the one that tells which is best
                scores = found
                improved, best = quality(scores) > best, max(best, quality(scores))
                saves = saves or (improved and config.checkpoint.keep_best > 0)
        saves = processes.agreed(saves)  # process 0 knows what was best before
        if saves:
            # The loss tells of the parameters before this update: look at those after it, too.
            if not all_finite(state.params):
                return not_finite(step)
            checkpoints.save(step, state, scores, lines.text if main else "")
            saved_step, saved_time = step, time.monotonic()

    # ---- The end
    checkpoints.close()
    progress.close()
    writers.close(STOPPED if step < total_steps else DONE)
    if not main:
        return STOPPED if step < total_steps else DONE
    if step < total_steps:
        print(
            f"stopped by {signal.Signals(agreement.signal).name} at step {step} of {total_steps}, "
            f"all saved in {workdir}; continue with: {command}",
            file=sys.stderr,
        )
        return STOPPED
    lines.restore()
    summary = summarise(config, lines.values(), total_steps, *sizes(experiment))
    json_files.write_record(workdir / "summary.json", summary)
    print(
        f"done in {clock(time.monotonic() - started)}: {_result_line(summary, workdir)}; "
        f"score it again with: {command} --evaluate"
    )
    return DONE


def score(experiment: Experiment, workdir: Path) -> int:
    """Makes all evaluations of the newest sound checkpoint, writes and prints what they found.

    The file is `evaluation.json`; if evaluation fields or `eval.extra` differ from those that the
    run was started with, `evaluation-<digest of them>.json`.

    Raises:
      InputError: there is no checkpoint, or `workdir` belongs to another run.
    """
    checkpoints = Checkpoints(workdir / "checkpoints")

    def check():
        if not checkpoints.steps():
            raise InputError(f"--evaluate: there is no checkpoint in {workdir}; train first")
        records.check(workdir, experiment.config, experiment.fingerprint, evaluating=True)

    processes.decided(check)
    state, step = checkpoints.restore(experiment.abstract_state(), repair=False)
    found = {
        evaluation.name: make_evaluator(experiment, evaluation)(state.eval_variables)
        for evaluation in experiment.evaluations
    }
    if not processes.is_main():
        return DONE
    file = records.evaluation_file(workdir, experiment.config)
    about = _about(experiment.config, step)
    made = {e.name: record(e, found[e.name]) for e in experiment.evaluations}
    json_files.write_record(file, {**about, **provenance.environment(), "evaluations": made})

    print(table(found))
    scores, accuracy = found["test"].metrics, ""
    if "accuracy" in scores:
        accuracy = f"accuracy {scores['accuracy']:.2%} ({scores['correct']} of {scores['count']}), "
    print(f"step {step}: test {accuracy}loss {scores['loss']:.6f}, {file}")
    return DONE


class _Stop:
    """Which signal asked to stop; 0 if none has."""

    signal = 0


@contextlib.contextmanager
def signals_caught() -> Iterator[_Stop]:
    """SIGTERM and SIGINT ask the loop to stop after its step; a second SIGINT ends at once."""
    stop = _Stop()

    def handle(number, frame):
        if number == signal.SIGINT and stop.signal:
            for child in psutil.Process().children(recursive=True):
                child.kill()
            os._exit(128 + number)
        stop.signal = number
        text = "finishing this step and saving; Ctrl-C again ends at once\n"
        os.write(sys.stderr.fileno(), text.encode())

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def is_due(step: int, every: int) -> bool:
    """Whether something that happens at an interval, 0 if never, happens after this update."""
    return every > 0 and step % every == 0


def _reached(metrics: dict) -> str:
    accuracy = f"accuracy {metrics['accuracy']:.2%}" if "accuracy" in metrics else ""
    loss = f"loss {metrics['loss']:.4f}" if "loss" in metrics else ""
    return ", ".join(filter(None, (accuracy, loss)))


def _about(config, step: int) -> dict:
    return {
        "step": step,
        "model": config.model.name,
        "dataset": config.data.name,
        "seed": config.seed,
        "digest": configs.digest(config),
    }


def summarise(config, lines, step: int, parameters: int, multiply_adds: int) -> dict:
    """The last and the best metrics of a finished run; a function of its metric lines."""
    train_line = [line for line in lines if line["split"] == "train"][-1]
    tests = [line for line in lines if line["split"] == "test"]
    best = max(tests, key=lambda line: (quality(line), -line["step"]))
    kept = {"train": ("loss", "accuracy"), "test": ("loss", "accuracy", "correct", "count")}
    return {
        **_about(config, step),
        "parameters": parameters,
        "multiply_adds": multiply_adds,
        **{f"train_{name}": train_line[name] for name in kept["train"] if name in train_line},
        **{f"test_{name}": tests[-1][name] for name in kept["test"] if name in tests[-1]},
        **{f"best_test_{name}": best[name] for name in ("accuracy",) if name in best},
        "best_test_loss": best["loss"],
        "best_step": best["step"],
    }


def _result_line(summary: dict, workdir: Path) -> str:
    if "test_accuracy" in summary:
        reached = f"accuracy {summary['test_accuracy']:.2%} ({summary['test_correct']} of "
        reached += f"{summary['test_count']})"
    else:
        reached = f"loss {summary['test_loss']:.4f}"
    return f"test {reached} after {summary['step']} steps, in {workdir}"
