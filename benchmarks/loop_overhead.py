"""Time of a step of the training loop, relative to the bare jitted step.

    python benchmarks/loop_overhead.py [--config configs/vit_ti16.py] [--steps 190] [--rounds 5]

The bare step runs on one batch that is on the device. The loop is `loop.train` with loader,
augmentation, logging and checkpoints at the intervals of the config. Both compute the same step.
Their rounds alternate in one process, and the ratio of the median times is printed.
"""

import argparse
import importlib.metadata
import json
import statistics
import tempfile
import time
from pathlib import Path

import jax

from cv_jax import config as configs
from cv_jax.run import json_files, provenance
from cv_jax.training import experiment, loop


def bare(parts: experiment.Experiment, steps: int) -> float:
    """Return the seconds of a step on a batch on the device."""
    state, step = parts.init()(), parts.train_step()
    batch = next(parts.train_batches(0))
    state, metrics = step(state, batch)
    jax.block_until_ready(state)
    started = time.perf_counter()
    for _ in range(steps):
        state, metrics = step(state, batch)
    jax.block_until_ready((state, metrics))
    return (time.perf_counter() - started) / steps


def whole_loop(parts: experiment.Experiment) -> float:
    """Return the seconds of a step of the loop, between the first and last line of timing.jsonl."""
    with tempfile.TemporaryDirectory() as folder:
        loop.train(parts, Path(folder) / "run", "")
        lines = json_files.read_lines(Path(folder) / "run" / "timing.jsonl")
    return (lines[-1]["seconds"] - lines[0]["seconds"]) / (lines[-1]["step"] - lines[0]["step"])


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/vit_ti16.py")
    parser.add_argument("--steps", type=int, default=190)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--save_every", type=int, help="steps between checkpoints")
    parser.add_argument("--output", type=Path, help="write the result to this JSON file")
    flags = parser.parse_args()
    overrides = {
        "batch_size": str(flags.batch_size),
        "total_steps": str(flags.steps),
        "log.every_steps": "10",
        "eval.every_epochs": "none",
    }
    if flags.save_every:
        overrides["checkpoint.every_steps"] = str(flags.save_every)
    parts = experiment.build(configs.load(flags.config, overrides))
    bare_times, loop_times = [], []
    for round_ in range(flags.rounds):
        bare_times.append(bare(parts, flags.steps))
        loop_times.append(whole_loop(parts))
        print(f"round {round_ + 1}: bare {bare_times[-1]:.4f}, loop {loop_times[-1]:.4f} s a step")
    result = {
        "config": flags.config,
        "batch_size": flags.batch_size,
        "save_every_steps": parts.every("checkpoint.every"),
        "device": f"{jax.device_count()} {jax.devices()[0].device_kind}",
        "jax": importlib.metadata.version("jax"),
        "commit": provenance.commit(),
        "bare_seconds": bare_times,
        "loop_seconds": loop_times,
        "ratio": statistics.median(loop_times) / statistics.median(bare_times),
    }
    print(f"loop / bare step: {result['ratio']:.3f}")
    if flags.output:
        json_files.write_json(flags.output, result)
    else:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
