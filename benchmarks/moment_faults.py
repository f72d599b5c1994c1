"""Faults at one moment of a run in this process: kills, failing writes, other programs.

A moment is the n-th change of a file or folder by the run: a file that is made safe, a renaming, a
new folder, a removal. A kill leaves what is on the disk at that moment; here the folder is copied,
and the copy is a run that was killed. `trained_runs.recover` follows each fault.
"""

import contextlib
import errno
import itertools
import os
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from fault_injection import CaseFailed, can_mount, mount
from trained_runs import Case, Struck, called, readable

from cv_jax.errors import ExitCode
from cv_jax.report import run_files
from cv_jax.run import checkpoint
from cv_jax.training import loop

CHANGES = ("fsync", "replace", "rename", "mkdir", "unlink", "rmdir")


@contextlib.contextmanager
def before_changes(
    folder: Path, action: Callable[[int], None], still: bool = False
) -> Iterator[None]:
    """Call `action(n)` before the n-th change of something in a folder by this process.

    Args:
      folder: the folder.
      action: changes that it makes do not count.
      still: whether the changes of other threads wait for it.
    """
    lock, count = threading.RLock(), itertools.count(1)
    inside, root = threading.Event(), str(folder)
    functions = {name: getattr(os, name) for name in CHANGES}

    def concerns(what: object) -> bool:
        with contextlib.suppress(OSError, TypeError):
            place = os.readlink(f"/proc/self/fd/{what}") if isinstance(what, int) else what
            return os.fsdecode(place).startswith(root)
        return False

    def wrapped(name):
        def function(what, *rest, **options):
            with lock if still else contextlib.nullcontext():
                if not inside.is_set() and concerns(what):
                    inside.set()
                    try:
                        action(next(count))
                    finally:
                        inside.clear()
                return functions[name](what, *rest, **options)

        return function

    try:
        for name in CHANGES:
            setattr(os, name, wrapped(name))
        yield
    finally:
        for name, function in functions.items():
            setattr(os, name, function)


def count_changes(case: Case) -> int:
    """Return the number of changes of an uninterrupted run."""
    counts = [0]
    with before_changes(case.folder, counts.append):
        case.start()
    shutil.rmtree(case.path)
    return counts[-1]


def at(case: Case, moment: int, action: Callable[[], None], still: bool = False) -> tuple[int, str]:
    """Start the run, and call `action` at a moment; return exit code and output of the start."""

    def acted(count):
        if count == moment:
            action()

    with before_changes(case.folder, acted, still):
        return case.start()


def _moment(case: Case) -> int:
    return case.draw.randint(1, case.changes)


# ---- Kills


def kill(case: Case) -> Struck | None:
    """Go on with a copy of the folder as it was at a moment of a new or a restarted run."""
    if case.draw.random() < 0.3:
        case.copy(finished=False)
    moment, killed = _moment(case), case.folder / "killed"

    def copy():
        if case.path.exists():
            _copy_changing(case.path, killed)

    at(case, moment, copy, still=True)
    shutil.rmtree(case.path)
    if not killed.exists():
        return None
    killed.rename(case.path)
    return Struck(f"before change {moment}")


def _copy_changing(source: Path, goal: Path) -> None:
    """Copy a folder in which files may vanish: arrays are written by other threads."""
    with contextlib.suppress(shutil.Error):
        shutil.copytree(source, goal, symlinks=True)


# ---- Writes that fail


def fail(case: Case) -> Struck | None:
    """Let one change fail."""
    number = case.draw.choice([errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE])
    moment = _moment(case)

    def refuse():
        raise OSError(number, os.strerror(number))

    code, said = at(case, moment, refuse)
    _require_ended(case, code, said)
    return Struck(f"{errno.errorcode[number]} at change {moment}: exit code {code}")


def full_disk(case: Case) -> Struck | None:
    """Train on a disk that is too small; it grows afterwards."""
    trial = case.folder / "disk"
    trial.mkdir()
    if not can_mount(trial):
        return None
    size = case.draw.randint(1, 45) * 4
    case.path.mkdir()
    mount(case.path, f"size={size}k")
    code, said = case.start()
    _require_ended(case, code, said)
    mount(case.path, "remount,size=100m")
    return Struck(f"{size} KiB: exit code {code}")


def limited_files(case: Case) -> Struck:
    """Train while no file may be larger than a limit: the kernel lets larger writes fail."""
    if case.draw.random() < 0.5:
        case.copy(finished=False)
    size, limits = case.draw.randint(0, 6000), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        code, said = case.start()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    _require_ended(case, code, said)
    return Struck(f"{size} bytes: exit code {code}")


def _require_ended(case: Case, code: int, said: str) -> None:
    if code not in (ExitCode.DONE, ExitCode.FAILED, ExitCode.MISTAKE):
        raise CaseFailed(f"wrong: exit code {code}: {said}")
    if code and not said.splitlines()[-1].startswith("error: "):
        raise CaseFailed(f"wrong: no line: {said}")


# ---- Other programs at that moment


def read_while_saving(case: Case) -> Struck:
    """Read, verify and describe the run from another program while it writes."""
    moments = sorted({_moment(case) for _ in range(3)})

    def read(count):
        if count not in moments or not case.path.exists():
            return
        readable(case, case.path)
        code, said = called(_verify, case.path)
        if code:
            raise CaseFailed(f"wrong: verify at change {count}: {said}")
        found = run_files.read(case.path)
        if found.damage:
            raise CaseFailed(f"wrong: at change {count}: {found.damage}")

    with before_changes(case.folder, read):
        code, said = case.start()
    if code:
        raise CaseFailed(f"wrong: {said}")
    return Struck(f"at changes {moments}")


def _verify(path: Path) -> int:
    from cv_jax.commands import verify

    return verify.main([str(path)]) if checkpoint.finished(path / "checkpoints") else 0


def start_while_running(case: Case) -> Struck:
    """Give the same command once more while the run writes."""
    moment, seen = _moment(case), []

    def start():
        code, said = called(loop.train, case.run.parts, case.path, "the same command")
        locked = code == ExitCode.MISTAKE and "in use by process" in said
        if not locked and code:
            raise CaseFailed(f"wrong: {said}")
        seen.append(code)

    code, said = at(case, moment, start)
    if code:
        raise CaseFailed(f"wrong: {said}")
    return Struck(f"at change {moment}: exit codes {seen}")


def remove_while_running(case: Case) -> Struck | None:
    """Remove a checkpoint or a file of the run while it writes."""
    moment, gone = _moment(case), []

    def remove():
        places = [*(case.path / "checkpoints").glob("[0-9]*"), *case.path.glob("*.json*")]
        places += [case.path / "checkpoints"] if places else []
        places = sorted(place for place in places if place.exists())
        if places:
            place = case.draw.choice(places)
            shutil.rmtree(place) if place.is_dir() else place.unlink()
            gone.append(place.relative_to(case.path))

    code, said = at(case, moment, remove)
    _require_ended(case, code, said)
    return Struck(f"{gone[0]} at change {moment}: exit code {code}") if gone else None


def move_while_running(case: Case) -> Struck | None:
    """Move the directory of the run while it writes, and put another run in its place."""
    moment, replaced, kept = _moment(case), case.draw.random() < 0.5, {}

    def move():
        if case.path.exists() and (case.path / "config.json").exists():
            case.path.rename(case.folder / "moved")
            if replaced:
                kept.update(_contents(case.copy("other")))

    code, said = at(case, moment, move)
    _require_ended(case, code, said)
    if not (case.folder / "moved").exists():
        return None
    now = _contents(case.path) if replaced else {}
    if {file: now.get(file) for file in kept} != kept:
        raise CaseFailed("lost: the run wrote into the directory of another run")
    if case.path.exists():
        case.path.rename(case.folder / "given")
    (case.folder / "moved").rename(case.path)
    return Struck(f"at change {moment}, {'replaced' if replaced else 'gone'}: exit code {code}")


def _contents(path: Path) -> dict[Path, bytes]:
    files = (file for file in path.rglob("*") if file.is_file() and file.name != "lock")
    return {file: file.read_bytes() for file in files}


FAULTS: dict[str, Callable[[Case], Struck | None]] = {
    "kill at a write": kill,
    "write that fails once": fail,
    "full disk": full_disk,
    "limit on the size of files": limited_files,
    "readers while the run writes": read_while_saving,
    "the same command while the run writes": start_while_running,
    "files removed while the run writes": remove_while_running,
    "directory moved or replaced while the run writes": move_while_running,
}
