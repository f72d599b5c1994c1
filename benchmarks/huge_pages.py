"""Seconds of a training step on a CPU without and with huge pages for large allocations.

    python benchmarks/huge_pages.py [--config configs/vit_b16.py] [--rounds 3]

Rounds without and with huge pages alternate. Each has its own process, because glibc reads the
setting when a process starts.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STEPS = 8
CODE = f"""
import sys, time, jax
from cv_jax import config
from cv_jax.training import experiment
parts = experiment.build(config.load(sys.argv[1]))
state, step, batch = parts.init()(), parts.train_step(), next(parts.train_batches(0))
for _ in range(3):  # compiles, and fills the allocator
    state, _ = jax.block_until_ready(step(state, batch))
started = time.perf_counter()
for _ in range({STEPS}):
    state, _ = jax.block_until_ready(step(state, batch))
print((time.perf_counter() - started) / {STEPS})
"""


def seconds(config: str, tunables: str) -> float:
    """Return the seconds of a step in a new process with this value of GLIBC_TUNABLES."""
    process = subprocess.run(
        [sys.executable, "-c", CODE, config],
        env={**os.environ, "GLIBC_TUNABLES": tunables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(process.stdout.splitlines()[-1])


def main():
    """Measure and print."""
    from cv_jax.run import json_files, provenance

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/vit_b16.py")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="write the result to this JSON file")
    flags = parser.parse_args()
    small, huge = [], []
    for _ in range(flags.rounds):
        small.append(seconds(flags.config, ""))
        huge.append(seconds(flags.config, "glibc.malloc.hugetlb=1"))
        print(f"small pages {small[-1]:.3f}, huge pages {huge[-1]:.3f} s a step", flush=True)
    ratio = statistics.median(small) / statistics.median(huge)
    print(f"{flags.config}: {ratio:.2f} times faster with huge pages")
    if flags.output:
        result = {"config": flags.config, "commit": provenance.commit(), "cores": os.cpu_count()}
        result |= {"small_pages": small, "huge_pages": huge, "ratio": ratio}
        json_files.write_json(flags.output, result)


if __name__ == "__main__":
    main()
