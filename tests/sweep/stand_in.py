"""A fake trial without jax, which starts fast: `stand_in.py WORKDIR STEPS KIND`.

It behaves like a real trial: it locks its run directory, saves every fifth step, continues from
there with equal results, saves and ends with 75 at SIGTERM, and writes its summary last. `KIND`
selects a failure.
"""

import fcntl
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

workdir, steps, kind = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
workdir.mkdir(parents=True, exist_ok=True)
lock = (workdir / "lock").open("a+")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    sys.exit(2)
stopped = []
if kind != "deaf":
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
else:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def replace(path, text):
    path.with_suffix(".new").write_text(text)
    os.replace(path.with_suffix(".new"), path)


saved = workdir / "saved"
step, value = json.loads(saved.read_text()) if saved.is_file() else (0, workdir.name)
metrics = workdir / "metrics.jsonl"
kept = metrics.read_text().splitlines(True) if metrics.is_file() else []
replace(metrics, "".join(line for line in kept if json.loads(line)["step"] <= step))
starts = workdir / "starts.jsonl"
with starts.open("a") as file:
    about = {
        "step": step,
        "cores": sorted(os.sched_getaffinity(0)),
        "environment": dict(os.environ),
    }
    file.write(json.dumps(about) + "\n")
count = len(starts.read_text().splitlines())

if kind == "broken":
    print("a first line\nsomething broke", file=sys.stderr)
    sys.exit(1)
if kind == "nan":
    sys.exit(3)
while step < steps:
    time.sleep(0.01)
    step += 1
    value = hashlib.sha256(f"{value} {step}".encode()).hexdigest()
    with metrics.open("a") as file:
        line = {"step": step, "split": "test", "accuracy": int(value, 16) % 1000 / 1000}
        file.write(json.dumps(line) + "\n")
    if step % 5 == 0 or stopped or step == steps:
        replace(saved, json.dumps([step, value]))
    if stopped:
        sys.exit(75)
    if kind == "shaky" and step % 10 == 0 and step > json.loads(saved.read_text())[0] - 1:
        sys.exit(1)
with (workdir / "ends").open("a") as file:
    file.write(f"{count}\n")
summary = {"step": step, "value": value, "test_accuracy": 0.5, "test_loss": 1.0}
summary["sha256"] = hashlib.sha256(json.dumps(summary, sort_keys=True).encode()).hexdigest()
replace(workdir / "summary.json", json.dumps(summary, indent=2) + "\n")
