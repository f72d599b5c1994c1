"""Seconds from the start of a process to the end of its first step, with a cold and a warm cache.

    python benchmarks/start.py [--configs configs/vit_ti16.py …] [--rounds 5]

Each round starts every config twice: with an empty cache of compiled programs, and with the cache
that this start filled. The fastest start of each kind counts, because other load on the machine can
only slow a start down.
"""

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from cv_jax.run import json_files, provenance

ROOT = Path(__file__).resolve().parent.parent


def start(config: str, cache: str) -> dict[str, float]:
    """Train one step, and return the first line of timing.jsonl."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ["total_steps=1", "schedule.warmup_epochs=none", f"compile_cache={cache}"]
        command = [sys.executable, "launch.py", "--config", config, "--workdir", f"{folder}/run"]
        command += [f"--config.{flag}" for flag in flags]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        return json_files.read_lines(Path(folder) / "run" / "timing.jsonl")[0]


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--configs", nargs="+", default=["configs/vit_ti16.py", "configs/resnet20_cifar.py"]
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="write the result to this JSON file")
    flags = parser.parse_args()
    starts = {config: {"cold": [], "warm": []} for config in flags.configs}
    for round_ in range(flags.rounds):
        for config, found in starts.items():
            with tempfile.TemporaryDirectory() as cache:
                for kind in ("cold", "warm"):
                    found[kind].append(start(config, cache))
                    seconds = found[kind][-1]["first_step_seconds"]
                    print(f"round {round_ + 1}: {config} {kind}: {seconds:.1f} s", flush=True)
    result = {
        "command": " ".join(["python", "benchmarks/start.py", *sys.argv[1:]]),
        "cores": os.cpu_count(),
        "jax": importlib.metadata.version("jax"),
        "python": sys.version.split()[0],
        "commit": provenance.commit(),
        "configs": {},
    }
    for config, found in starts.items():
        cold, warm = (min(x["first_step_seconds"] for x in found[k]) for k in ("cold", "warm"))
        print(f"{config}: {cold:.1f} s cold, {warm:.1f} s warm, {cold / warm:.2f} times faster")
        fastest = {"cold_seconds": cold, "warm_seconds": warm, "ratio": round(cold / warm, 3)}
        result["configs"][config] = {**fastest, **found}
    if flags.output:
        json_files.write_json(flags.output, result)
    else:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
