"""Trials that differ in numbers only, trained together: `launch.py --sweep --sweep_executor=vmap`.

One program makes the step of all trials, mapped over them; the trials are split over the devices,
of which each has its own and none waits for another. It is laid together from the trials' own
programs (see `unify`), so that each trial computes what its separate run would, to rounding, and
leaves what that would leave: config, records, metrics, checkpoints and summary in a run directory
of its own. The plain command, `--evaluate` and `report` take them as they are.

What is drawn on the host follows each trial's own seed. Trials are saved at the same steps; after a
kill they go on from the last step that all of them have saved. One whose loss is not finite is left
behind, and the others go on.
"""

import contextlib
import copy
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_collections

from cv_jax import config as configs
from cv_jax.data import pipeline
from cv_jax.errors import InputError
from cv_jax.evaluation.metrics import quality
from cv_jax.interop.pretrained import digest
from cv_jax.progress import Progress
from cv_jax.run import json_files
from cv_jax.run import workdir as records
from cv_jax.sweep.lane import Lane
from cv_jax.sweep.merge_programs import Different
from cv_jax.sweep.stacked import Batches, Together
from cv_jax.training import experiment, loop, profiling
from cv_jax.training.dry_run import sizes as sizes_of
from cv_jax.training.experiment import Experiment
from cv_jax.training.loop import is_due
from cv_jax.training.objective import metrics_of
from cv_jax.training.step import all_finite

# Result fields that the loop, the loader or the compiler read: one value for all trials.
SHARED = ("total_", "batch_size", "image_size", "init_from", "xla_flags", "model.name", "data.")
SHARED += ("distill.teacher",)
OWN = ("data.mean", "data.std")


def check(runs: dict[str, ml_collections.ConfigDict]) -> None:
    """Refuses trials that cannot be steps of one program, as far as their configs tell.

    Args:
      runs: name → config of each trial.

    Raises:
      InputError: a field that they must share differs, or one cannot be had in this way.
    """
    (name, first), *others = runs.items()
    for other, config in others:
        for field, value in configs.flatten(first).items():
            theirs = configs.flatten(config).get(field)
            shared = configs.kind(field) != "result" or field.startswith(SHARED)
            if theirs != value and shared and field not in OWN:
                raise InputError(
                    f"--sweep_executor=vmap: trials must share config.{field}, which is {value!r} "
                    f"in {name} and {theirs!r} in {other}"
                )
    if first.dropout_rng != "threefry2x32":
        raise InputError(
            f"--sweep_executor=vmap: config.dropout_rng={first.dropout_rng} draws other numbers "
            "where trials are mapped; threefry2x32 does not"
        )
    if first.xla_flags:
        raise InputError(
            "--sweep_executor=vmap: config.xla_flags: give them to this process, in XLA_FLAGS"
        )
    if "wandb" in first.log.writers:
        raise InputError(
            "--sweep_executor=vmap: config.log.writers: wandb takes one run in a process"
        )


def run(trials: dict[Path, ml_collections.ConfigDict], say: Callable[[str], None]) -> list[int]:
    """Trains trials together, or continues them; those that are finished are left alone.

    Args:
      trials: run directory → config of each.
      say: takes a message for the user.

    Returns:
      Their exit codes: 0 done, 3 the loss is not finite, 75 stopped by a signal with all saved.

    Raises:
      InputError: they cannot be steps of one program, or a directory belongs to another run.
      CheckpointError: a checkpoint could not be written, or none of a trial is sound.
    """
    check({path.name: config for path, config in trials.items()})
    everything = _build(list(trials.values()))
    with contextlib.ExitStack() as stack:
        lanes = []
        for (path, config), parts in zip(trials.items(), everything, strict=True):
            records.check(path, config, parts.fingerprint)
            stack.enter_context(records.claimed(path))
            lanes.append(Lane(path, config, parts))
        todo = [lane for lane in lanes if not lane.finished()]
        say(f"{len(todo)} of {len(lanes)} trials to train, together")
        if todo:
            stop = stack.enter_context(loop.signals_caught())
            _loop(todo, say, stop)
    return [lane.code for lane in lanes]


def _loop(lanes: list[Lane], say: Callable[[str], None], stop: Any) -> None:
    """Trains lanes from their last common checkpoint; each ends with its code."""
    parts = [lane.parts for lane in lanes]
    first, config, total_steps = parts[0], lanes[0].config, parts[0].total_steps
    devices = config.mesh.devices or len(jax.devices())
    started, together = time.monotonic(), Together(parts, devices)

    # ---- The common programs; the state: restored, or made
    states, start_step = _restore(lanes)
    weights = first.pretrained() if states is None else None
    loaded = None if weights is None else digest(weights)
    source = Batches(parts, together.count)
    try:
        train_step = together.train_step(source.example())
        state = together.init(weights) if states is None else together.stack(states)
    except Different as error:
        raise InputError(_reason(lanes, str(error))) from None
    del states

    # ---- Functions and durations
    for lane in lanes:
        lane.start(start_step, loaded, say)
    evaluators = [together.evaluators(i) for i in range(len(lanes))]
    log_every, save_every = first.every("log.every"), first.every("checkpoint.every")
    progress = Progress(total_steps, start_step, config.batch_size * len(lanes))
    sizes = sizes_of(first)
    progress.line(
        f"{config.model.name}, {sizes[0]:,} parameters, {len(lanes)} times on {config.data.name}:"
        f" step {start_step} of {total_steps}, {together.place.mesh.size} "
        f"{jax.devices()[0].platform} device(s)"
    )

    def running():
        return [(i, lane) for i, lane in enumerate(lanes) if lane.code is None]

    def fail(lane, step):
        lane.close(loop.NOT_FINITE)
        progress.line(f"{lane.workdir.name}: the loss is not finite at step {step}")

    def settle(step, metrics):
        """Fetches a step's metrics and writes the lines that are due."""
        metrics = jax.device_get(metrics)
        for i, lane in running():
            if not math.isfinite(metrics["loss"][i]):
                fail(lane, step)
        if not (is_due(step, log_every) or step == total_steps):
            return
        speed = round(progress.images_per_second() / len(lanes), 2)
        for i, lane in running():
            own = jax.tree.map(lambda x, i=i: x[i], metrics)
            rate = float(lane.parts.schedule(step - 1))
            lane.write(step, "train", {**metrics_of(own["sums"]), "learning_rate": rate})
            if "norms" in own:
                lane.write(step, "norms", {name: x.item() for name, x in own["norms"].items()})
            passed = round(time.monotonic() - started, 3)
            line = {"step": step, "seconds": passed, "images_per_second": speed}
            json_files.append_line(lane.workdir / "timing.jsonl", line)

    # ---- The loop
    data = config.data
    loaded_ahead = pipeline.iterate(
        source, start_step, workers=data.workers, threads=data.threads, prefetch=data.prefetch
    )
    step, saved_step, saved_time, pending = start_step, start_step, time.monotonic(), None
    ahead = _placed(loaded_ahead, together.place)
    with contextlib.closing(ahead), profiling.tracing(config, lanes[0].workdir) as trace:
        while step < total_steps and running() and not (stop.signal and saved_step == step):
            state, metrics = trace.step(step, train_step, state, next(ahead))
            step += 1
            if step == start_step + 1:
                jax.block_until_ready(metrics)
                progress.line(f"first step after {time.monotonic() - started:.1f} s")
            if pending is not None:
                settle(*pending)
            pending = step, metrics
            progress.update(step)

            last = step == total_steps
            seconds = config.checkpoint.every_seconds
            timed = seconds is not None and time.monotonic() - saved_time >= seconds
            saves = is_due(step, save_every) or timed or last or bool(stop.signal)
            due = [k for k, e in enumerate(first.evaluations) if is_due(step, e.every) or last]
            if not due and not saves:
                continue

            # ---- Evaluation, metric lines, checkpoints, each trial in its turn
            settle(*pending)
            pending, scores = None, {}
            for i, lane in running() if due else ():
                variables = together.take(state.eval_variables, i)
                for k in due:
                    evaluation, score = evaluators[i][k]
                    found = score(variables).metrics
                    lane.write(step, evaluation.name, found)
                    if k == 0:  # the one that tells which is best
                        scores[i] = found
                        saves |= quality(found) > lane.best and config.checkpoint.keep_best > 0
                        lane.best = max(lane.best, quality(found))
            if saves:
                for i, lane in running():
                    own = together.take(state, i)
                    if all_finite(own.params):
                        lane.checkpoints.save(step, own, scores.get(i, {}), lane.lines.text)
                    else:
                        fail(lane, step)
                saved_step, saved_time = step, time.monotonic()

    # ---- The end
    progress.close()
    for _, lane in running():
        lane.close(loop.DONE if step == total_steps else loop.STOPPED)
        if lane.code == loop.DONE:
            lane.summarise(sizes)


def _restore(lanes: list[Lane]) -> tuple[list[Any] | None, int]:
    """The states at the last step that all lanes have saved, and that step; none and 0 if there is
    no such step."""
    newest = None
    while True:
        found = [
            lane.checkpoints.restore(lane.parts.abstract_state(), newest=newest) for lane in lanes
        ]
        if None in found:
            return None, 0
        steps = [step for _, step in found]
        if len(set(steps)) == 1:
            return [state for state, _ in found], steps[0]
        newest = min(steps)


def _placed(batches, place):
    """Batches on the devices, two ahead of the one in use."""
    ahead = []
    with contextlib.closing(batches):
        for batch in batches:
            ahead.append(jax.device_put(batch, place))
            if len(ahead) > 2:
                yield ahead.pop(0)
        yield from ahead


def _reason(lanes: list[Lane], where: str) -> str:
    """Which field makes the trials' programs different, as one line."""
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
                Together(parts, 1).train_step(Batches(parts, 2).example())
            except (Different, InputError) as error:
                return (
                    f"--sweep_executor=vmap: config.{field}={flat[field]!r} in "
                    f"{first.workdir.name} and {value!r} in {lane.workdir.name} make different "
                    f"programs ({' '.join(str(error).split())[:200]})"
                )
    return f"--sweep_executor=vmap: the trials' programs differ ({where[:200]})"


def _build(all_configs: list[ml_collections.ConfigDict]) -> list[Experiment]:
    """The parts of every trial, on one device; the data are read once."""
    everything: list[Experiment] = []
    for config in all_configs:
        parts = experiment.build(_varied(config, everything))
        if everything:
            first = everything[0]
            evaluations = tuple(
                own._replace(images=shared.images)  # what a probe learns from, the seed draws
                for own, shared in zip(parts.evaluations, first.evaluations, strict=True)
            )
            parts = parts._replace(
                train_images=first.train_images,
                evaluations=evaluations,
                teacher=first.teacher,
            )
        everything.append(parts)
    return everything


def _varied(config, before) -> ml_collections.ConfigDict:
    """The config on one device; without the data where they were read before."""
    config = copy.deepcopy(config)
    config.mesh.devices = 1
    if before and config.data.cache in ("auto", "memory", "device"):
        config.data.cache = "none"
    return config
