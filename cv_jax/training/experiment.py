"""Build the parts of a run from a config, and validate the config before the run starts."""

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from cv_jax import augment, models, tasks
from cv_jax import config as configs
from cv_jax.augment import Augmentation
from cv_jax.data import pipeline, resident, splits
from cv_jax.devices import compile_options, memory, partition, processes
from cv_jax.devices import mesh as meshes
from cv_jax.devices.prefetch import on_devices
from cv_jax.errors import InputError
from cv_jax.evaluation import plan
from cv_jax.interop import pretrained
from cv_jax.models import precision
from cv_jax.models.count import count_multiply_adds
from cv_jax.optim import optimisers, parameter_rules, schedules
from cv_jax.progress import counted
from cv_jax.run import workdir as records
from cv_jax.run import writers
from cv_jax.run.record import Record
from cv_jax.tasks import losses
from cv_jax.tasks.batch import blank_batch
from cv_jax.training import profiling, programs, shape_checks, step
from cv_jax.training.teacher import Teacher, read_teacher


class Sizes(NamedTuple):
    """Sizes of a model.

    Attributes:
      parameters: number of trainable scalars.
      multiply_adds: multiply-adds of the forward pass of one example.
    """

    parameters: int
    multiply_adds: int


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """The parts of a run, built from its config.

    Attributes:
      config: the resolved config.
      mesh: the devices.
      model: the Linen module.
      num_classes: classes of the dataset.
      classes: their names; () if unknown.
      input_shape: shape of one example: (height, width, channels) of the model's input, or
        (length,) of the longest sequence in a training split without images.
      augmentation: the parsed `config.augment`.
      train_images: the training split.
      evaluations: all evaluations; the first is the run's own.
      resident: whether the training split is stored in device memory.
      total_steps: updates of the whole run.
      schedule: learning rate as a function of the number of updates.
      optimiser: see `optimisers.Optimiser`.
      teacher: the teacher model; `None` without distillation, and for evaluation.
      fingerprint: identity of the data, the teacher and, with `mesh.step=pmap`, the devices.
      compiler_options: of the steps.
    """

    config: ml_collections.ConfigDict
    mesh: Mesh
    model: nn.Module
    num_classes: int
    classes: tuple[str, ...]
    input_shape: tuple[int, ...]
    augmentation: Augmentation
    train_images: pipeline.Images
    evaluations: tuple[plan.Evaluation, ...]
    resident: bool
    total_steps: int
    schedule: Callable
    optimiser: optimisers.Optimiser
    teacher: Teacher | None
    fingerprint: dict[str, Any]
    compiler_options: dict[str, str]

    def as_begun(self, workdir: Path) -> "Experiment":
        """Return the experiment with the compiler options of the run in `workdir`, if any."""
        own = processes.decided(lambda: records.compiler_options(workdir))
        if own is None or (own := compile_options.without_flags(own)) == self.compiler_options:
            return self
        return dataclasses.replace(self, compiler_options=own)

    def every(self, name: str) -> int:
        """Return a duration of the config in steps; 0 if it is not set."""
        examples = len(self.train_images.source)
        return configs.steps_of(self.config, name, examples, self.total_steps) or 0

    def sources(self) -> dict[str, Any]:
        """Return the splits of training and of its own evaluation: name → `Source`."""
        return {"train": self.train_images.source, "eval": self.evaluations[0].images.source}

    def task(self) -> tasks.Task:
        """Return the task of the model."""
        return tasks.make_task(self.config, self.model)

    def train_step(self, nested: bool = False) -> Callable:
        """Return the jitted `(state, batch) → (state, metrics)`; the state is donated.

        `nested` is for a part of another jitted program, which can have no options of its own.
        """
        return programs.make_train_step(self, nested)

    def evaluation_step(self, make: Callable, *options: Any, nested: bool = False) -> Callable:
        """Return `make(config, model, *options)`, a `(variables, batch) → predictions`, jitted.

        Variables are sharded as stored; predictions are replicated. `nested`: see `train_step`.
        """
        function = make(self.config, self.model, *options)
        gather = partition.gathering(self.config, self.mesh, self.abstract_state.eval_variables)
        return jax.jit(
            lambda variables, batch: function(gather(variables), batch),
            out_shardings=meshes.replicated(self.mesh),
            compiler_options=None if nested else self.compiler_options or None,
        )

    def init(self) -> Callable:
        """Return the jitted `(variables=None) → state`; see `step.init_state`.

        The state is computed with its stored shardings: no device ever holds more than its shards.
        Without variables, a model with `Entry.data_init` reads training images.
        """
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state)
        jit = functools.partial(jax.jit, self._initialise, out_shardings=shardings)
        jitted = jit(compiler_options=compile_options.once())

        def init(variables=None):
            if variables is None:
                images = self.initial_images()
                if images is None:
                    return jitted()
                return jitted(None, meshes.put(images, meshes.replicated(self.mesh)))
            shardings = partition.stored(self.config, self.mesh, variables)
            return jitted(meshes.put(variables, shardings))

        init.lower, init.traceable = jitted.lower, jit()  # a nested jit can have no options
        return init

    def initial_images(self) -> np.ndarray | None:
        """Return the images of `Entry.data_init`, uint8 [N, H, W, C]; `None` if it needs none."""
        data_init = models.MODELS[self.config.model.name].data_init
        if data_init is None:
            return None
        return pipeline.first_images(
            self.train_images, self.augmentation.host, self.config.seed, data_init.examples
        )

    def pretrained(self) -> dict[str, Any] | None:
        """Return the variables of `config.init_from`, fitted to the model; `None` if it is not set.

        Raises:
          InputError: the file is missing, has an unknown format, or does not fit the model.
        """
        if self.config.init_from is None:
            return None
        config = copy.deepcopy(self.config)
        if "param_dtype" in config.model:
            stored = precision.stored(self.model, config.optim.master_weights)
            config.model.param_dtype = stored.param_dtype
        return pretrained.load(config, self.num_classes, self.input_shape, self.classes)

    @functools.cached_property
    def _initialise(self) -> Callable:
        """One function, because JAX traces a function once: for the shapes and for the program."""
        return functools.partial(_initialise, self)

    @functools.cached_property
    def abstract_state(self) -> step.TrainState:
        """Shapes, dtypes and shardings of the state, without computing it."""
        state = jax.eval_shape(self._initialise)
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            state,
            partition.stored(self.config, self.mesh, state),
        )

    @functools.cached_property
    def sizes(self) -> Sizes:
        """Parameters and multiply-adds of the model, computed from shapes."""
        state, label_shape = self.abstract_state, self.train_images.source.label_shape

        def forward(variables):
            blank = blank_batch(self.input_shape, label_shape=label_shape)
            inputs = self.task().inputs(blank, {"mask": jax.random.key(0)})
            return self.model.apply(variables, *inputs, train=False)[0]

        adds, _ = count_multiply_adds(forward, {"params": state.params, **state.model_state})
        return Sizes(self.parameters, adds)

    @property
    def parameters(self) -> int:
        """Number of trainable scalars."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.abstract_state.params))

    def record(self, workdir: Path, **options: Any) -> Record:
        """Return the record of this run in `workdir`; see `run.record.Record` for the options."""
        return Record(
            workdir,
            self.config,
            self.fingerprint,
            self.classes,
            total_steps=self.total_steps,
            log_every=self.every("log.every"),
            save_every=self.every("checkpoint.every"),
            schedule=self.schedule,
            compiler_options=self.compiler_options,
            **options,
        )

    def train_source(self) -> pipeline.TrainBatches:
        """Return the training batches of this process."""
        size = self.config.batch_size
        return pipeline.TrainBatches(
            self.train_images,
            self.augmentation.host,
            seed=self.config.seed,
            batch_size=size,
            rows=meshes.local_rows(self.mesh, size),
            total_steps=self.total_steps,
            stream=self.augmentation.stream,
            places=bool(self.augmentation.epoch),
        )

    def train_batches(self, start_step: int) -> Iterator[dict[str, jax.Array]]:
        """Yield batches on the devices, from `start_step` on; see `on_devices` and `resident`."""
        batches = self.train_source()
        if self.resident:
            return resident.iterate(self.mesh, batches, start_step)
        return self._on_devices(batches, start_step)

    def eval_batches(
        self, images: pipeline.Images, views: tuple[Callable, ...] = ()
    ) -> Iterator[dict[str, Any]]:
        """Yield the padded batches of one pass over a split, on the devices."""
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
        return on_devices(loaded, functools.partial(meshes.to_global, self.mesh))


def _initialise(
    experiment: Experiment, variables: Any = None, images: Any = None
) -> step.TrainState:
    e = experiment
    return step.init_state(e.model, e.optimiser, e.config, e.input_shape, variables, images)


def build(
    config: ml_collections.ConfigDict, evaluating: bool = False, workdir: Path | None = None
) -> Experiment:
    """Build the parts of a run.

    Args:
      config: the resolved config.
      evaluating: whether to leave out the teacher, which only training needs.
      workdir: the run directory, if it is known; see `pretrained.normalised`.

    Raises:
      InputError: the config is invalid; the message is one line.
    """
    configs.check_values(config)
    writers.check(config)
    losses.check(config)
    augmentation = augment.parse(config.augment, image_size=config.image_size)
    if augmentation.test:
        raise InputError("config.augment: test-time views are for config.eval_preprocess")

    train_source = splits.open_train(config)
    config, augmentation, input_shape = shape_checks.check_examples(
        config, train_source, augmentation, workdir
    )
    num_classes = train_source.num_classes
    model, params = shape_checks.make_model(
        config, num_classes, input_shape, bool(augmentation.batch)
    )
    shape_checks.check_target(config, model, train_source)
    total_steps = configs.total_steps(config, len(train_source))
    memory.check_state_memory(params)
    profiling.check(config, total_steps)
    shape_checks.check_counts(config, total_steps, len(train_source), augmentation.stream.views)
    schedule = schedules.make_schedule(config, total_steps, len(train_source))
    treatments = parameter_rules.treatments(config, model, params)
    optimiser = optimisers.make_optimiser(config, schedule, treatments, total_steps)

    evaluations = plan.plan(config, model, train_source, total_steps)
    fingerprint = {"train": train_source.fingerprint, "eval": evaluations[0].fingerprint}
    teacher = None
    if config.distill.teacher is not None and not evaluating:
        teacher = read_teacher(config, num_classes, input_shape, train_source.classes or ())
        fingerprint["teacher"] = teacher.fingerprint

    mesh = meshes.make_mesh(config.mesh.devices, config.mesh.model)
    partition.check(config, mesh, params)
    shape_checks.check_batches(config, mesh)
    if config.mesh.step == "pmap":  # statistics and dropout masks depend on the number of devices
        fingerprint["mesh"] = {"devices": mesh.size}

    train_images = pipeline.prepare(
        train_source,
        augmentation.fixed,
        config.data.cache,
        lambda loop: counted(loop, f"reading training {train_source.kind}s"),
    )
    in_memory = all(
        # Processes may differ in free device memory.
        processes.gathered(resident.chosen(config.data.cache, train_images, augmentation.host))
    )
    if config.steps_per_program > 1 and not in_memory:
        raise InputError(
            f"config.steps_per_program={config.steps_per_program} needs the training split in "
            "device memory: set config.data.cache=device"
        )
    return Experiment(
        config=config,
        mesh=mesh,
        model=model,
        num_classes=num_classes,
        classes=train_source.classes or (),
        input_shape=input_shape,
        augmentation=augmentation,
        train_images=train_images,
        evaluations=evaluations,
        resident=in_memory,
        total_steps=total_steps,
        schedule=schedule,
        optimiser=optimiser,
        teacher=teacher,
        fingerprint=fingerprint,
        compiler_options=compile_options.for_steps(),
    )
