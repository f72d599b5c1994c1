"""Where the time goes: compilation and the first step, utilisation of the device, traces."""

import collections
import contextlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import psutil

from cv_jax.augment.batch import augment_batch
from cv_jax.errors import InputError
from cv_jax.models.count import count_multiply_adds
from cv_jax.tasks.batch import fold_views
from cv_jax.training.objective import make_objective

# ---- Compilation and the first step

_counted: collections.Counter[str] = collections.Counter()


def _count_seconds(event: str, seconds: float, **_) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        _counted.update({"seconds": seconds, "programs": 1})


def _count_hits(event: str, **_) -> None:
    if event == "/jax/compilation_cache/cache_hits":
        _counted["loaded"] += 1


jax.monitoring.register_event_duration_secs_listener(_count_seconds)
jax.monitoring.register_event_listener(_count_hits)


class Compilation(NamedTuple):
    """What this process has compiled up to now.

    Attributes:
      seconds: spent in the compiler, or in loading what it had compiled before.
      programs: how many there were.
      loaded: how many of them came from the cache; see `compile_cache`.
    """

    seconds: float
    programs: int
    loaded: int


def compilation() -> Compilation:
    """What this process has compiled up to now."""
    return Compilation(float(_counted["seconds"]), _counted["programs"], _counted["loaded"])


def first_step(metrics: Any) -> dict[str, float]:
    """Waits for a run's first step, and says how long the process took to get there.

    Args:
      metrics: what that step gave.

    Returns:
      For timing.jsonl: `first_step_seconds` since the process started, and of `Compilation`
      `compile_seconds`, `programs` and `programs_loaded`.
    """
    jax.block_until_ready(metrics)
    seconds = time.time() - psutil.Process().create_time()
    compiled = compilation()
    return {
        "first_step_seconds": round(seconds, 3),
        "compile_seconds": round(compiled.seconds, 3),
        "programs": compiled.programs,
        "programs_loaded": compiled.loaded,
    }


# ---- Model FLOPs utilisation

# Peak of dense bfloat16 products with float32 sums, in TFLOP/s of one `jax.Device`, by the first
# pattern that its kind matches. NVIDIA: data sheets of the products, of whose numbers "with
# sparsity" this is half; GeForce: white papers of the GA102 and AD102 architectures. TPU: Jouppi et
# al., "A domain-specific supercomputer for training deep neural networks", CACM 63(7), 2020, table
# 3, for v2 and v3, whose chips are two devices each; Google Cloud's pages "TPU v4" to "TPU v6e".
PEAK_TFLOPS = (
    (r"NVIDIA A100", 312.0),
    (r"NVIDIA A30", 165.0),
    (r"NVIDIA A40", 149.7),
    (r"NVIDIA L40S", 362.05),
    (r"NVIDIA L4$", 121.0),
    (r"NVIDIA H100 PCIe", 756.5),
    (r"NVIDIA H[12]00 NVL", 835.5),
    (r"NVIDIA (H100|H200|GH200)", 989.4),
    (r"NVIDIA B200", 2250.0),
    (r"NVIDIA GB200", 2500.0),
    (r"NVIDIA GeForce RTX 3090$", 71.0),
    (r"NVIDIA GeForce RTX 4090$", 165.2),
    (r"TPU v2$", 46.0 / 2),
    (r"TPU v3$", 123.0 / 2),
    (r"TPU v4$", 275.0),
    (r"TPU v5( lite|e)$", 197.0),
    (r"TPU v5p?$", 459.0),
    (r"TPU v6( lite|e)$", 918.0),
)


def peak_flops(device_kind: str) -> float | None:
    """Peak FLOP/s of a device for dense bfloat16 products; none if it is not known, as of a part
    of a GPU.

    Utilisation is always taken against this, also by runs in float32: so they can be compared.
    """
    for pattern, tera in PEAK_TFLOPS:
        if re.match(pattern, device_kind) and " MIG " not in device_kind:
            return tera * 1e12
    return None


def model_flops(experiment) -> int:
    """Floating-point operations of a training step over the global batch.

    Model FLOPs as in Chowdhery et al., 2022, arXiv:2204.02311, appendix B: two for each
    multiply-add of the forward pass in training, and for the backward pass, which makes two
    products where the forward pass makes one, twice as many. What is computed again to save memory
    does not count, nor does augmentation, the optimiser or element-wise work; accumulation changes
    nothing. A teacher counts forwards only; frozen parameters count as if they were trained.
    """
    config, model = experiment.config, experiment.model
    if getattr(model, "attention_implementation", "xla") != "xla":
        model = model.clone(attention_implementation="xla")  # the products of a fused kernel
    shape = (config.batch_size, *experiment.image_shape)
    raw = {
        "image": jax.ShapeDtypeStruct(shape, jnp.uint8),
        "label": jax.ShapeDtypeStruct(shape[:1], jnp.int32),
    }

    def augmented(batch):
        augmentation, classes = experiment.augmentation, experiment.num_classes
        batch = augment_batch(config, augmentation, classes, jnp.int32(0), batch)
        return {**batch, "position": jnp.arange(len(batch["image"]))}

    def forward(params, state, batch):
        rngs = {"dropout": jax.random.key(0), "mask": jax.random.key(0)}
        return make_objective(config, model)(params, state, batch, rngs)

    batch, state = jax.eval_shape(augmented, raw), experiment.abstract_state()
    forwards, _ = count_multiply_adds(forward, state.params, state.model_state, batch)
    taught = 0
    if experiment.teacher is not None:

        def teach(variables, batch):
            return experiment.teacher.apply(variables, fold_views(batch)["image"])

        taught, _ = count_multiply_adds(teach, experiment.teacher.variables, batch)
    return 2 * (3 * forwards + taught)


def utilisation(experiment) -> Callable[[float], float] | None:
    """`images a second → share of the devices' peak that goes into model FLOPs`; none where the
    peak is not known, as on a CPU."""
    devices = experiment.mesh.devices.flat
    peak = peak_flops(devices[0].device_kind)
    if peak is None:
        return None
    of_image = model_flops(experiment) / experiment.config.batch_size
    return lambda images_per_second: images_per_second * of_image / (peak * len(devices))


# ---- Traces


def check(config: ml_collections.ConfigDict, total_steps: int) -> None:
    """Raises an `InputError` unless the updates to trace are updates of the run."""
    c = config.profile
    if c.num_steps and c.start_step + c.num_steps > total_steps:
        raise InputError(
            f"config.profile.start_step={c.start_step} and num_steps={c.num_steps} reach beyond "
            f"the {total_steps} updates of the run"
        )


class Trace:
    """Traces updates of a run with jax.profiler, those that `config.profile` names.

    Attributes:
      first: updates made when the trace starts.
      last: updates made when it ends.
      running: whether it has started and not ended.
    """

    def __init__(self, config: ml_collections.ConfigDict, workdir: Path):
        self.first = config.profile.start_step
        self.last = self.first + config.profile.num_steps
        self.running, self._folder = False, workdir / "profile"

    def step(self, made: int, function: Callable, *arguments) -> Any:
        """`function(*arguments)`, which makes update `made + 1`; traced if it is one of those.

        The trace holds the work of its updates and nothing else: what was queued before it has
        ended when it starts, and they have ended when it stops.
        """
        if not self.running and self.first <= made < self.last:
            jax.block_until_ready(arguments)
            jax.profiler.start_trace(str(self._folder))
            self.running = True
        with jax.profiler.StepTraceAnnotation("train", step_num=made + 1):
            result = function(*arguments)
        if self.running and made + 1 == self.last:
            jax.block_until_ready(result)
            self.stop()
        return result

    def stop(self) -> None:
        """Writes the trace, if one is running."""
        if self.running:
            self.running = False
            jax.profiler.stop_trace()


@contextlib.contextmanager
def tracing(config: ml_collections.ConfigDict, workdir: Path) -> Iterator[Trace]:
    """A `Trace`, which is also written when the run ends or fails within its range.

    Of several processes the first writes one, to WORKDIR/profile: all run the same program.
    """
    trace = Trace(config, workdir)
    if jax.process_index():
        trace.last = trace.first
    try:
        yield trace
    finally:
        trace.stop()
