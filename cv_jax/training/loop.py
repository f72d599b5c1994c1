"""The training loop.

All random numbers are functions of seed, step and position in the global batch. A killed run
restarts from its newest sound checkpoint and repeats the steps after it with the same result.
"""

import signal
import sys
import time
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

from cv_jax import signals
from cv_jax.data import digests
from cv_jax.devices import processes
from cv_jax.errors import ExitCode, printable
from cv_jax.evaluation.kinds import make_evaluator
from cv_jax.interop.pretrained import digest
from cv_jax.models import attention
from cv_jax.progress import Progress, clock
from cv_jax.run import lock
from cv_jax.run import workdir as records
from cv_jax.run.record import Record, is_due
from cv_jax.training import pictures, profiling, programs
from cv_jax.training.experiment import Experiment


def train(experiment: Experiment, workdir: Path, command: str) -> int:
    """Train a run to its end, or continue the run in `workdir`.

    Args:
      experiment: the parts of the run; see `experiment.build`.
      workdir: the run directory.
      command: the command that continues the run; printed at the end.

    Returns:
      An `ExitCode`: done, loss not finite, or stopped by a signal with everything saved.

    Raises:
      InputError: `workdir` belongs to another run.
      CheckpointError: a checkpoint could not be written, or none is sound.
    """

    # Loaded before anything is written.
    weights, loaded = _checked(experiment, workdir)
    traced = profiling.tracing(experiment.config, workdir)
    with lock.shared(workdir) as claim, signals.caught(recording=False) as stop, traced as trace:
        # Until the lock was taken, another process could start a run here or replace it.
        weights, loaded = _checked(experiment, workdir, weights)
        experiment = experiment.as_begun(workdir)
        record = experiment.record(
            workdir, utilisation=profiling.utilisation(experiment), guard=claim.check
        )
        return _train(experiment, record, command, weights, loaded, stop, trace)


def _checked(experiment: Experiment, workdir: Path, weights: Any = None) -> tuple[Any, str | None]:
    """Check that the run may start or continue, and load the initial weights if it needs them.

    Args:
      experiment: the parts of the run.
      workdir: the run directory.
      weights: the initial weights, if they are loaded.

    Returns:
      The initial weights and their digest; `(None, None)` if they are not needed.
    """

    def weights_are_needed():
        records.check(
            workdir, experiment.config, experiment.fingerprint, classes=experiment.classes
        )
        return records.needs_initial_weights(workdir, experiment.config)

    needed = processes.decided(weights_are_needed)
    if weights is None and needed:
        weights = experiment.pretrained()
    loaded = None if weights is None else digest(weights)
    processes.decided(lambda: records.check_initial_weights(workdir, loaded))
    return weights, loaded


def _train(
    experiment: Experiment,
    record: Record,
    command: str,
    weights: Any,
    loaded: str | None,
    stop: signals.Stop,
    trace: profiling.Trace,
) -> int:
    total_steps, workdir, started = experiment.total_steps, record.workdir, time.monotonic()

    # ---- State: restored or initialised
    restored = record.restore(experiment.abstract_state)
    state, start_step = restored or (experiment.init()(weights), 0)
    processes.require_same("config.init_from", {"sha256": loaded})
    if record.start(start_step, loaded):
        result = record.write_summary(*experiment.sizes, again=True)
        print(printable(f"finished already: {result}"))
        return ExitCode.DONE
    digests.keep(experiment.sources(), [workdir], jax.process_index())
    progress = Progress(total_steps, start_step, experiment.config.batch_size)
    record.open_writers(progress.line)
    _announce(experiment, workdir, start_step, progress, record.other_conditions)

    # ---- Steps
    evaluators = [(e, make_evaluator(experiment, e)) for e in experiment.evaluations]
    draw = pictures.make_draw(experiment, workdir, record.guard, progress.line)
    runs = programs.runs(experiment, start_step)
    agreement = processes.Agreement(start_step, lambda: stop.signal)
    step, pending, first = start_step, None, True
    while step < total_steps and not (agreement.signal and record.saved_step == step):
        made, (step, program, inputs) = step, next(runs)
        state, metrics = trace.run(made, step, program, state, *inputs)
        if first:
            first = False
            timing = profiling.first_step(metrics)
            stop.recording = True  # there was nothing to save before
            progress.line(record.first_step(step, timing))
        # Metrics are fetched one step late, so the devices compute this step meanwhile.
        if pending and not record.settle(*pending, progress.images_per_second()):
            return _not_finite(record, progress, *pending)
        pending = step, metrics
        progress.note = record.note
        progress.update(step)

        # ---- Evaluation, metric lines, checkpoint
        last = step == total_steps
        due = [(e, score) for e, score in evaluators if last or is_due(step, e.every)]
        overdue = agreement.reach(step, record.overdue())
        saves = record.save_is_due(step) or overdue or bool(agreement.signal)
        if not due and not saves:
            continue
        if not record.settle(*pending, progress.images_per_second()):
            return _not_finite(record, progress, *pending)
        pending = None
        found = {}
        for evaluation, score in due:
            found[evaluation.name] = score(state.eval_variables)
            scores = found[evaluation.name].metrics
            record.evaluated(step, evaluation.name, scores)
            progress.line(f"step {step}: {evaluation.name} {_in_words(scores)}")
        record.pictured(draw(step, state.eval_variables, found))
        # Only process 0 knows the best evaluation before a restart.
        if processes.agreed(saves or record.improved) and not record.save(step, state):
            return _not_finite(record, progress, step)

    # ---- End
    code = ExitCode.DONE if step == total_steps else ExitCode.STOPPED
    record.close(code)
    progress.close()
    if code == ExitCode.DONE:
        processes.decided(lambda: digests.compare(experiment.sources(), workdir))
        took, result = clock(time.monotonic() - started), record.write_summary(*experiment.sizes)
        text = f"done in {took}: {result}; evaluate it again with: {command} --evaluate"
        print(printable(text))
    elif processes.is_main():
        name = signal.Signals(agreement.signal).name
        _tell_stop(f"{name} at step {step} of {total_steps}", workdir, command)
    return code


def _tell_stop(event: str, workdir: Path, command: str) -> None:
    text = f"stopped by {event}, all saved in {workdir}; continue with: {command}"
    print(printable(text), file=sys.stderr)


def _announce(
    experiment: Experiment, workdir: Path, step: int, progress: Progress, conditions: str
) -> None:
    config, mesh = experiment.config, experiment.mesh
    progress.line(
        f"{config.model.name}, {experiment.parameters:,} parameters, on {config.data.name}: "
        f"step {step} of {experiment.total_steps}, {mesh.size} {jax.devices()[0].platform} "
        f"device(s){_attention(experiment.model)}, {workdir}"
    )
    progress.line(f"training on {experiment.train_images.place(experiment.resident)}")
    if conditions:
        progress.line(f"WARNING: {workdir} {conditions}")


def _attention(model: nn.Module) -> str:
    """Return ", NAME attention" if the config leaves the choice of its implementation open."""
    if getattr(model, "attention_implementation", "") != "auto":
        return ""
    if model.attention_weights:
        return ", xla attention"
    return f", {attention.chosen('auto', model.dtype, model.width // model.num_heads)} attention"


def _not_finite(
    record: Record, progress: Progress, step: int, metrics: dict[str, Any] | None = None
) -> int:
    """End a run after update `step`, or after the last one of a program that has stopped."""
    step = int((metrics or {}).get("step", step))
    record.close(ExitCode.NOT_FINITE)
    progress.close()
    if processes.is_main():
        message = f"the loss is not finite at step {step}; {record.last_good_checkpoint()}"
        print(f"error: {printable(message)}", file=sys.stderr)
    return ExitCode.NOT_FINITE


def _in_words(metrics: dict[str, float]) -> str:
    main = {name: metrics[name] for name in ("accuracy", "loss") if name in metrics} or metrics
    return ", ".join(
        f"{name} {value:.2%}" if name == "accuracy" else f"{name} {value:.4f}"
        for name, value in main.items()
    )
