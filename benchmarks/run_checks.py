"""Training runs that must agree; a process of `benchmarks.gpu`.

    python -m benchmarks.run_checks families            every family trains for a few steps
    python -m benchmarks.run_checks repeat CONFIG       the same run twice, loss by loss
    python -m benchmarks.run_checks restart CONFIG      after `kill -9` and the same command
    python -m benchmarks.run_checks sweep               trials in one program

Every run is `launch.py` in a process of its own, on the embedded digits. The losses of all steps
are reported, so that a difference can be located. `--xla_flags` are for all runs.
"""

import argparse
import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import turns

FAMILIES = (
    *("lenet5", "resnet20_cifar", "vit_ti16", "swin", "mae", "linear", "mlp", "alexnet", "vgg"),
    *("image_transformer", "transformer"),
)


def command(config: str, workdir: Path, steps: int, *more: str) -> list[str]:
    """Return the words of a run that writes the loss of every step."""
    fields = {
        "total_steps": steps,
        "log.every_steps": 1,
        "schedule.warmup_steps": 2,  # that of the file may be longer than the run
        "mesh.devices": 1,
        **dict(item.split("=", 1) for item in more),
    }
    words = [sys.executable, "launch.py", "--config", f"configs/{config}.py"]
    words += ["--workdir", str(workdir)]
    return words + [f"--config.{name}={value}" for name, value in fields.items()]


def losses(workdir: Path) -> list[float]:
    """Return the training losses that a run has written."""
    file = workdir / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [line["loss"] for line in lines if line["split"] == "train"]


def run(words: list[str], workdir: Path, variables: dict[str, str]) -> dict:
    """Run a command to its end; return exit code, seconds, losses and the last line of an error."""
    began = time.monotonic()
    process = subprocess.run(
        words,
        cwd=turns.ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        errors="replace",
    )
    row = {"code": process.returncode, "seconds": round(time.monotonic() - began, 1)}
    if process.returncode:
        row["error_line"] = (process.stderr.strip().splitlines() or [""])[-1][:400]
    return {**row, "losses": losses(workdir)}


def differing(first: list[float], second: list[float]) -> dict:
    """Return whether two runs have the same losses, and the first step where they differ."""
    steps = [i for i, (a, b) in enumerate(zip(first, second, strict=False), 1) if a != b]
    equal = bool(first) and len(first) == len(second) and not steps
    return {"equal": equal, "first_difference": steps[0] if steps else None}


def families(folder: Path, steps: int, names: list[str], at_a_time: int, variables: dict) -> None:
    """Train every family for a few steps, with products in full float32 precision."""
    variables = {"JAX_DEFAULT_MATMUL_PRECISION": "highest", **variables}

    def one(name):
        words = command(name, folder / name, steps, "eval.every_epochs=none")
        turns.report(config=name, **run(words, folder / name, variables))

    with concurrent.futures.ThreadPoolExecutor(at_a_time) as pool:
        list(pool.map(one, names))


def repeat(folder: Path, config: str, steps: int, variables: dict) -> None:
    """Train twice with the same command."""
    found = []
    for i in range(2):
        workdir = folder / str(i)
        found.append(run(command(config, workdir, steps), workdir, variables))
    turns.report(config=config, **differing(*(r["losses"] for r in found)), runs=found)


def restart(folder: Path, config: str, steps: int, variables: dict) -> None:
    """Kill a run after a checkpoint, start it again, and compare with an uninterrupted run."""
    fields = "checkpoint.every_steps=10", "eval.every_epochs=none"
    whole = run(command(config, folder / "whole", steps, *fields), folder / "whole", variables)
    words = command(config, folder / "killed", steps, *fields)
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(
        words, cwd=turns.ROOT, env={**os.environ, **variables}, stdout=quiet, stderr=quiet
    )
    while process.poll() is None and len(losses(folder / "killed")) < 15:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    killed = process.wait() == -signal.SIGKILL  # otherwise the run had ended before
    after = len(losses(folder / "killed")) if killed else None
    again = run(words, folder / "killed", variables)
    same = differing(whole["losses"], again["losses"])
    turns.report(config=config, **same, killed_after=after, runs=[whole, again])


def sweep(folder: Path, words: list[str]) -> None:
    """Run `benchmarks/sweep_vmap.py`."""
    file = folder / "result.json"
    script = [sys.executable, "benchmarks/sweep_vmap.py", *words, "--output", str(file)]
    subprocess.run(script, cwd=turns.ROOT, check=True, stdout=subprocess.DEVNULL)
    turns.report(**json.loads(file.read_text()))


def main():
    """Make one check and report it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("check", choices=("families", "repeat", "restart", "sweep"))
    parser.add_argument("config", nargs="*", help="names of files in configs/")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--xla_flags", default="", help="beyond those of the environment")
    parser.add_argument("--at_a_time", type=int, default=1, help="runs of families side by side")
    parser.add_argument("--trials", type=int, default=32, help="of the sweep")
    flags = parser.parse_args()
    given = f"{os.environ.get('XLA_FLAGS', '')} {flags.xla_flags}".strip()
    variables = {"XLA_FLAGS": given} if given else {}
    turns.hold_device()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if flags.check == "families":
            names = flags.config or list(FAMILIES)
            families(folder, flags.steps, names, flags.at_a_time, variables)
        elif flags.check == "sweep":
            words = ["--trials", str(flags.trials), "--separate", "2"]
            sweep(folder, [*words, "--steps", str(flags.steps), "--set", "model.widths=64"])
        else:
            check = {"repeat": repeat, "restart": restart}[flags.check]
            for config in flags.config:
                check(folder / config, config, flags.steps, variables)


if __name__ == "__main__":
    main()
