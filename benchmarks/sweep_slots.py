"""Share of idle time of the slots in a sweep of short trials.

    python benchmarks/sweep_slots.py --output benchmarks/results/sweep_slots.json

`python launch.py --sweep` trains twenty-four linear classifiers on two slots. The time of a slot
extends from the start of the first trial to the end of the last trial of the sweep. A slot is used
while the process of a trial exists, including its start and imports. Idle times are the gaps
between trials, and the end, when one slot has no trial left. The result also has the time from the
start of a trial's process to the end of its first step, for trials that find their programs in the
compilation cache.
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
    """Measure, print, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="write the result to this JSON file")
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
    # The first trial of each slot may compile the programs that later trials read from the cache.
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
