"""The programs of several trials as one, mapped over them, and their batches."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding

from cv_jax.data import pipeline
from cv_jax.evaluation.run import make_evaluator
from cv_jax.sweep.merge_programs import Different, unify
from cv_jax.training.experiment import Experiment


class Together:
    """The trials' programs as one, and where their arrays lie.

    Attributes:
      place: splits the first axis, that of the trials, over the devices.
      count: trials, with copies of the last one where the devices do not divide them.
    """

    def __init__(self, parts: list[Experiment], devices: int):
        used = jax.devices()[: min(devices, len(parts))]
        self.count = math.ceil(len(parts) / len(used)) * len(used)
        self._parts = [parts[min(i, len(parts) - 1)] for i in range(self.count)]
        self._mesh = jax.make_mesh((len(used),), ("trials",), (AxisType.Auto,), devices=used)
        self._spec = PartitionSpec("trials")
        self.place = NamedSharding(self._mesh, self._spec)
        self._one = SingleDeviceSharding(used[0])
        self._unified: dict[str, tuple[Callable, Any]] = {}
        self._take = jax.jit(
            lambda tree, i: jax.tree.map(lambda x: x[i], tree),
            out_shardings=NamedSharding(self._mesh, PartitionSpec()),
        )

    def stack(self, trees: list[Any]) -> Any:
        """One tree for all trials, from one for each of them."""
        trees = [trees[min(i, len(trees) - 1)] for i in range(self.count)]
        stacked = jax.tree.map(lambda *x: np.stack(x), *jax.device_get(trees))
        return jax.device_put(stacked, self.place)

    def take(self, tree: Any, i: int) -> Any:
        """Trial i's part of what belongs to all, on one device."""
        return jax.device_put(self._take(tree, i), self._one)

    def function(self, program: Callable, numbers: Any, donate: tuple[int, ...] = ()) -> Callable:
        """`program` for all trials at once; its arguments have a first axis over them."""
        numbers = jax.device_put((np.arange(self.count), numbers), self.place)

        def one(lane_and_numbers, *arguments):
            return program(lane_and_numbers[1], *arguments)

        def all_of_them(*arguments):
            return jax.vmap(one)(*arguments)

        split = jax.shard_map(
            all_of_them,
            mesh=self._mesh,
            in_specs=self._spec,
            out_specs=self._spec,
            check_vma=False,  # nothing crosses from device to device
        )
        jitted = jax.jit(split, donate_argnums=[1 + i for i in donate])
        return lambda *arguments: jitted(numbers, *arguments)

    def init(self, weights: Any) -> Any:
        """The state of all trials before the first step."""
        given = () if weights is None else (weights,)
        program, numbers = unify([parts.init() for parts in self._parts], *shapes(given))
        if weights is not None:
            given = (self.stack([weights]),)
        return self.function(program, numbers)(*given)

    def train_step(self, batch: Any) -> Callable:
        """`(states, batches) → (states, metrics)` of all trials; the states are donated.

        Raises:
          Different: their programs differ in more than numbers.
        """
        states = [shapes(parts.abstract_state()) for parts in self._parts]
        state = states[0]
        if any(other != state for other in states):
            raise Different("their states have other shapes")
        functions = [parts.train_step() for parts in self._parts]
        return self.function(*unify(functions, state, shapes(batch)), donate=(0,))

    def evaluators(self, i: int) -> list[tuple[Any, Callable]]:
        """The evaluations of trial i, each with its `variables → scores`."""
        measured = _Measured(self, i)
        return [(e, make_evaluator(measured, e)) for e in self._parts[i].evaluations]

    def measure(self, i: int, name: str, option: str) -> Callable:
        """Trial i's `Experiment.<name>(option)`, compiled once for all trials."""

        def function(*arguments):
            key = f"{name} {option} {shapes(arguments)}"
            if key not in self._unified:
                functions = [getattr(parts, name)(option) for parts in self._parts]
                program, numbers = unify(functions, *shapes(arguments))
                self._unified[key] = jax.jit(program), numbers
            program, numbers = self._unified[key]
            return program({name: values[i] for name, values in numbers.items()}, *arguments)

        return function


class _Measured:
    """What `make_evaluator` asks an experiment for, of one trial of many."""

    def __init__(self, together: Together, i: int):
        self._together, self._i = together, i
        self.eval_batches = together._parts[0].eval_batches

    def eval_step(self, average: str) -> Callable:
        return self._together.measure(self._i, "eval_step", average)

    def feature_step(self, name: str) -> Callable:
        return self._together.measure(self._i, "feature_step", name)


class Batches:
    """Random access to the batches of all trials: image [trials, B, …] and label [trials, B].

    Attributes:
      images: the examples, the same for all.
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
                )
        self._sources = sources
        self._keys += self._keys[-1:] * (count - len(parts))

    def example(self) -> dict[str, np.ndarray]:
        """The first batch of one trial.

        Raises:
          Different: those of others have other shapes.
        """
        first, *others = [source[0] for source in self._sources.values()]
        if any(shapes(other) != shapes(first) for other in others):
            raise Different("their images have other shapes")
        return first

    def __len__(self) -> int:
        return self._total

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        own = {key: source[step] for key, source in self._sources.items()}
        return {
            name: np.stack([own[key][name] for key in self._keys]) for name in ("image", "label")
        }


def shapes(tree: Any) -> Any:
    """Shape and dtype of every array, wherever it lies."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
