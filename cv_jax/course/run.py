"""Runs the studies of chapters: each is the sweep command that the page shows."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cv_jax import signals
from cv_jax.course.chapter import Study
from cv_jax.errors import ExitCode, InputError
from cv_jax.report import results
from cv_jax.report.results import DONE
from cv_jax.sweep import points, process_entry
from cv_jax.sweep.points import Sweep

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = Path("configs/experiments")


def require_experiments() -> None:
    """Raise an `InputError` if the package was installed without the repository around it."""
    if not ((ROOT / EXPERIMENTS).is_dir() and (ROOT / "launch.py").is_file()):
        raise InputError(
            f"the course needs launch.py and {EXPERIMENTS} beside the package, which {ROOT} does "
            "not have; clone the repository"
        )


def reference(study: Study, dataset: str, out: Path) -> str:
    """Return `FILE:ARGUMENT` of a study; the file as in the documents where that finds it.

    Raises:
      InputError: the study cannot be run on this dataset.
    """
    if dataset not in study.arguments:
        allowed = ", ".join(study.arguments)
        raise InputError(f"{study.name} is not defined on {dataset}; allowed: {allowed}")
    base = Path() if Path().resolve() == ROOT else ROOT
    argument = study.arguments[dataset].replace("{out}", str(out))
    return f"{base / EXPERIMENTS / study.file}{':' if argument else ''}{argument}"


def sweep_of(study: Study, dataset: str, out: Path, seeds: int | None) -> Sweep:
    """Return the sweep of a study; without seeds, one point for each setting."""
    return points.read(reference(study, dataset, out), _overrides(study, out), study.sweep, seeds)


def alone(study: Study) -> Study:
    """Return a study that needs no other study: its networks have the same sizes."""
    arguments = {name: re.sub(r",\w+=\{out\}[^,]*", "", a) for name, a in study.arguments.items()}
    kept = {name: text for name, text in study.overrides.items() if "{out}" not in text}
    return study._replace(arguments=arguments, overrides=kept, needs=())


def flags(study: Study, dataset: str, out: Path, seeds: int, executor: Sequence[str]) -> list[str]:
    """Return the words of the study's command after `launch.py`.

    Args:
      study: the study.
      dataset: name of the dataset.
      out: folder of all studies.
      seeds: number of seeds.
      executor: flags such as `--slots 2`; empty for the study's own.
    """
    own = ["--sweep_executor=vmap"] if study.executor == "vmap" else []
    return [
        *["--config", reference(study, dataset, out)],
        *(f"--config.{name}={text}" for name, text in _overrides(study, out).items()),
        f"--sweep={study.sweep}" if study.sweep else "--sweep",
        *["--seeds", str(seeds), "--sweep_dir", str(out / study.name)],
        *(executor or own),
    ]


def _overrides(study: Study, out: Path) -> dict[str, str]:
    return {name: text.replace("{out}", str(out)) for name, text in study.overrides.items()}


def is_finished(study: Study, dataset: str, out: Path, seeds: int) -> bool:
    """Whether all trials of a study are finished."""
    folder = out / study.name
    if not (folder / "sweep.json").is_file():
        return False
    wanted = {point.name for point in sweep_of(study, dataset, out, seeds).points}
    done = {result.name for result in results.read(folder)[1] if result.state == DONE}
    return wanted <= done


def run(words: Sequence[str]) -> int:
    """Run `launch.py` with these flags in its own process, and return its exit code.

    A signal lets it save and stop; the code is then `ExitCode.STOPPED`. A second Ctrl-C ends both.
    """
    command = [sys.executable, str(ROOT / "launch.py"), *words]
    with signals.caught("") as stop:
        process = subprocess.Popen(
            process_entry.wrapped(command),
            stdin=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C reaches only this process, which passes it on once
        )
        passed = False
        while process.poll() is None:
            if stop.signal and not passed:
                passed = True
                process.send_signal(signal.SIGTERM)
            time.sleep(0.05)
    return ExitCode.STOPPED if stop.signal else process.returncode
