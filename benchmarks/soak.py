"""A long run in small: saves, evaluations, loader processes, and two readers at the same time.

    python benchmarks/soak.py --output benchmarks/results/soak.json

A run of 5,000 steps saves every 50th step and evaluates every 100th. Meanwhile two processes verify
it, read its newest checkpoint and describe it, again and again. Memory, descriptors and
threads of all processes are sampled. The benchmark fails if a reader fails once, if one of them
grows, or if shared memory is left afterwards.

Memory is flat if its median in the last quarter of the time is at most 3 % and 4 MiB above that in
the second quarter; the first includes compilation.
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from cv_jax.run import json_files, provenance

ROOT = Path(__file__).resolve().parent.parent
FIELDS = {
    "image_size": 8,
    "batch_size": 16,
    "model.widths": "32,32",
    "eval.every_steps": 100,
    "checkpoint.every_steps": 50,
    "log.every_steps": 50,
    "data.cache": "none",
    "data.workers": 1,
    "mesh.devices": 1,
    "schedule.warmup_steps": 10,
}
GROWTH, SLACK = 1.03, 4 * 2**20  # of memory between two quarters
MEMORY = Path("/dev/shm")


def command(path: Path, data_dir: Path, steps: int) -> list[str]:
    """Return the command of the run."""
    fields = {**FIELDS, "total_steps": steps, "data.dir": data_dir}
    words = ["--config", f"{ROOT}/configs/mlp.py", "--workdir", str(path)]
    words += [f"--config.{name}={value}" for name, value in fields.items()]
    return [sys.executable, str(ROOT / "launch.py"), *words]


# ---- Readers


def read_again_and_again(path: Path, pause: float) -> None:
    """Read a run until it has ended; print the number of readings, and the first failure."""
    from cv_jax.commands import verify
    from cv_jax.report import run_files
    from cv_jax.run import checkpoint

    readings = 0
    while not (path / "summary.json").exists():
        if checkpoint.finished(path / "checkpoints"):
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                code = verify.main([str(path)])
            _, step = checkpoint.read_newest(path / "checkpoints", lambda name: True)
            damage = run_files.read(path).damage
            if code or damage:
                print(f"step {step}: {damage} {said.getvalue()}", flush=True)
                sys.exit(1)
            readings += 1
        time.sleep(pause)
    print(readings, flush=True)


# ---- Samples


def sample(process: psutil.Process) -> dict[str, int] | None:
    """Return memory and descriptors of a process with its children; `None` if it has ended."""
    found = {"memory": 0, "descriptors": 0, "threads": 0}
    try:
        for one in (process, *process.children(recursive=True)):
            with one.oneshot():
                found["memory"] += one.memory_info().rss
                found["descriptors"] += one.num_fds()
                found["threads"] += one.num_threads()
    except psutil.Error:
        return None
    return found


def quarters(samples: list[dict[str, int]], name: str) -> list[float]:
    """Return the median of each quarter of the samples."""
    size = max(1, len(samples) // 4)
    parts = [samples[i * size : (i + 1) * size] for i in range(4)]
    return [statistics.median(one[name] for one in part) for part in parts if part]


def is_flat(values: list[float], growth: float = GROWTH, slack: float = SLACK) -> bool:
    """Whether the last quarter is not above the second one, beyond the tolerances."""
    return values[-1] <= values[1] * growth + slack


def left_memory(process: int) -> list[str]:
    """Return the shared memory of a process and its children; see `data.children`."""
    files = MEMORY.iterdir() if MEMORY.is_dir() else ()
    return [f.name for f in files if f.name.startswith("cv_jax-") and f"-{process}-" in f.name]


# ---- The whole


def measure(folder: Path, steps: int, pause: float) -> dict[str, Any]:
    """Train with readers, and return samples in quarters and what was found."""
    from cv_jax.data import embedded

    data_dir, started = embedded.ensure("digits", folder / "data"), time.monotonic()
    run = subprocess.Popen(
        command(folder / "run", data_dir, steps), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    words = [sys.executable, __file__, "--reader", str(folder / "run"), "--pause", str(pause)]
    readers = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    names = {"run": run, "reader 1": readers[0], "reader 2": readers[1]}
    samples: dict[str, list[dict[str, int]]] = {name: [] for name in names}
    shared = 0
    os.set_blocking(run.stdout.fileno(), False)
    said = b""
    while run.poll() is None:
        said += run.stdout.read() or b""
        for name, process in names.items():
            found = sample(psutil.Process(process.pid)) if process.poll() is None else None
            if found and (name != "run" or (folder / "run/metrics.jsonl").exists()):
                samples[name].append(found)
        shared = max(shared, len(left_memory(run.pid)))
        time.sleep(0.25)
    texts = [reader.communicate(timeout=60)[0].strip() for reader in readers]
    if run.returncode or any(reader.returncode for reader in readers):
        raise SystemExit(f"exit code {run.returncode}: {said.decode()[-2000:]}; readers: {texts}")
    end = time.monotonic() + 10
    while left_memory(run.pid) and time.monotonic() < end:
        time.sleep(0.1)
    return {
        "steps": steps,
        "saves": steps // FIELDS["checkpoint.every_steps"],
        "evaluations": steps // FIELDS["eval.every_steps"],
        "readings": [int(text) for text in texts],
        "seconds": round(time.monotonic() - started, 1),
        "samples": {name: len(values) for name, values in samples.items()},
        "quarters": {
            name: {kind: quarters(values, kind) for kind in ("memory", "descriptors", "threads")}
            for name, values in samples.items()
        },
        "shared_memory_while_running": shared,
        "shared_memory_afterwards": len(left_memory(run.pid)),
    }


def objections(found: dict[str, Any]) -> list[str]:
    """Return one line for each thing that grows or is left."""
    lines = []
    for name, kinds in found["quarters"].items():
        if not is_flat(kinds["memory"]):
            lines.append(f"memory of {name}: {[round(x / 2**20) for x in kinds['memory']]} MiB")
        # Loader and writer threads come and go between two samples.
        lines += [
            f"{kind} of {name}: {kinds[kind]}"
            for kind in ("descriptors", "threads")
            if not is_flat(kinds[kind], growth=1, slack=8)
        ]
    if found["shared_memory_afterwards"]:
        lines.append(f"{found['shared_memory_afterwards']} objects of shared memory are left")
    if min(found["readings"]) == 0:
        lines.append("a reader read nothing")
    return lines


def main() -> int:
    """Measure, print, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5000, help="updates of the run")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between two readings")
    parser.add_argument("--output", type=Path, help="write the result to this JSON file")
    parser.add_argument("--reader", type=Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.reader:
        read_again_and_again(flags.reader, flags.pause)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), flags.steps, flags.pause)
    lines = objections(found)
    found = {
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        **provenance.environment(),
        **found,
        "objections": lines,
    }
    print(json.dumps({name: found[name] for name in ("readings", "seconds", "quarters")}, indent=1))
    print("\n".join(lines) or "flat")
    if flags.output:
        json_files.write_json(flags.output, found)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
