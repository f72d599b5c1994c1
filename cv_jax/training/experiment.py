"""From a config to the parts of a run. Every mistake that can be known beforehand is found here."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import ml_collections
from jax.sharding import Mesh

from cv_jax import augment, tasks
from cv_jax import config as configs
from cv_jax.augment import Augmentation
from cv_jax.data import pipeline, resident, splits
from cv_jax.devices import memory, partition, processes
from cv_jax.devices import mesh as meshes
from cv_jax.errors import InputError
from cv_jax.evaluation import plan
from cv_jax.evaluation.step import make_eval_step, make_features
from cv_jax.interop import pretrained
from cv_jax.optim import optimisers, parameter_rules, schedules
from cv_jax.progress import counted
from cv_jax.run import writers
from cv_jax.tasks import losses
from cv_jax.training import profiling, shape_checks, step
from cv_jax.training.gradient import make_gradient
from cv_jax.training.objective import make_objective
from cv_jax.training.teacher import Teacher, read_teacher


class Experiment(NamedTuple):
    """All that a run is made of, before anything is computed or written.

    Attributes:
      config: the resolved config.
      mesh: the devices.
      model: the Linen module.
      num_classes: classes of the dataset.
      image_shape: (height, width, channels) of the model's input.
      augmentation: the parsed `config.augment`.
      train_images: the training split.
      evaluations: what is measured of it, the run's own evaluation first.
      resident: whether the training split lies on the devices.
      total_steps: updates of the whole run.
      schedule: learning rate by updates made.
      optimiser: see `optimisers.Optimiser`.
      teacher: a trained net to learn from; none if there is none.
      fingerprint: what identifies the data.
    """

    config: ml_collections.ConfigDict
    mesh: Mesh
    model: nn.Module
    num_classes: int
    image_shape: tuple[int, int, int]
    augmentation: Augmentation
    train_images: pipeline.Images
    evaluations: tuple[plan.Evaluation, ...]
    resident: bool
    total_steps: int
    schedule: Callable
    optimiser: optimisers.Optimiser
    teacher: Teacher | None
    fingerprint: dict[str, Any]

    def every(self, name: str) -> int:
        """A duration of the config in steps; 0 if it is not set."""
        examples = len(self.train_images.source)
        return configs.steps_of(self.config, name, examples, self.total_steps) or 0

    def task(self) -> tasks.Task:
        """How the model is fed and scored."""
        return tasks.make_task(self.config, self.model)

    def train_step(self) -> Callable:
        """The jitted `(state, batch) → (state, metrics)`; the state is donated."""
        state, teach, variables = self.abstract_state(), None, ()
        if self.teacher is not None:
            # Arguments, not constants of the program, which would hold them a second time.
            gather = partition.gathering(self.config, self.mesh, self.teacher.variables)
            places = partition.stored(self.config, self.mesh, self.teacher.variables)
            variables = (meshes.put(self.teacher.variables, places),)

            def teach(variables, images):
                return self.teacher.apply(gather(variables), images)

        objective = make_objective(self.config, self.model)
        gather_params = partition.gathering(self.config, self.mesh, state.params)
        function = step.make_train_step(
            self.config,
            make_gradient(
                self.config,
                self.mesh,
                lambda params, *rest: objective(gather_params(params), *rest),
                self.optimiser,
                teach,
            ),
            self.optimiser,
            self.augmentation,
            self.num_classes,
            max(1, self.every("log.every")),
        )
        places = jax.tree.map(lambda leaf: leaf.sharding, state), meshes.replicated(self.mesh)
        jitted = jax.jit(function, donate_argnums=0, out_shardings=places)
        if self.teacher is None:
            return jitted

        def taught(state, batch):
            return jitted(state, batch, *variables)

        taught.lower = lambda state, batch: jitted.lower(state, batch, *variables)
        return taught

    def eval_step(self, average: str = "probabilities") -> Callable:
        """The jitted `(variables, batch) → answers`; see `step.make_eval_step`."""
        return self._of_variables(make_eval_step(self.config, self.model, average))

    def feature_step(self, name: str) -> Callable:
        """The jitted `(variables, batch) → {position, label, feature float32 [B, D]}`."""
        features = make_features(self.config, self.model)

        def function(variables, batch):
            known = {key: batch[key] for key in ("position", "label")}
            return {**known, "feature": features(variables, batch)[name]}

        return self._of_variables(function)

    def _of_variables(self, function):
        """`(variables as stored, batch) → answers`, jitted; the answers are whole everywhere."""
        gather = partition.gathering(self.config, self.mesh, self.abstract_state().eval_variables)
        return jax.jit(
            lambda variables, batch: function(gather(variables), batch),
            out_shardings=meshes.replicated(self.mesh),
        )

    def init(self) -> Callable:
        """`(variables=None) → state`, computed where it is stored: no device ever holds more of it
        than its part; see `step.init_state`."""

        def function(variables=None):
            return step.init_state(
                self.model, self.optimiser, self.config, self.image_shape, variables
            )

        places = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state())
        jitted = jax.jit(function, out_shardings=places)

        def init(variables=None):
            if variables is None:
                return jitted()
            places = partition.stored(self.config, self.mesh, variables)
            return jitted(meshes.put(variables, places))

        init.lower = jitted.lower
        return init

    def pretrained(self) -> dict[str, Any] | None:
        """The variables in `config.init_from`, fitted to the model; none if it is not set.

        Raises:
          InputError: the file is missing, none of ours, or does not fit.
        """
        if self.config.init_from is None:
            return None
        return pretrained.load(self.config, self.num_classes, self.image_shape)

    def abstract_state(self) -> step.TrainState:
        """Shapes, dtypes and shardings of the state; nothing is computed."""
        state = jax.eval_shape(
            lambda: step.init_state(self.model, self.optimiser, self.config, self.image_shape)
        )
        return jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            state,
            partition.stored(self.config, self.mesh, state),
        )

    def train_batches(self, start_step: int) -> Iterator[dict[str, jax.Array]]:
        """Batches from `start_step` on, on the devices; loaded ones two ahead of the one in use."""
        size = self.config.batch_size
        batches = pipeline.TrainBatches(
            self.train_images,
            self.augmentation.host,
            seed=self.config.seed,
            batch_size=size,
            rows=meshes.local_rows(self.mesh, size),
            total_steps=self.total_steps,
            stream=self.augmentation.stream,
        )
        if self.resident:
            return resident.iterate(self.mesh, batches, start_step)
        return self._on_devices(batches, start_step)

    def eval_batches(
        self, images: pipeline.Images, views: tuple[Callable, ...] = ()
    ) -> Iterator[dict[str, Any]]:
        """A split once, padded, on the devices."""
        size = self.config.eval.batch_size
        rows = meshes.local_rows(self.mesh, size)
        return self._on_devices(
            pipeline.EvalBatches(images, batch_size=size, rows=rows, views=views)
        )

    def _on_devices(self, batches, start_step=0):
        data = self.config.data
        loaded = pipeline.iterate(
            batches, start_step, workers=data.workers, threads=data.threads, prefetch=data.prefetch
        )
        ahead = []
        with contextlib.closing(loaded):
            for batch in loaded:
                ahead.append(meshes.to_global(self.mesh, batch))
                if len(ahead) > 2:
                    yield ahead.pop(0)
            yield from ahead


def build(config: ml_collections.ConfigDict) -> Experiment:
    """The parts of a run of this config.

    Raises:
      InputError: anything about the config that cannot work, in one line.
    """
    configs.check_values(config)
    writers.check(config)
    losses.check(config)
    augmentation = augment.parse(config.augment, image_size=config.image_size)
    if augmentation.test:
        raise InputError("config.augment: test-time views are for config.eval_preprocess")

    train_source = splits.open_train(config)
    image_shape = shape_checks.image_shape(config, train_source, augmentation)
    for name in ("mean", "std"):
        values = config.data[name]
        if len(values) not in (1, image_shape[-1]):
            raise InputError(
                f"config.data.{name}={values} has {len(values)} values; "
                f"images have {image_shape[-1]} channels"
            )

    memory.check_batch_memory(config, image_shape, augmentation.stream.views)
    shape_checks.try_augmentation(config, augmentation, image_shape)
    num_classes = train_source.num_classes
    model, params = shape_checks.make_model(
        config, num_classes, image_shape, bool(augmentation.batch)
    )
    total_steps = configs.total_steps(config, len(train_source))
    memory.check_state_memory(params)
    profiling.check(config, total_steps)
    schedule = schedules.make_schedule(config, total_steps, len(train_source))
    optimiser = optimisers.make_optimiser(
        config, schedule, parameter_rules.treatments(config, model, params)
    )

    evaluations = plan.plan(config, model, train_source, total_steps)
    fingerprint = {"train": train_source.fingerprint, "eval": evaluations[0].fingerprint}
    teacher = None
    if config.distill.teacher is not None:
        if tasks.task_name(config) != "classification":
            raise InputError(f"config.distill.teacher: {config.model.name} is no classifier")
        teacher = read_teacher(config, num_classes, image_shape)
        fingerprint["teacher"] = teacher.fingerprint

    mesh = meshes.make_mesh(config.mesh.devices, config.mesh.model)
    partition.check(config, mesh, params)
    if config.mesh.step == "pmap":  # what is drawn and normalised depends on how many there are
        fingerprint["mesh"] = {"devices": mesh.size}
    meshes.check_batch("config.batch_size", config.batch_size, mesh)
    parts = config.optim.accumulate_steps
    share = config.batch_size // mesh.shape["data"]
    if share % parts:
        raise InputError(
            f"config.optim.accumulate_steps={parts} does not divide the {share} examples of a "
            f"batch on each of {mesh.shape['data']} devices"
        )
    meshes.check_batch("config.eval.batch_size", config.eval.batch_size, mesh)

    train_images = pipeline.prepare(
        train_source,
        augmentation.fixed,
        config.data.cache,
        lambda loop: counted(loop, "reading training images"),
    )
    return Experiment(
        config=config,
        mesh=mesh,
        model=model,
        num_classes=num_classes,
        image_shape=image_shape,
        augmentation=augmentation,
        train_images=train_images,
        evaluations=evaluations,
        resident=all(
            # By what is free there, which need not be the same for all processes.
            processes.gathered(resident.chosen(config.data.cache, train_images, augmentation.host))
        ),
        total_steps=total_steps,
        schedule=schedule,
        optimiser=optimiser,
        teacher=teacher,
        fingerprint=fingerprint,
    )
