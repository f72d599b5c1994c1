"""Trains configs with several seeds and records their test accuracies.

    python benchmarks/accuracy.py configs/linear.py configs/mlp.py --seeds 3 --output FILE

Each run is the plain command `python launch.py --config CONFIG --config.seed=SEED` in a process of
its own and in a directory of its own, which is deleted; its time includes start and compilation.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cv_jax import workdir

ROOT = Path(__file__).resolve().parent.parent


def train(config: str, seed: int) -> dict:
    """One run: its summary, its start as recorded, and its wall time in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        command = [sys.executable, str(ROOT / "launch.py"), "--config", config]
        command += [f"--config.seed={seed}", "--workdir", str(path)]
        started = time.monotonic()
        process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        seconds = time.monotonic() - started
        if process.returncode:
            raise SystemExit(f"{config} with seed {seed} failed:\n{process.stderr}")
        summary = json.loads((path / "summary.json").read_text())
        (start,) = json.loads((path / "run.json").read_text())
    return {"summary": summary, "start": start, "seconds": round(seconds, 1)}


def main():
    """Measures, prints a line for each config, and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    flags = parser.parse_args()
    known = {}
    if flags.output and flags.output.is_file():
        known = json.loads(flags.output.read_text())
    for config in flags.config:
        runs = [train(config, seed) for seed in range(flags.seeds)]
        accuracies = [run["summary"]["test_accuracy"] for run in runs]
        start = runs[0]["start"]
        known[config] = {
            "command": f"python launch.py --config {config} --config.seed=SEED",
            "seeds": list(range(flags.seeds)),
            "test_accuracy": accuracies,
            "mean": statistics.mean(accuracies),
            "standard_deviation": statistics.stdev(accuracies) if len(runs) > 1 else None,
            "parameters": runs[0]["summary"]["parameters"],
            "seconds": [run["seconds"] for run in runs],
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "commit": start["commit"],
            "devices": start["devices"],
            "versions": start["versions"],
        }
        print(
            f"{config}: {known[config]['mean']:.2%} ({', '.join(f'{a:.2%}' for a in accuracies)}), "
            f"{statistics.median(known[config]['seconds']):.0f} s",
            flush=True,
        )
        if flags.output:
            workdir.write_json(flags.output, known)


if __name__ == "__main__":
    main()
