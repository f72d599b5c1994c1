"""Measure training steps of one case with `cv_jax`; a process of `benchmarks.step`.

The step is the one of a training run: `Experiment.train_step` normalises and flips a uint8 batch in
device memory, computes loss and gradient, and updates the parameters.
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path

import ml_collections
import numpy as np

from benchmarks import timing, turns
from benchmarks.step_cases import CASES, TINY, Case
from cv_jax.devices import start


def noise_folder(folder: Path, size: int, classes: int) -> str:
    """Write a dataset of one noisy image in every class; return its name."""
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "noise.png")
    for split in ("train", "val"):
        for i in range(classes):
            class_ = folder / "images" / split / f"{i:04}"
            class_.mkdir(parents=True)
            (class_ / "noise.png").hardlink_to(folder / "noise.png")
    return f"folder:{folder / 'images'}"


def make_config(
    case: Case, dataset: str, batch: int, dtype: str, overrides: dict
) -> ml_collections.ConfigDict:
    """Return the config of a case: defaults of the model and an optimiser with fixed numbers."""
    from cv_jax import config as configs

    config = configs.default(dataset, case.model)
    fields = {
        "image_size": case.size,
        "augment": f"resize({case.size})|flip",
        "eval_preprocess": f"resize({case.size})",
        "batch_size": batch,
        "eval.batch_size": batch,
        "total_epochs": None,
        "total_steps": 1000,
        "eval.every_epochs": None,
        "data.cache": "none",
        "mesh.devices": 1,
        "optim.name": "sgd" if case.sgd else "adamw",
        "optim.learning_rate": 1e-3,
        "optim.weight_decay": 1e-4 if case.sgd else 0.05,
        "optim.clip_norm": None,
        **({"model.dtype": dtype} if "dtype" in config.model else {}),
        **({"optim.momentum": 0.9} if case.sgd else {}),
        **case.fields,
        **overrides,
    }
    for name, value in fields.items():
        configs.set_value(config, name, value)
    return configs.with_normalisation(config)


def peak_bytes(device) -> int:
    """Return the largest memory in use so far: of the device, or of this process on a CPU."""
    stats = device.memory_stats() or {}
    return (
        stats.get("peak_bytes_in_use") or 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )


def measure(config, seconds: float, repetitions: int, profile: bool) -> dict:
    """Compile and time the training step; return a row of results."""
    import jax

    from benchmarks import kernels
    from cv_jax.training import experiment, profiling

    began = time.perf_counter()
    parts = experiment.build(config)
    function, init = parts.train_step(), parts.init().lower()
    batch = next(parts.train_batches(0))
    lowered = function.lower(parts.abstract_state, batch)
    flops = profiling.model_flops(parts) / config.batch_size
    row = {"trace_seconds": time.perf_counter() - began, "flops_per_image": flops}
    turns.hold_device()

    began = time.perf_counter()
    state = jax.block_until_ready(init.compile()())
    row["init_seconds"] = time.perf_counter() - began
    began = time.perf_counter()
    compiled = lowered.compile()
    row["compile_seconds"] = time.perf_counter() - began
    row["temporary_bytes"] = getattr(compiled.memory_analysis(), "temp_size_in_bytes", None)
    began = time.perf_counter()

    def step():
        nonlocal state
        state, metrics = compiled(state, batch)
        return metrics["loss"]

    for _ in range(2):
        loss = step()
    row["loss"] = float(loss)
    row["warm_up_seconds"] = time.perf_counter() - began
    speeds = timing.speeds(step, jax.block_until_ready, config.batch_size, seconds, repetitions)
    device = jax.devices()[0]
    row |= {"images_per_second": speeds, "peak_bytes": peak_bytes(device)}
    row |= {"device": device.device_kind, "versions": {"jax": jax.__version__}}
    peak = profiling.peak_flops(device.device_kind)
    if peak:
        row["utilisation"] = statistics.median(speeds) * flops / peak
    if profile:
        row["kernel_milliseconds"] = kernels.milliseconds(
            lambda: jax.block_until_ready([step() for _ in range(2)]), 2
        )
    return row


def main():
    """Measure one case and report it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--seconds", type=float, default=0.5, help="of a repetition")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--fields", type=json.loads, default={}, help="config fields as JSON")
    parser.add_argument("--cache", help="folder for compiled programs")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    flags = parser.parse_args()
    start.load_jax()
    from cv_jax.devices import compile_cache

    compile_cache.use(flags.cache or "none")
    case = (TINY if flags.tiny else CASES)[flags.case]
    with tempfile.TemporaryDirectory() as folder:
        dataset = noise_folder(Path(folder), case.size, case.classes)
        config = make_config(case, dataset, flags.batch, flags.dtype, flags.fields)
        turns.report(**measure(config, flags.seconds, flags.repetitions, flags.profile))


if __name__ == "__main__":
    main()
