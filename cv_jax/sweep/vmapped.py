"""Trials that differ only in numbers, trained by one program: `--sweep --sweep_executor=vmap`.

One program, a `jax.vmap` over the trials, computes the step of all trials. The trials are sharded
over the devices; devices do not communicate. The program is merged from the programs of the trials
(see `unify`), so each trial has the result of its separate run, up to rounding. Each trial writes
its own run directory with the files of a separate run; the plain command, `--evaluate` and `report`
read it.

Host randomness depends on the seed of each trial. All trials save at the same steps; after a kill
they continue from their newest common checkpoint. A trial whose loss is not finite ends; the others
continue.
"""

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_collections

from cv_jax import config as configs
from cv_jax import signals
from cv_jax.data import digests, pipeline
from cv_jax.devices.prefetch import on_devices
from cv_jax.errors import ExitCode, InputError
from cv_jax.interop.pretrained import digest
from cv_jax.progress import Progress
from cv_jax.run import lock
from cv_jax.run import workdir as records
from cv_jax.run.record import Record, is_due
from cv_jax.sweep import folder as folders
from cv_jax.sweep.merge_programs import Different
from cv_jax.sweep.stacked import Batches, Stacked
from cv_jax.training import experiment, profiling
from cv_jax.training.experiment import Experiment

# Result fields that the loop, the loader or the compiler reads; all trials need the same value.
SHARED = (
    "total_",
    "batch_size",
    "steps_per_program",
    "image_size",
    "init_from",
    "xla_flags",
    "model.name",
    "data.",
)
SHARED += ("distill.teacher",)
OWN = ("data.mean", "data.std")  # fields that match `SHARED` but may differ


def check(runs: dict[str, ml_collections.ConfigDict]) -> None:
    """Check that the configs of trials allow one program.

    Args:
      runs: name → config of each trial.

    Raises:
      InputError: a shared field differs between trials, or a field has an unsupported value.
    """
    (name, first), *others = runs.items()
    values = configs.flatten(first)
    for other, config in others:
        flat = configs.flatten(config)
        for field, value in values.items():
            theirs = flat.get(field)
            shared = configs.kind(field) != "result" or field.startswith(SHARED)
            if theirs != value and shared and field not in OWN:
                raise InputError(
                    f"--sweep_executor=vmap: trials must share config.{field}, which is {value!r} "
                    f"in {name} and {theirs!r} in {other}"
                )
    if first.dropout_rng != "threefry2x32":
        raise InputError(
            f"--sweep_executor=vmap: config.dropout_rng={first.dropout_rng} draws other numbers "
            "under jax.vmap; set config.dropout_rng=threefry2x32"
        )
    if first.xla_flags:
        raise InputError(
            "--sweep_executor=vmap: config.xla_flags is not supported; set XLA_FLAGS in the "
            "environment"
        )
    if first.steps_per_program > 1:
        raise InputError("--sweep_executor=vmap: config.steps_per_program is not supported; set 1")
    if first.eval.pictures:
        raise InputError("--sweep_executor=vmap: config.eval.pictures is not supported; set 0")
    if "wandb" in first.log.writers:
        raise InputError(
            "--sweep_executor=vmap: config.log.writers: wandb supports one run per process"
        )


def run(trials: dict[Path, ml_collections.ConfigDict], say: Callable[[str], None]) -> list[int]:
    """Train trials in one program, or continue them; finished trials are skipped.

    Args:
      trials: run directory → config of each trial.
      say: prints a message for the user.

    Returns:
      The `ExitCode` of each trial.

    Raises:
      InputError: the trials cannot share one program, or a directory belongs to another run.
      CheckpointError: a checkpoint could not be written, or a trial has no sound one.
    """
    check({path.name: config for path, config in trials.items()})
    experiments = _build(trials)
    with contextlib.ExitStack() as stack:
        lanes = []
        for (path, config), parts in zip(trials.items(), experiments, strict=True):
            resolved = configs.flatten(parts.config)
            config = configs.with_normalisation(
                config, {name: resolved[name] for name in configs.NORMALISATION}
            )
            check_run = functools.partial(
                records.check, path, config, parts.fingerprint, classes=parts.classes
            )
            check_run()
            claim = stack.enter_context(lock.claimed(path))
            check_run()  # again: until now another process could start a run here
            lanes.append(Lane(path, parts, config, claim.check))
        todo = _with_equal_options([lane for lane in lanes if not _finished(lane)])
        say(f"{len(todo)} of {len(lanes)} trials to train in one program")
        if todo:
            stop = stack.enter_context(signals.caught(recording=False))
            _train(todo, _initial_weights(todo), stop)
    return [ExitCode.DONE if lane.record is None else lane.record.code for lane in lanes]


@dataclasses.dataclass
class Lane:
    """One trial of the program.

    Attributes:
      workdir: run directory.
      parts: experiment on one device.
      config: config with the devices of the program.
      guard: see `run.record.Record`.
      record: record of the run; `None` for a trial that has finished before.
    """

    workdir: Path
    parts: Experiment
    config: ml_collections.ConfigDict
    guard: Callable[[], None]
    record: Record | None = None

    def open(self, utilisation: Callable[[float], float] | None, trials: int) -> None:
        """Open the record of one of `trials` trials; see `run.record.Record`."""
        own = dataclasses.replace(self.parts, config=self.config)
        # Two checkpoints: after a kill between the saves of a step, all lanes have the older one.
        self.record = own.record(
            self.workdir, utilisation=utilisation, keep_last=2, trials=trials, guard=self.guard
        )


def _with_equal_options(lanes: list[Lane]) -> list[Lane]:
    """Give all lanes the compiler options of the first, which one program can have."""
    if lanes:
        options = lanes[0].parts.as_begun(lanes[0].workdir).compiler_options
    for lane in lanes:
        lane.parts = dataclasses.replace(lane.parts, compiler_options=options)
    return lanes


def _finished(lane: Lane) -> bool:
    summary = folders.summary_of(lane.workdir)
    return summary is not None and summary["step"] == lane.parts.total_steps


def _initial_weights(lanes: list[Lane]) -> Any:
    """Return the variables of `config.init_from`; `None` if no trial needs them."""
    if not any(records.needs_initial_weights(lane.workdir, lane.config) for lane in lanes):
        return None
    weights = lanes[0].parts.pretrained()
    for lane in lanes:
        records.check_initial_weights(lane.workdir, digest(weights))
    return weights


def _train(lanes: list[Lane], weights: Any, stop: signals.Stop) -> None:
    """Train all lanes from their newest common checkpoint; `Record.code` has the exit codes."""
    parts, config = [lane.parts for lane in lanes], lanes[0].config
    first, total_steps = parts[0], parts[0].total_steps
    stacked = Stacked(parts, config.mesh.devices or len(jax.devices()))
    devices = stacked.place.mesh.size
    for lane in lanes:
        lane.open(profiling.utilisation(first, len(lanes) / devices), len(lanes))

    # ---- Merged programs; state: restored or initialised
    states, start_step = _restore(lanes)
    source = Batches(parts, stacked.count)
    try:
        train_step = stacked.train_step(source.example())
        state = stacked.init(weights) if states is None else stacked.stack(states)
    except Different as error:
        raise InputError(_reason(lanes, str(error))) from None
    del states
    progress = Progress(total_steps, start_step, config.batch_size * len(lanes))
    for lane in lanes:
        lane.record.start(start_step, None if weights is None else digest(weights))
        lane.record.open_writers(progress.line)
    digests.keep(first.sources(), [lane.workdir for lane in lanes])
    progress.line(
        f"{config.model.name}, {first.sizes.parameters:,} parameters, {len(lanes)} trials "
        f"on {config.data.name}: step {start_step} of {total_steps}, {devices} "
        f"{jax.devices()[0].platform} device(s)"
    )

    changed = {lane.record.other_conditions: lane.workdir for lane in reversed(lanes)}
    for text, workdir in reversed(changed.items()):
        if text:
            progress.line(f"WARNING: {workdir} {text}")

    # ---- Steps
    evaluators = [stacked.evaluators(i) for i in range(len(lanes))]
    step, saved_step, pending = start_step, start_step, None
    batches = _batches(source, start_step, stacked, config)
    with contextlib.closing(batches), profiling.tracing(config, lanes[0].workdir) as trace:
        while step < total_steps and _running(lanes) and not (stop.signal and saved_step == step):
            state, metrics = trace.run(step, step + 1, train_step, state, next(batches))
            step += 1
            if step == start_step + 1:
                timing = profiling.first_step(metrics)
                stop.recording = True
                progress.line([record.first_step(step, timing) for _, record in _running(lanes)][0])
            if pending:
                _settle(lanes, *pending, progress)
            pending = step, metrics
            progress.update(step)

            # ---- Evaluation, metric lines, checkpoints: trial by trial
            last = step == total_steps
            due = [k for k, e in enumerate(first.evaluations) if last or is_due(step, e.every)]
            shared = lanes[0].record
            saves = shared.save_is_due(step) or shared.overdue() or bool(stop.signal)
            if not due and not saves:
                continue
            _settle(lanes, *pending, progress)
            pending = None
            for i, record in _running(lanes) if due else ():
                variables = stacked.take(state.eval_variables, i)
                for evaluation, score in (evaluators[i][k] for k in due):
                    record.evaluated(step, evaluation.name, score(variables).metrics)
            if saves or any(record.improved for _, record in _running(lanes)):
                for i, record in _running(lanes):
                    finite = record.save(step, stacked.take(state, i))
                    _end_unless(finite, record, step, progress)
                saved_step = step

    # ---- End
    progress.close()
    for _, record in _running(lanes):
        record.close(ExitCode.DONE if step == total_steps else ExitCode.STOPPED)
        if record.code == ExitCode.DONE:
            record.write_summary(*first.sizes)


def _running(lanes: list[Lane]) -> list[tuple[int, Record]]:
    return [(i, lane.record) for i, lane in enumerate(lanes) if lane.record.code is None]


def _settle(lanes: list[Lane], step: int, metrics: Any, progress: Progress) -> None:
    """Write the lines of a step; end the trials whose loss is not finite."""
    metrics, speed = jax.device_get(metrics), progress.images_per_second() / len(lanes)
    for i, record in _running(lanes):
        own = jax.tree.map(lambda x, i=i: x[i], metrics)
        _end_unless(record.settle(step, own, speed), record, step, progress)


def _end_unless(finite: bool, record: Record, step: int, progress: Progress) -> None:
    if not finite:
        record.close(ExitCode.NOT_FINITE)
        progress.line(f"{record.workdir.name}: the loss is not finite at step {step}")


def _batches(source: Batches, start_step: int, stacked: Stacked, config: ml_collections.ConfigDict):
    data = config.data
    loaded = pipeline.iterate(
        source, start_step, workers=data.workers, threads=data.threads, prefetch=data.prefetch
    )
    return on_devices(loaded, lambda batch: jax.device_put(batch, stacked.place))


def _restore(lanes: list[Lane]) -> tuple[list[Any] | None, int]:
    """Return the states of the newest common checkpoint, and its step; `(None, 0)` without one."""
    newest = None
    while True:
        found = [lane.record.restore(lane.parts.abstract_state, newest=newest) for lane in lanes]
        if None in found:
            return None, 0
        steps = [step for _, step in found]
        if len(set(steps)) == 1:
            return [state for state, _ in found], steps[0]
        newest = min(steps)


def _reason(lanes: list[Lane], where: str) -> str:
    """Return an error line with the field that makes the programs of the trials different."""
    first = lanes[0]
    flat = configs.flatten(first.config)
    tried = set()
    for lane in lanes[1:]:
        theirs = configs.flatten(lane.config)
        for field in flat:
            value = theirs.get(field)
            if value == flat[field] or (field, repr(value)) in tried:
                continue
            tried.add((field, repr(value)))
            config = copy.deepcopy(first.parts.config)
            configs.set_value(config, field, value)
            try:
                parts = [first.parts, experiment.build(config)]
                Stacked(parts, 1).train_step(Batches(parts, 2).example())
            except (Different, InputError) as error:
                return (
                    f"--sweep_executor=vmap: config.{field}={flat[field]!r} in "
                    f"{first.workdir.name} and {value!r} in {lane.workdir.name} make different "
                    f"programs ({' '.join(str(error).split())[:200]})"
                )
    return f"--sweep_executor=vmap: the trials' programs differ ({where[:200]})"


def _build(trials: dict[Path, ml_collections.ConfigDict]) -> list[Experiment]:
    """Build the experiment of every trial on one device; read the data only once."""
    experiments: list[Experiment] = []
    for path, config in trials.items():
        config = _on_one_device(config, keep_cache=not experiments)
        parts = experiment.build(config, workdir=path)
        if experiments:
            first = experiments[0]
            evaluations = tuple(
                own._replace(images=shared.images)  # a probe's training set depends on the seed
                for own, shared in zip(parts.evaluations, first.evaluations, strict=True)
            )
            parts = dataclasses.replace(
                parts,
                train_images=first.train_images,
                evaluations=evaluations,
                teacher=first.teacher,
            )
        experiments.append(parts)
    return experiments


def _on_one_device(
    config: ml_collections.ConfigDict, keep_cache: bool
) -> ml_collections.ConfigDict:
    """Return the config with one device, and without a data cache unless `keep_cache`."""
    config = copy.deepcopy(config)
    config.mesh.devices = 1
    if not keep_cache and config.data.cache in ("auto", "memory", "device"):
        config.data.cache = "none"
    return config
