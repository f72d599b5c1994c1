"""Compile times, model FLOPs utilisation, and profiler traces."""

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
from cv_jax.tasks.batch import blank_batch, fold_views
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
    """Compilation statistics of this process.

    Attributes:
      seconds: time for compiling programs and loading them from the cache.
      programs: number of programs.
      loaded: number of programs loaded from the cache; see `compile_cache`.
    """

    seconds: float
    programs: int
    loaded: int


def compilation() -> Compilation:
    """Return the compilation statistics of this process so far."""
    return Compilation(float(_counted["seconds"]), _counted["programs"], _counted["loaded"])


def first_step(metrics: Any) -> dict[str, float]:
    """Wait for the first step of a run, and return its timing.

    Args:
      metrics: output of the first step.

    Returns:
      Fields of timing.jsonl: `first_step_seconds` since the process started, and
      `compile_seconds`, `programs` and `programs_loaded`; see `Compilation`.
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

# Pattern of the device kind → peak TFLOP/s of one `jax.Device`, for dense bfloat16 products with
# float32 sums. The first match counts. NVIDIA: data sheets, half of the numbers "with sparsity";
# GeForce: white papers of the GA102 and AD102 architectures. TPU v2 and v3, with two devices per
# chip: Jouppi et al., "A domain-specific supercomputer for training deep neural networks", CACM
# 63(7), 2020, table 3. Other TPUs: Google Cloud's pages "TPU v4" to "TPU v6e".
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
    """Return the peak FLOP/s of a device for dense bfloat16 products; `None` if it is unknown.

    It is unknown for a MIG slice of a GPU. The utilisation of float32 runs uses this peak too, so
    all runs are comparable.
    """
    for pattern, tera in PEAK_TFLOPS:
        if re.match(pattern, device_kind) and " MIG " not in device_kind:
            return tera * 1e12
    return None


def model_flops(experiment) -> int:
    """Return the floating-point operations of a training step over the global batch.

    Model FLOPs as in Chowdhery et al., 2022, arXiv:2204.02311, appendix B: two for each
    multiply-add of the forward pass in training, and twice as many for the backward pass, which
    computes two products for each product of the forward pass. Rematerialisation, augmentation, the
    optimiser and element-wise operations do not count. Accumulation does not change the number. A
    teacher counts with its forward pass only; frozen parameters count as trained parameters.
    """
    config, model = experiment.config, experiment.model
    if getattr(model, "attention_implementation", "xla") != "xla":
        model = model.clone(
            attention_implementation="xla"
        )  # products inside fused kernels are not counted
    label_shape = experiment.train_images.source.label_shape
    example = jax.eval_shape(lambda: blank_batch(experiment.input_shape, label_shape=label_shape))
    raw = {
        name: jax.ShapeDtypeStruct((config.batch_size, *x.shape[1:]), x.dtype)
        for name, x in example.items()
    }

    def augmented(batch):
        augmentation, classes = experiment.augmentation, experiment.num_classes
        zeros = jnp.zeros(config.batch_size, jnp.int32)
        batch = {**batch, "example": zeros, "epoch": zeros}
        batch = augment_batch(config, augmentation, classes, jnp.int32(0), batch)
        return {**batch, "position": jnp.arange(len(batch["label"]))}

    def forward(params, state, batch):
        rngs = {"dropout": jax.random.key(0), "mask": jax.random.key(0)}
        return make_objective(config, model)(params, state, batch, rngs)

    batch, state = jax.eval_shape(augmented, raw), experiment.abstract_state
    forward_adds, _ = count_multiply_adds(forward, state.params, state.model_state, batch)
    teacher_adds = 0
    if experiment.teacher is not None:

        def teach(variables, batch):
            return experiment.teacher.apply(variables, fold_views(batch)["image"])

        teacher_adds, _ = count_multiply_adds(teach, experiment.teacher.variables, batch)
    return 2 * (3 * forward_adds + teacher_adds)


def utilisation(experiment, copies: float = 1) -> Callable[[float], float] | None:
    """Return model FLOPs utilisation as a function of speed; `None` if the peak is unknown.

    Args:
      experiment: the parts of the run.
      copies: number of equal runs that share the experiment's devices.

    Returns:
      `images per second of one run → model FLOP/s divided by the peak of the devices`.
    """
    devices = experiment.mesh.devices.flat
    peak = peak_flops(devices[0].device_kind)
    if peak is None:
        return None
    per_image = model_flops(experiment) / experiment.config.batch_size
    return lambda images_per_second: images_per_second * copies * per_image / (peak * len(devices))


# ---- Traces


def check(config: ml_collections.ConfigDict, total_steps: int) -> None:
    """Raise an `InputError` if `config.profile` names updates after the end of the run."""
    c = config.profile
    if c.num_steps and c.start_step + c.num_steps > total_steps:
        raise InputError(
            f"config.profile.start_step={c.start_step} and num_steps={c.num_steps} reach beyond "
            f"the {total_steps} updates of the run"
        )


class Trace:
    """Traces the updates of `config.profile` with jax.profiler.

    Attributes:
      first: number of updates before the trace.
      last: number of updates at the end of the trace.
      running: whether the profiler is running.
    """

    def __init__(self, config: ml_collections.ConfigDict, workdir: Path):
        self.first = config.profile.start_step
        self.last = self.first + config.profile.num_steps
        self.running, self._folder = False, workdir / "profile"

    def run(self, made: int, last: int, function: Callable, *arguments) -> Any:
        """Return `function(*arguments)`, the updates `made + 1` … `last`; trace them if due.

        The trace contains only its own updates: earlier work ends before the trace starts, and the
        traced updates end before it stops.
        """
        if not self.running and self.first <= made < self.last:
            jax.block_until_ready(arguments)
            jax.profiler.start_trace(str(self._folder))
            self.running = True
        with jax.profiler.StepTraceAnnotation("train", step_num=last):
            result = function(*arguments)
        if self.running and last == self.last:
            jax.block_until_ready(result)
            self.stop()
        return result

    def stop(self) -> None:
        """Write the trace if the profiler is running."""
        if self.running:
            self.running = False
            jax.profiler.stop_trace()


@contextlib.contextmanager
def tracing(config: ml_collections.ConfigDict, workdir: Path) -> Iterator[Trace]:
    """Yield a `Trace`, and write it even if the run ends or fails within the traced updates.

    Only process 0 writes a trace, to WORKDIR/profile, because all processes run the same program.
    """
    trace = Trace(config, workdir)
    if jax.process_index():
        trace.last = trace.first
    try:
        yield trace
    finally:
        trace.stop()
