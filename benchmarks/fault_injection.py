"""Faults that strike a training run: signals, damaged files, limits on writing.

`benchmarks/faults.py` applies them. Each fault in `FAULTS` takes a `Case`, and returns a `Strike`
or `None` if it found nothing to strike.

A full disk is a small tmpfs, which needs root. Without root a limit on the size of files takes its
place: the kernel then fails a write with EFBIG instead of ENOSPC.
"""

import contextlib
import ctypes
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from cv_jax.errors import ExitCode
from cv_jax.run import checkpoint

ROOT = Path(__file__).resolve().parent.parent

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

# Kind of run → config and overrides.
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
    """One run with faults.

    Attributes:
      kind: one of `KINDS`.
      folder: folder of the case; the run directory is `folder/run`.
      data_dir: prepared digits.
      draw: source of every random choice.
      seconds: duration of an uninterrupted run.
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
        """Start the run in a process that may write files of at most `limit` bytes."""
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


class Strike(NamedTuple):
    """A fault that struck.

    Attributes:
      details: the damaged file, the delay of the signal, or the limit.
      code: exit code of the struck process; `None` if no process was running.
      stderr: output of that process.
    """

    details: str
    code: int | None = None
    stderr: str = ""


class CaseFailed(Exception):
    """A run has a wrong end or a wrong result."""


def end(process: subprocess.Popen) -> tuple[int, str]:
    """Wait for the process, and return its exit code and stderr.

    Raises:
      CaseFailed: a traceback, an unknown exit code, or an error without its message.
    """
    _, stderr = process.communicate(timeout=600)
    code = process.returncode
    failed = code in (ExitCode.FAILED, ExitCode.MISTAKE)
    explained = failed and stderr.splitlines()[-1].startswith("error: ")
    killed = code in (-signal.SIGKILL, -signal.SIGTERM)
    regular = code in (ExitCode.DONE, ExitCode.STOPPED)
    if "Traceback" in stderr or not (explained or killed or regular):
        raise CaseFailed(f"wrong: exit code {code}: {stderr[-2000:]}")
    return code, stderr


# ---- Signals


def _signal(process: subprocess.Popen, number: int, details: str) -> Strike | None:
    alive = process.poll() is None
    if alive:
        process.send_signal(number)
    code, stderr = end(process)
    return Strike(details, code, stderr) if alive else None


def _signal_any_time(case: Case, number: int) -> Strike | None:
    process, delay = case.start(), case.draw.uniform(0, case.seconds)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(delay)
    return _signal(process, number, f"after {delay:.2f} s")


def _signal_while_saving(case: Case, number: int) -> Strike | None:
    saves, delay = case.draw.randint(1, 5), case.draw.choice([0, case.draw.uniform(0, 0.05)])
    process = case.start()
    _wait_for_save(case, process, saves)
    time.sleep(delay)
    return _signal(process, number, f"{delay:.3f} s into save {saves}")


def _wait_for_save(case: Case, process: subprocess.Popen, saves: int) -> None:
    """Wait until the process begins its `saves`-th save, or ends."""
    seen = set(_unfinished_checkpoints(case))
    while len(seen) < saves and process.poll() is None:
        seen.update(_unfinished_checkpoints(case))
        time.sleep(0.0005)


def _unfinished_checkpoints(case: Case) -> list[Path]:
    return list((case.workdir / "checkpoints").glob(f"*{checkpoint.WRITING}"))


# ---- Damaged files


def flip_bit(file: Path, draw: random.Random) -> str:
    """Flip one bit, and return its place."""
    place, bit = draw.randrange(file.stat().st_size), draw.randrange(8)
    with file.open("r+b") as opened:
        opened.seek(place)
        byte = opened.read(1)[0]
        opened.seek(place)
        opened.write(bytes([byte ^ 1 << bit]))
    return f"byte {place}, bit {bit}"


def truncate(file: Path, draw: random.Random) -> str:
    size = draw.randrange(file.stat().st_size)
    os.truncate(file, size)
    return f"to {size} bytes"


def remove(file: Path, draw: random.Random) -> str:
    file.unlink()
    return ""


def make_unreadable(file: Path, draw: random.Random) -> str:
    """Replace the file by a directory or a circular link: root ignores file permissions."""
    file.unlink()
    if draw.random() < 0.5:
        file.mkdir()
        return "a directory"
    file.symlink_to(file.name)
    return "a circular link"


def _draw_file(case: Case) -> Path | None:
    """Draw a group of files with equal probability, then a file of this group."""
    run, checkpoints = case.workdir, case.workdir / "checkpoints"
    groups = [
        *[[run / name] for name in ("metrics.jsonl", "config.json", "run.json", "summary.json")],
        [run / "timing.jsonl", run / "lock"],
        *[list(checkpoints.glob(f"[0-9]*/{name}")) for name in ("*.json", "*.jsonl", "state/**/*")],
    ]
    groups = [sorted(p for p in group if p.is_file() and p.stat().st_size) for group in groups]
    groups = [group for group in groups if group]
    return case.draw.choice(case.draw.choice(groups)) if groups else None


def _damage_between_starts(case: Case, damage: Callable) -> Strike | None:
    file = _draw_file(case)
    if file is None:
        return None
    return Strike(f"{file.relative_to(case.folder)} {damage(file, case.draw)}")


def _damage_while_running(case: Case, damage: Callable) -> Strike | None:
    process, saves = case.start(), case.draw.randint(1, 8)
    _wait_for_save(case, process, saves)
    details = None
    with contextlib.suppress(OSError):  # the run may delete or rename the file at this moment
        file = _draw_file(case) if process.poll() is None else None
        details = file and f"{file.relative_to(case.folder)} {damage(file, case.draw)}"
    code, stderr = end(process)
    return Strike(details, code, stderr) if details else None


def _damage_every_checkpoint(case: Case) -> Strike | None:
    details = []
    for step in checkpoint.finished(case.workdir / "checkpoints"):
        folder = case.workdir / "checkpoints" / str(step)
        files = sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)
        file = case.draw.choice(files)
        details.append(f"{file.relative_to(folder.parent)} {flip_bit(file, case.draw)}")
    return Strike("; ".join(details)) if details else None


# ---- Limits on writing


def _limit_file_size(case: Case) -> Strike | None:
    limit = case.draw.choice([1, 4]) * case.draw.randint(100, 30000)
    code, stderr = end(case.start(limit))
    return Strike(f"files of at most {limit} bytes", code, stderr) if code else None


def _fill_disk(case: Case) -> Strike | None:
    """Train on a tmpfs that is too small, and enlarge it after the failure."""
    size, disk = case.draw.randint(25, 150) * 4, case.folder / "run"
    if disk.exists() or not can_mount(case.folder):
        return None
    disk.mkdir()
    mount(disk, f"size={size}k")
    code, stderr = end(case.start())
    mount(disk, "remount,size=100m")
    return Strike(f"a disk of {size} KiB", code, stderr) if code else None


def mount(disk: Path, options: str) -> None:
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


# ---- Permissions


class _Capabilities(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


@contextlib.contextmanager
def permissions_hold() -> Iterator[None]:
    """Let permissions of files hold in this thread and its new threads, also if it is root's.

    See capabilities(7): the effective set loses CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH.
    """
    system = ctypes.CDLL(None, use_errno=True)
    head = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this thread
    before, now = (_Capabilities * 2)(), (_Capabilities * 2)()
    for found in (before, now):
        if system.capget(head, found):
            raise OSError(ctypes.get_errno(), "capget")
    now[0].effective &= ~(1 << 1 | 1 << 2)
    system.capset(head, now)
    try:
        yield
    finally:
        system.capset(head, before)


FAULTS: dict[str, Callable[[Case], Strike | None]] = {
    "kill": lambda case: _signal_any_time(case, signal.SIGKILL),
    "kill while saving": lambda case: _signal_while_saving(case, signal.SIGKILL),
    "SIGTERM": lambda case: _signal_any_time(case, signal.SIGTERM),
    "SIGTERM while saving": lambda case: _signal_while_saving(case, signal.SIGTERM),
    "flipped bit": lambda case: _damage_between_starts(case, flip_bit),
    "flipped bit under a running process": lambda case: _damage_while_running(case, flip_bit),
    "flipped bit in every checkpoint": _damage_every_checkpoint,
    "truncated file": lambda case: _damage_between_starts(case, truncate),
    "truncated file under a running process": lambda case: _damage_while_running(case, truncate),
    "removed file": lambda case: _damage_between_starts(case, remove),
    "unreadable file": lambda case: _damage_between_starts(case, make_unreadable),
    "limit on the size of files": _limit_file_size,
    "full disk": _fill_disk,
}
# Faults that need files of an earlier start: they come second or later.
_LATER = ["flipped bit", "flipped bit in every checkpoint", "truncated file", "removed file"]
_LATER.append("unreadable file")
_OFTEN = ("kill while saving", "flipped bit", "truncated file")


def draw_faults(draw: random.Random) -> list[str]:
    """Draw one to four names of `FAULTS`."""
    first = draw.choice([name for name in FAULTS if name not in _LATER])
    more = draw.choices([*FAULTS, *_OFTEN], k=draw.randint(0, 3))
    return [first, *more]
