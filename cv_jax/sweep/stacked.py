"""The programs of several trials as one `jax.vmap`, and the batches of all trials."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding

from cv_jax.data import pipeline
from cv_jax.devices import compile_options
from cv_jax.evaluation.kinds import make_evaluator
from cv_jax.sweep.merge_programs import Different, unify
from cv_jax.training.experiment import Experiment


class Stacked:
    """The merged programs of trials, with the sharding of their arrays.

    Attributes:
      place: sharding of arrays whose first axis is the trials.
      count: length of the first axis; copies of the last trial pad it to a multiple of the devices.
    """

    def __init__(self, parts: list[Experiment], devices: int):
        used = jax.devices()[: min(devices, len(parts))]
        self.count = math.ceil(len(parts) / len(used)) * len(used)
        self._parts = [parts[min(i, len(parts) - 1)] for i in range(self.count)]
        self._mesh = jax.make_mesh((len(used),), ("trials",), (AxisType.Auto,), devices=used)
        self._spec = PartitionSpec("trials")
        self.place = NamedSharding(self._mesh, self._spec)
        self._one = SingleDeviceSharding(used[0])
        self._unified: dict[tuple, tuple[Callable, Any]] = {}
        self._options = parts[0].compiler_options or None
        self._take = jax.jit(
            lambda tree, i: jax.tree.map(lambda x: x[i], tree),
            out_shardings=NamedSharding(self._mesh, PartitionSpec()),
        )

    def stack(self, trees: list[Any]) -> Any:
        """Stack one tree per trial to one tree with a first axis over the trials."""
        trees = [trees[min(i, len(trees) - 1)] for i in range(self.count)]
        stacked = jax.tree.map(lambda *x: np.stack(x), *jax.device_get(trees))
        return jax.device_put(stacked, self.place)

    def take(self, tree: Any, i: int) -> Any:
        """Return trial i of a stacked tree, on one device."""
        return jax.device_put(self._take(tree, i), self._one)

    def function(
        self,
        program: Callable,
        numbers: Any,
        donate: tuple[int, ...] = (),
        options: dict[str, Any] | None = None,
    ) -> Callable:
        """Return `program` for all trials; the first axis of its arguments is the trials.

        Options are those of the compiler.
        """
        numbers = jax.device_put((np.arange(self.count), numbers), self.place)

        def one(lane_and_numbers, *arguments):
            return program(lane_and_numbers[1], *arguments)

        sharded = jax.shard_map(
            jax.vmap(one),
            mesh=self._mesh,
            in_specs=self._spec,
            out_specs=self._spec,
            check_vma=False,  # the devices do not communicate
        )
        jitted = jax.jit(sharded, donate_argnums=[1 + i for i in donate], compiler_options=options)
        return lambda *arguments: jitted(numbers, *arguments)

    def init(self, weights: Any) -> Any:
        """Return the states of all trials before the first step."""
        given = [() if weights is None else (weights,)]
        if weights is None and self._parts[0].initial_images() is not None:
            given = [(None, parts.initial_images()) for parts in self._parts]
        inits = [parts.init().traceable for parts in self._parts]
        program, numbers = unify(inits, *shapes(given[0]))
        return self.function(program, numbers, options=compile_options.once())(*self.stack(given))

    def train_step(self, batch: Any) -> Callable:
        """Return `(states, batches) → (states, metrics)` of all trials; the states are donated.

        Raises:
          Different: the programs differ in more than numbers.
        """
        states = [shapes(parts.abstract_state) for parts in self._parts]
        state = states[0]
        if any(other != state for other in states):
            raise Different("the train states have different shapes")
        functions = [parts.train_step(nested=True) for parts in self._parts]
        return self.function(
            *unify(functions, state, shapes(batch)), donate=(0,), options=self._options
        )

    def evaluators(self, i: int) -> list[tuple[Any, Callable]]:
        """Return the evaluations of trial i, each with its function `variables → scores`."""
        trial = _Trial(self, i)
        return [(e, make_evaluator(trial, e)) for e in self._parts[i].evaluations]

    def evaluation_step(self, i: int, make: Callable, *options: Any) -> Callable:
        """Return trial i's `Experiment.evaluation_step(make, *options)`, compiled once for all."""

        def function(*arguments):
            key = (make, options, str(shapes(arguments)))
            if key not in self._unified:
                functions = [
                    parts.evaluation_step(make, *options, nested=True) for parts in self._parts
                ]
                program, numbers = unify(functions, *shapes(arguments))
                jitted = jax.jit(program, compiler_options=self._options)
                self._unified[key] = jitted, numbers
            program, numbers = self._unified[key]
            return program({name: values[i] for name, values in numbers.items()}, *arguments)

        return function


class _Trial:
    """One trial with the interface of an experiment that `make_evaluator` needs."""

    def __init__(self, stacked: Stacked, i: int):
        self._stacked, self._i = stacked, i
        self.eval_batches = stacked._parts[0].eval_batches

    def evaluation_step(self, make: Callable, *options: Any) -> Callable:
        return self._stacked.evaluation_step(self._i, make, *options)


class Batches:
    """Random access to the batches of all trials: image [trials, B, …] and label [trials, B].

    Attributes:
      images: the training images, the same for all trials.
    """

    def __init__(self, parts: list[Experiment], count: int):
        self.images, self._total = parts[0].train_images, parts[0].total_steps
        sources: dict[tuple, pipeline.TrainBatches] = {}
        self._keys = []
        for one in parts:
            key = (one.config.seed, one.config.augment)
            self._keys.append(key)
            if key not in sources:
                sources[key] = pipeline.TrainBatches(
                    self.images,
                    one.augmentation.host,
                    seed=one.config.seed,
                    batch_size=one.config.batch_size,
                    rows=np.arange(one.config.batch_size),
                    total_steps=one.total_steps,
                    stream=one.augmentation.stream,
                    places=bool(one.augmentation.epoch),
                )
        self._sources = sources
        self._keys += self._keys[-1:] * (count - len(parts))

    def example(self) -> dict[str, np.ndarray]:
        """Return the first batch of the first trial.

        Raises:
          Different: the batches of the trials have different shapes.
        """
        first, *others = [source[0] for source in self._sources.values()]
        if any(shapes(other) != shapes(first) for other in others):
            raise Different("the batches have different shapes")
        return first

    def __len__(self) -> int:
        return self._total

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        own = {key: source[step] for key, source in self._sources.items()}
        names = own[self._keys[0]]
        return {name: np.stack([own[key][name] for key in self._keys]) for name in names}


def shapes(tree: Any) -> Any:
    """Return the shape and dtype of every array, without its sharding."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
