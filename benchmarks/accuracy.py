"""Train configs with several seeds, and record their test accuracies.

    python benchmarks/accuracy.py configs/linear.py configs/mlp.py --seeds 3 --output FILE
    python benchmarks/accuracy.py "configs/mlp.py --config.augment=flip" --runs DIR --output FILE

Each run is the command `python launch.py --config CONFIG --config.seed=SEED` in its own process;
its time includes start and compilation. Run directories are deleted, or kept in DIR. With the same
DIR a repeated benchmark continues unfinished runs, and records no time for them.
"""

import argparse
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cv_jax.run import json_files

ROOT = Path(__file__).resolve().parent.parent


def train(config: str, seed: int, folder: Path) -> dict:
    """Run one config, and return its summary, first start record and wall time in seconds."""
    name = re.sub(r"[^\w.=-]+", "-", f"{config}-{seed}")
    path, fresh = folder / name, not (folder / name).exists()
    command = [sys.executable, str(ROOT / "launch.py"), "--config", *shlex.split(config)]
    command += [f"--config.seed={seed}", "--workdir", str(path)]
    started = time.monotonic()
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    seconds = round(time.monotonic() - started, 1)
    if process.returncode:
        raise SystemExit(f"{config} with seed {seed} failed:\n{process.stderr}")
    summary = json.loads((path / "summary.json").read_text())
    start = json.loads((path / "run.json").read_text())[0]
    return {"summary": summary, "start": start, "seconds": seconds if fresh else None}


def main():
    """Parse the flags, and measure in a temporary folder or in `--runs`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, metavar="DIR", help="keep the run directories here")
    parser.add_argument("--output", type=Path, help="write the results to this JSON file")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        measure(flags, flags.runs or Path(scratch))


def measure(flags: argparse.Namespace, folder: Path):
    """Train every config with every seed; print a line and rewrite the file after each config."""
    known = {}
    if flags.output and flags.output.is_file():
        known = json.loads(flags.output.read_text())
    for config in flags.config:
        runs = [train(config, seed, folder) for seed in range(flags.seeds)]
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
            f"{known[config]['seconds']} s",
            flush=True,
        )
        if flags.output:
            json_files.write_json(flags.output, known)


if __name__ == "__main__":
    main()
