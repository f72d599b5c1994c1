"""Results of a sweep that is killed twice, and of a sweep with a failing trial.

    python benchmarks/sweep_faults.py --output benchmarks/results/sweep_faults.json

Twelve small fully connected networks (four widths, three seeds) on two slots, in three sweeps:
uninterrupted; with `kill -9` of the scheduler, and later of the scheduler and its trials, during
training; and with a last trial whose loss overflows. Every sweep is `python launch.py --sweep` in
its own process.

The benchmark fails if metric lines, summaries and weights of the killed sweep differ in any byte
from those of the uninterrupted one, if a trial is trained to its end more than once, or if the
failing trial affects any other trial.
"""

import argparse
import contextlib
import json
import os
import platform
import random
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from cv_jax.run import checkpoint, json_files, provenance

ROOT = Path(__file__).resolve().parent.parent
CONFIG = (
    (ROOT / "configs" / "mlp.py").read_text()
    + '''

def sweep():
    """Twelve points."""
    for width in (16, 32, 64, 128):
        for seed in range(3):
            yield {"model.widths": (width,), "seed": seed}


def sweep_broken():
    """The same points, with a last one that fails."""
    *points, last = sweep()
    yield from points
    yield {**last, "optim.learning_rate": 1e30, "optim.name": "sgd"}
'''
)
FLAGS = [
    *["--slots", "2", "--config.total_steps=1500", "--config.batch_size=64"],
    *["--config.checkpoint.every_steps=100", "--config.eval.every_steps=500"],
]


def command(folder: Path, name: str, sweep: str = "--sweep=") -> list[str]:
    """Return the command of the sweep with this name."""
    place = ["--sweep_dir", str(folder / name), *FLAGS]
    launch = [sys.executable, str(ROOT / "launch.py")]
    return [*launch, "--config", str(folder / "small.py"), sweep, *place]


def start(words: list[str]) -> subprocess.Popen:
    """Start the scheduler, with captured output."""
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, cwd=ROOT)


def finish(process: subprocess.Popen, code: int) -> str:
    """Wait for the exit code, and return the output."""
    out, err = process.communicate()
    if process.returncode != code:
        raise SystemExit(f"exit code {process.returncode} instead of {code}:\n{err}")
    return err + out


def wait_for_training(process: subprocess.Popen, folder: Path, done: int) -> list[psutil.Process]:
    """Wait until `done` trials have ended, two others run, and one of these has a checkpoint.

    Returns:
      The running trials.
    """
    while True:
        if process.poll() is not None:
            raise SystemExit(f"the sweep ended before it was killed:\n{process.communicate()[1]}")
        trials = psutil.Process(process.pid).children()
        saved = [
            path
            for path in folder.glob("*/checkpoints")
            if checkpoint.finished(path) and not (path.parent / "summary.json").is_file()
        ]
        if len(trials) == 2 and saved and len(finished(folder)) >= done:
            return trials
        time.sleep(0.02)


def finished(folder: Path) -> list[Path]:
    """Return the run directories with finished training."""
    return sorted(path.parent for path in folder.glob("*/summary.json"))


def result(path: Path) -> dict[str, object]:
    """Return weights, step, metric lines and summary of a run."""
    weights, step = checkpoint.read_newest(path / "checkpoints", lambda name: True)
    return {
        **{name: (path / name).read_bytes() for name in ("metrics.jsonl", "summary.json")},
        **{f"weights/{name}": (x.dtype.str, x.tobytes()) for name, x in weights.items()},
        "step": step,
    }


def ends(path: Path) -> int:
    """Return how many processes of a run report the end of the training."""
    return path.with_name(f"{path.name}.log").read_text().count("\ndone in ")


def starts(path: Path) -> list[int]:
    """Return the step of each start."""
    return [start["step"] for start in json.loads((path / "run.json").read_text())]


def measure(folder: Path) -> dict:
    """Run the three sweeps, and return the comparison."""
    (folder / "small.py").write_text(CONFIG)
    seconds = {}

    begun = time.monotonic()
    finish(start(command(folder, "peace")), 0)
    seconds["peace"] = round(time.monotonic() - begun, 1)
    peace = finished(folder / "peace")
    print(f"uninterrupted: {len(peace)} trials in {seconds['peace']} s", flush=True)

    begun, kills = time.monotonic(), []
    for done, whole in ((2, False), (6, True)):
        process = start(command(folder, "killed"))
        trials = wait_for_training(process, folder / "killed", done)
        time.sleep(random.uniform(0, 0.3))
        process.kill()
        for trial in trials if whole else ():
            with contextlib.suppress(psutil.NoSuchProcess):
                trial.kill()
        process.communicate()
        kills.append({"finished": len(finished(folder / "killed")), "with_trials": whole})
        print(f"killed: {kills[-1]}", flush=True)
    finish(start(command(folder, "killed")), 0)
    seconds["killed"] = round(time.monotonic() - begun, 1)
    killed = finished(folder / "killed")

    differences = [
        f"{a.name}: {key}"
        for a, b in zip(peace, killed, strict=True)
        for (key, one), (_, other) in zip(result(a).items(), result(b).items(), strict=True)
        if one != other
    ]
    begun = time.monotonic()
    output = finish(start(command(folder, "broken", "--sweep=broken")), 1)
    seconds["broken"] = round(time.monotonic() - begun, 1)
    report = output.replace(f"{folder}/", "").rpartition("\n\n")[2].splitlines()
    return {
        "trials": len(peace),
        "kills": kills,
        "starts": {path.name: starts(path) for path in killed},
        "trained_to_the_end": {path.name: ends(path) for path in killed},
        "differences": differences,
        "broken": {"results": len(finished(folder / "broken")), "exit_code": 1, "report": report},
        "seconds": seconds,
    }


def main():
    """Measure, print, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="write the result to this JSON file")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder))
    wrong = found["differences"] or found["trials"] != 12 or found["broken"]["results"] != 11
    wrong = wrong or set(found["trained_to_the_end"].values()) != {1}
    found = {
        "command": "python benchmarks/sweep_faults.py",
        "sweep": shlex.join(["python", "launch.py", "--config", "small.py", "--sweep", *FLAGS]),
        **found,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "commit": provenance.commit(),
    }
    print(json.dumps(found, indent=2))
    if wrong:
        sys.exit("error: the sweeps differ")
    if flags.output:
        json_files.write_json(flags.output, found)


if __name__ == "__main__":
    main()
