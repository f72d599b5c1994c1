"""Harms runs in many ways and looks whether they still end as if nobody had touched them.

    python benchmarks/faults.py [--faults 120] [--seed 0] [--output FILE]

A case trains one of `KINDS` in a directory of its own while one to four faults befall it: processes
are killed or told to stop, at any time or while they save; bits flip and files are cut short,
removed or made unreadable, between two starts or under a process that runs; disks are full. The
same command is then given again until the run has ended and `verify` finds nothing; where the
program said in one line what is wrong, its advice is followed. At the end all arrays of the last
checkpoint, metrics.jsonl and summary.json must be those of an undisturbed run, bit for bit. A run
that does not get there is lost, one that gets elsewhere, or ends in a traceback, is wrong.

Every choice of a case is drawn from its seed, so that `--seed SEED --faults 1` repeats it; only the
moments at which the clock lets a fault strike differ.

A full disk is a small tmpfs, which needs root; elsewhere that fault is left out, and the limit that
the kernel sets to the size of a file (EFBIG where a disk says ENOSPC) is what stops writing.
"""

import argparse
import collections
import contextlib
import io
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cv_jax.commands import verify
from cv_jax.errors import InputError
from cv_jax.run import checkpoint, json_files, provenance

ROOT = Path(__file__).resolve().parent.parent
DONE, FAILED, MISTAKE, STOPPED = 0, 1, 2, 75

_SHORT = {
    "image_size": 8,
    "batch_size": 16,
    "total_steps": 60,
    "schedule.warmup_steps": 3,
    "eval.every_steps": 20,
    "checkpoint.every_steps": 4,
    "log.every_steps": 3,
}
_MLP = {"model.widths": "32,32", "model.dropout_rate": 0.1, **_SHORT}

# Kind of run → its config and what differs from it.
KINDS: dict[str, tuple[str, dict[str, object]]] = {
    "batch_norm": (
        "resnet",
        {
            "model.widths": "4,8,8",
            "model.stem_width": 4,
            "model.stage_sizes": "1,1,1",
            "augment": "pad_crop(1)|mixup(0.2)",
            **_SHORT,
        },
    ),
    "ema": ("mlp", {"ema.decay": 0.99, "checkpoint.keep_best": 1, "augment": "flip", **_MLP}),
    "mae": (
        "mae",
        {
            "model.width": 16,
            "model.depth": 1,
            "model.num_heads": 2,
            "model.decoder_width": 16,
            "model.decoder_depth": 1,
            "model.decoder_num_heads": 2,
            "augment": "pad_crop(1)",
            **_SHORT,
        },
    ),
    "accumulation": ("mlp", {"optim.accumulate_steps": 4, **_MLP}),
    "fsdp": ("mlp", {"mesh.params": "fsdp", "mesh.fsdp_min_size": 16, **_MLP}),
}


class Case(NamedTuple):
    """One run that is harmed.

    Attributes:
      kind: one of `KINDS`.
      folder: all of it; the run directory is `folder/run`.
      data_dir: prepared digits.
      draw: what every choice is drawn from.
      seconds: how long an undisturbed run takes.
    """

    kind: str
    folder: Path
    data_dir: Path
    draw: random.Random
    seconds: float

    @property
    def workdir(self) -> Path:
        return self.folder / "run"

    def start(self, limit: int | None = None) -> subprocess.Popen:
        """The plain command, in a process; `limit` is the largest file that it may write."""
        name, overrides = KINDS[self.kind]
        flags = {"data.dir": self.data_dir, **overrides}
        process = subprocess.Popen(
            [
                sys.executable,
                str(ROOT / "launch.py"),
                *("--config", f"{ROOT}/configs/{name}.py", "--workdir", str(self.workdir)),
                *[f"--config.{key}={value}" for key, value in flags.items()],
            ],
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
            },
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if limit:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
        return process


class Wrong(Exception):
    """A run ended otherwise than it must."""


def end(process: subprocess.Popen) -> tuple[int, str]:
    """The exit code and what the process said, if that is one of the ways in which it may end."""
    _, said = process.communicate(timeout=600)
    code = process.returncode
    told = code in (FAILED, MISTAKE) and said.splitlines()[-1].startswith("error: ")
    killed = code in (-signal.SIGKILL, -signal.SIGTERM)
    if "Traceback" in said or not (told or killed or code in (DONE, STOPPED)):
        raise Wrong(f"exit code {code}: {said[-2000:]}")
    return code, said


# ---- Faults. Each strikes and returns what it did and the exit code of the process that it struck
# (none if none was running), or none if there was nothing to strike.

Struck = tuple[str, int | None, str] | None


def _signalled(case: Case, process: subprocess.Popen, number: int, when: str) -> Struck:
    alive = process.poll() is None
    if alive:
        process.send_signal(number)
    code, said = end(process)
    return (when, code, said) if alive else None


def _any_time(case: Case, number: int) -> Struck:
    process, after = case.start(), case.draw.uniform(0, case.seconds)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(after)
    return _signalled(case, process, number, f"after {after:.2f} s")


def _while_saving(case: Case, number: int) -> Struck:
    saves, delay = case.draw.randint(1, 5), case.draw.choice([0, case.draw.uniform(0, 0.05)])
    process = case.start()
    _wait_for_save(case, process, saves)
    time.sleep(delay)
    return _signalled(case, process, number, f"{delay:.3f} s into save {saves}")


def _wait_for_save(case: Case, process: subprocess.Popen, saves: int) -> None:
    """Returns when the process is in that save of its life, or has ended."""
    seen = set(_writing(case))
    while len(seen) < saves and process.poll() is None:
        seen.update(_writing(case))
        time.sleep(0.0005)


def _writing(case: Case) -> list[Path]:
    return list((case.workdir / "checkpoints").glob(f"*{checkpoint.WRITING}"))


def _some_file(case: Case) -> Path | None:
    """A file of the run: first what sort of file, each as likely, then which."""
    run, checkpoints = case.workdir, case.workdir / "checkpoints"
    sorts = [
        *[[run / name] for name in ("metrics.jsonl", "config.json", "run.json", "summary.json")],
        [run / "timing.jsonl", run / "lock"],
        *[list(checkpoints.glob(f"[0-9]*/{name}")) for name in ("*.json", "*.jsonl", "state/**/*")],
    ]
    sorts = [sorted(p for p in sort if p.is_file() and p.stat().st_size) for sort in sorts]
    sorts = [sort for sort in sorts if sort]
    return case.draw.choice(case.draw.choice(sorts)) if sorts else None


def flip(file: Path, draw: random.Random) -> str:
    """Turns one bit over."""
    place, bit = draw.randrange(file.stat().st_size), draw.randrange(8)
    with file.open("r+b") as opened:
        opened.seek(place)
        byte = opened.read(1)[0]
        opened.seek(place)
        opened.write(bytes([byte ^ 1 << bit]))
    return f"byte {place}, bit {bit}"


def _truncate(file: Path, draw: random.Random) -> str:
    size = draw.randrange(file.stat().st_size)
    os.truncate(file, size)
    return f"to {size} bytes"


def _remove(file: Path, draw: random.Random) -> str:
    file.unlink()
    return ""


def _make_unreadable(file: Path, draw: random.Random) -> str:
    """Permissions do not bind root: a directory or a circle of links stands in the file's place."""
    file.unlink()
    if draw.random() < 0.5:
        file.mkdir()
        return "a directory"
    file.symlink_to(file.name)
    return "a circle of links"


def _at_rest(case: Case, harm: Callable) -> Struck:
    file = _some_file(case)
    if file is None:
        return None
    return f"{file.relative_to(case.folder)} {harm(file, case.draw)}", None, ""


def _at_work(case: Case, harm: Callable) -> Struck:
    process, saves = case.start(), case.draw.randint(1, 8)
    _wait_for_save(case, process, saves)
    what = None
    # What is being written or deleted just now may be gone when it is struck.
    with contextlib.suppress(OSError):
        file = _some_file(case) if process.poll() is None else None
        what = file and f"{file.relative_to(case.folder)} {harm(file, case.draw)}"
    code, said = end(process)
    return (what, code, said) if what else None


def _all_checkpoints(case: Case) -> Struck:
    """A byte of each checkpoint."""
    struck = []
    for step in checkpoint.finished(case.workdir / "checkpoints"):
        folder = case.workdir / "checkpoints" / str(step)
        files = sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)
        file = case.draw.choice(files)
        struck.append(f"{file.relative_to(folder.parent)} {flip(file, case.draw)}")
    return ("; ".join(struck), None, "") if struck else None


def _file_limit(case: Case) -> Struck:
    limit = case.draw.choice([1, 4]) * case.draw.randint(100, 30000)
    code, said = end(case.start(limit))
    return (f"files of at most {limit} bytes", code, said) if code else None


def _full_disk(case: Case) -> Struck:
    """A tmpfs that is too small until the run has failed."""
    size, disk = case.draw.randint(25, 150) * 4, case.folder / "run"
    if disk.exists() or not can_mount(case.folder):
        return None
    disk.mkdir()
    _mount(disk, f"size={size}k")
    code, said = end(case.start())
    _mount(disk, "remount,size=100m")
    return (f"a disk of {size} KiB", code, said) if code else None


def _mount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], check=True)


def can_mount(folder: Path) -> bool:
    """Whether this user may mount a tmpfs in that folder."""
    trial = folder / "trial"
    trial.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(trial)]
    with contextlib.suppress(FileNotFoundError):
        if not subprocess.run(command, capture_output=True).returncode:
            subprocess.run(["umount", str(trial)], check=True)
            trial.rmdir()
            return True
    trial.rmdir()
    return False


FAULTS: dict[str, Callable[[Case], Struck]] = {
    "kill": lambda case: _any_time(case, signal.SIGKILL),
    "kill while saving": lambda case: _while_saving(case, signal.SIGKILL),
    "SIGTERM": lambda case: _any_time(case, signal.SIGTERM),
    "SIGTERM while saving": lambda case: _while_saving(case, signal.SIGTERM),
    "flipped bit": lambda case: _at_rest(case, flip),
    "flipped bit under a running process": lambda case: _at_work(case, flip),
    "flipped bit in every checkpoint": _all_checkpoints,
    "truncated file": lambda case: _at_rest(case, _truncate),
    "truncated file under a running process": lambda case: _at_work(case, _truncate),
    "removed file": lambda case: _at_rest(case, _remove),
    "unreadable file": lambda case: _at_rest(case, _make_unreadable),
    "limit on the size of files": _file_limit,
    "full disk": _full_disk,
}
# What can only strike a run that has left something: it comes after one of the others.
_LATER = ["flipped bit", "flipped bit in every checkpoint", "truncated file", "removed file"]
_LATER.append("unreadable file")
_OFTEN = ("kill while saving", "flipped bit", "truncated file")


# ---- Recovery


def finish(case: Case, told: list[str]) -> None:
    """Gives the command again until the run has ended and nothing in it is damaged.

    Args:
      case: the run.
      told: gets what the program said of damage, if anything.

    Raises:
      Wrong: it does not end, or otherwise than it must.
    """
    for _ in range(8):
        code, said = end(case.start())
        told += [line for line in said.splitlines() if line.startswith(("error:", "WARNING:"))]
        if code in (FAILED, MISTAKE):
            _follow(case, said.splitlines()[-1])
        elif code == DONE:
            damage = _verify(case.workdir)
            told += damage
            if not damage:
                return
            for line in damage:
                if "can be deleted" in line:
                    shutil.rmtree(line.partition(": ")[0])
    raise Wrong(f"lost: it does not end; {' | '.join(told)}")


def _verify(path: Path) -> list[str]:
    """The lines of `python -m cv_jax verify` that tell of damage."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            verify.main([str(path)])
        except InputError as error:
            return [str(error)]
    return [line for line in said.getvalue().splitlines() if not line.endswith(": sound")]


def _follow(case: Case, said: str) -> None:
    """Does what the message advises: takes away what is in a file's place, or starts anew."""
    in_the_way = [p for p in case.workdir.rglob("*") if _is_in_the_way(p) and str(p) in said]
    for path in in_the_way:
        path.rmdir() if path.is_dir() else path.unlink()
    if not in_the_way:
        if "another --workdir" not in said:
            raise Wrong(f"lost: it does not say what to do: {said}")
        os.rename(case.workdir, case.workdir.with_name(f"given-up-{time.time_ns()}"))


def _is_in_the_way(path: Path) -> bool:
    files = path.suffix in (".json", ".jsonl") or path.name == "lock"
    return path.is_symlink() or (path.is_dir() and files)


def result(path: Path) -> tuple[dict[str, np.ndarray], dict, int, str, str]:
    """What a run ends with: arrays, metrics and step of the last checkpoint, and its records."""
    folder = path / "checkpoints"
    arrays, step = checkpoint.read_newest(folder, lambda name: True)
    metrics = checkpoint.read_metrics(folder / str(step))
    texts = [(path / name).read_text() for name in ("metrics.jsonl", "summary.json")]
    return arrays, metrics, step, *texts


def compare(got: tuple, expected: tuple) -> None:
    """Raises `Wrong` unless the two results are equal, bit for bit."""
    for name, array in expected[0].items():
        there = got[0].get(name)
        same = there is not None and there.dtype == array.dtype and there.shape == array.shape
        if not same or there.tobytes() != array.tobytes():
            raise Wrong(f"wrong: the array {name} differs")
    if got[0].keys() != expected[0].keys() or got[1:] != expected[1:]:
        raise Wrong(f"wrong: {got[1:]} is not {expected[1:]}")


# ---- The campaign


class Reference(NamedTuple):
    """An undisturbed run: its result, and how long it took."""

    result: tuple
    seconds: float


def undisturbed(kind: str, folder: Path, data_dir: Path) -> Reference:
    """Trains a run of that kind that nothing befalls."""
    folder.mkdir(parents=True)
    case = Case(kind, folder, data_dir, random.Random(0), 0.0)
    started = time.monotonic()
    code, said = end(case.start())
    if code:
        raise Wrong(said)
    return Reference(result(case.workdir), time.monotonic() - started)


class Report(NamedTuple):
    """What befell one run.

    Attributes:
      seed: of the case.
      kind: of run.
      faults: `(sort, what was done, exit code of the process that it struck)` in order.
      told: what the program said of damage.
      failure: why the run is lost or its result wrong; none if it ended as the undisturbed one.
    """

    seed: int
    kind: str
    faults: list[tuple[str, str, int | None]]
    told: list[str]
    failure: str | None


def run_case(
    seed: int,
    references: dict[str, Reference],
    data_dir: Path,
    folder: Path,
    faults: list[str] | None = None,
) -> Report:
    """Harms one run and brings it to its end.

    Args:
      seed: of every choice.
      references: kind → its undisturbed run.
      data_dir: prepared digits.
      folder: an empty or new folder.
      faults: the sorts of fault; drawn if not given.
    """
    draw = random.Random(seed)
    kind = draw.choice(list(references))
    case = Case(kind, folder, data_dir, draw, references[kind].seconds)
    folder.mkdir(parents=True, exist_ok=True)
    names = faults or _draw_faults(draw)
    struck, told, failure = [], [], None
    try:
        for name in names:
            found = FAULTS[name](case)
            if found is None:
                continue
            what, code, said = found
            struck.append((name, what, code))
            told += [line for line in said.splitlines() if line.startswith(("error:", "WARNING:"))]
        finish(case, told)
        compare(result(case.workdir), references[kind].result)
    except Wrong as error:
        failure = str(error)
    finally:
        if os.path.ismount(case.workdir):
            subprocess.run(["umount", str(case.workdir)], check=True)
    return Report(seed, kind, struck, told, failure)


def _draw_faults(draw: random.Random) -> list[str]:
    first = draw.choice([name for name in FAULTS if name not in _LATER])
    more = draw.choices([*FAULTS, *_OFTEN], k=draw.randint(0, 3))
    return [first, *more]


def campaign(faults: int, seed: int, folder: Path) -> Iterator[Report]:
    """Cases until so many faults have struck."""
    from cv_jax.data import digits

    data_dir = digits.ensure(folder / "data")
    references = {
        kind: undisturbed(kind, folder / "undisturbed" / kind, data_dir) for kind in KINDS
    }
    count = 0
    while count < faults:
        path = folder / str(seed)
        report = run_case(seed, references, data_dir, path)
        yield report
        if report.failure is None:
            shutil.rmtree(path)
        count += len(report.faults)
        seed += 1


def main() -> int:
    """Runs the campaign, prints a line for each case, and writes the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=120)
    parser.add_argument(
        "--seed", type=int, default=0, help="of the first case; the next has one more"
    )
    parser.add_argument("--folder", type=Path, help="keep what fails here")
    parser.add_argument("--output", type=Path, help="also write the counts here, as JSON")
    flags = parser.parse_args()
    reports = []
    with contextlib.ExitStack() as stack:
        folder = flags.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for report in campaign(flags.faults, flags.seed, folder.absolute()):
            reports.append(report)
            did = "; ".join(f"{name} ({what}) → {code}" for name, what, code in report.faults)
            print(f"{report.seed} {report.kind}: {did}: {report.failure or 'as undisturbed'}")
            sys.stdout.flush()
    count = collections.Counter(name for report in reports for name, _, _ in report.faults)
    kinds = collections.Counter(report.kind for report in reports)
    failures = [report for report in reports if report.failure is not None]
    lost = [report.seed for report in failures if report.failure.startswith("lost")]
    counts = {
        "command": " ".join(["python", *sys.argv]),
        **provenance.environment(),
        "runs": len(reports),
        "runs_of_each_kind": dict(sorted(kinds.items())),
        "faults": count.total(),
        "faults_of_each_sort": dict(count.most_common()),
        "runs_that_told_of_damage": sum(bool(report.told) for report in reports),
        "lost_results": len(lost),
        "wrong_results": len(failures) - len(lost),
        "seeds_of_failures": [report.seed for report in failures],
    }
    print(counts)
    if flags.output:
        json_files.write_json(flags.output, counts)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
