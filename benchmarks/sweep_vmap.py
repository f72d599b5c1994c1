"""Time to train trials together in one program, relative to separate runs one after the other.

    python benchmarks/sweep_vmap.py [--config configs/mlp.py] [--trials 32] [--set model.widths=64]

Both train the same trials, seeds times learning rates, in this process and on one device. Two
ratios are printed: of the total times, with one compilation for each separate run, and of the times
between the first and last line of `timing.jsonl`, without compilation. With `--separate N` only N
trials run alone, and their times count for all.
"""

import argparse
import importlib.metadata
import os
import sys
import tempfile
import time
from pathlib import Path

import jax

from cv_jax import config as configs
from cv_jax.run import json_files, provenance
from cv_jax.sweep import vmapped
from cv_jax.training import experiment, loop


def steps_only(folder: Path) -> float:
    """Return the seconds between the first and last regular line of timing.jsonl."""
    lines = json_files.read_lines(folder / "timing.jsonl")
    lines = [line for line in lines if "first_step_seconds" not in line]
    return lines[-1]["seconds"] - lines[0]["seconds"]


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/mlp.py")
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--steps", type=int, default=220)
    parser.add_argument(
        "--separate", type=int, help="trials that also run alone, to save time (default: all)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--output", type=Path, help="write the result to this JSON file")
    flags = parser.parse_args()
    shared = {
        "mesh.devices": "1",
        "total_steps": str(flags.steps),
        "log.every_steps": "20",
        "eval.every_epochs": "none",
        "checkpoint.every_epochs": "none",
        **dict(item.split("=", 1) for item in flags.set),
    }
    points = [
        {"seed": str(i // 4), "optim.learning_rate": str(1e-3 * 2 ** (i % 4))}
        for i in range(flags.trials)
    ]
    loaded = [configs.load(flags.config, {**shared, **point}) for point in points]
    result = {
        "command": " ".join(["python", "benchmarks/sweep_vmap.py", *sys.argv[1:]]),
        "device": f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores",
        "jax": importlib.metadata.version("jax"),
        "commit": provenance.commit(),
    }
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / f"trial{i}" for i in range(flags.trials)]
        started = time.monotonic()
        vmapped.run(dict(zip(folders, loaded, strict=True)), print)
        result["together_seconds"] = round(time.monotonic() - started, 2)
        result["together_steps_seconds"] = round(steps_only(folders[0]), 2)
        separate = flags.separate or flags.trials
        folders = [Path(name) / f"separate{i}" for i in range(separate)]
        started = time.monotonic()
        for folder, config in zip(folders, loaded[:separate], strict=True):
            loop.train(experiment.build(config), folder, "")
        times = flags.trials / separate
        result["separate_seconds"] = round(times * (time.monotonic() - started), 2)
        result["separate_steps_seconds"] = round(times * sum(map(steps_only, folders)), 2)
    result["ratio"] = round(result["separate_seconds"] / result["together_seconds"], 2)
    steps = result["separate_steps_seconds"] / result["together_steps_seconds"]
    result["steps_ratio"] = round(steps, 2)
    for name in ("ratio", "steps_ratio"):
        print(f"{name}: {result[name]} times faster together")
    if flags.output:
        json_files.write_json(flags.output, result)


if __name__ == "__main__":
    main()
