"""How much of their time slots stand idle while a sweep of short trials runs.

    python benchmarks/sweep_slots.py --output benchmarks/results/sweep_slots.json

Twenty-four linear classifiers on two slots, a plain `python launch.py --sweep`. The time of a slot
is from the first start of a trial to the last end of one; it is used while a trial's process lives
(start and imports included: those are the trial's, not the scheduler's). What is idle is the gaps
between trials and, at the end, the slot that has nothing left to do. The time from the start of a
trial's process to the end of its first step is recorded beside it, for those whose programs the
trials before them had compiled.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from cv_jax.run import json_files, provenance

ROOT = Path(__file__).resolve().parent.parent
FLAGS = ["--config", "small.py", "--sweep", "--seeds", "24", "--slots", "2"]
CONFIG = (ROOT / "configs" / "linear.py").read_text() + "\n\ndef sweep():\n    yield {}\n"


def main():
    """Measures, prints, and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "small.py").write_text(CONFIG)
        words = [sys.executable, str(ROOT / "launch.py"), *FLAGS, "--sweep_dir", "sweep"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(words, check=True, cwd=folder, env=environment)
        trials = json_files.read_lines(Path(folder) / "sweep" / "trials.jsonl")
        timings = [
            json_files.read_lines(Path(folder) / "sweep" / trial["trial"] / "timing.jsonl")
            for trial in trials
        ]
    # The first two on their slots may have compiled what the others find in the cache.
    first_steps = [
        line["first_step_seconds"]
        for lines in timings[2:]
        for line in lines
        if "first_step_seconds" in line
    ]
    slots: dict[str, list] = {}
    for trial in sorted(trials, key=lambda trial: trial["started"]):
        slots.setdefault(trial["slot"], []).append(trial)
    first = min(trial["started"] for trial in trials)
    last = max(trial["started"] + trial["seconds"] for trial in trials)
    used = sum(trial["seconds"] for trial in trials)
    gaps = [
        after["started"] - before["started"] - before["seconds"]
        for own in slots.values()
        for before, after in zip(own, own[1:], strict=False)
    ]
    whole = (last - first) * len(slots)
    result = {
        "command": "python benchmarks/sweep_slots.py",
        "sweep": shlex.join(["python", "launch.py", *FLAGS]),
        "trials": len(trials),
        "slots": len(slots),
        "slot_seconds": round(whole, 1),
        "used_seconds": round(used, 1),
        "idle_share": round(1 - used / whole, 4),
        "idle_share_between_trials": round(sum(gaps) / whole, 4),
        "mean_trial_seconds": round(used / len(trials), 2),
        "first_step_seconds": {
            "median": round(statistics.median(first_steps), 2),
            "longest": max(first_steps),
        },
        "longest_gap_seconds": round(max(gaps), 3),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "commit": provenance.commit(),
    }
    print(json.dumps(result, indent=2))
    if flags.output:
        json_files.write_json(flags.output, result)


if __name__ == "__main__":
    main()
