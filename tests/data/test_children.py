"""Loader processes: signals, shared memory, and their end with the main process."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cv_jax.data import children

ROOT = Path(__file__).resolve().parent.parent.parent
MEMORY = Path("/dev/shm")

SCRIPT = """
import multiprocessing, os, signal, sys, time
from multiprocessing import shared_memory
from cv_jax import signals
from cv_jax.data import children

def blocked():
    return sorted(int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ()))

def child(pipe):
    children.end_with_the_parent()
    pipe.send((os.getpid(), blocked()))
    time.sleep(60)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with children.starting():
        memory = shared_memory.SharedMemory(create=True, size=8)
        context.Process(target=child, args=(theirs,), daemon=True).start()
    print(memory.name, *ours.recv(), blocked(), sep="|", flush=True)
    if sys.argv[1] == "end":
        signals.end_at_once(7)
    time.sleep(60)
"""


@pytest.mark.parametrize("end", ["end", "kill", "hangup"])
def test_children_and_memory_end_with_the_program_without_a_word(tmp_path, end):
    (tmp_path / "script.py").write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), end],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    name, child, theirs, ours = process.stdout.readline().strip().split("|")
    assert (theirs, ours) == (
        str([int(signal.SIGHUP), int(signal.SIGINT), int(signal.SIGTERM)]),
        "[]",
    )
    if end == "kill":
        process.kill()
    if end == "hangup":  # of the terminal: all processes get it
        os.killpg(process.pid, signal.SIGHUP)
    _, message = process.communicate(timeout=30)
    assert message == ""
    assert process.returncode == {"end": 7, "kill": -signal.SIGKILL, "hangup": -signal.SIGHUP}[end]
    limit = time.monotonic() + 20
    while time.monotonic() < limit and (psutil.pid_exists(int(child)) or (MEMORY / name).exists()):
        time.sleep(0.05)
    assert not psutil.pid_exists(int(child))
    assert not (MEMORY / name).exists()


def started(tmp_path, end):
    """Start the script; return the process, and the file of its memory."""
    (tmp_path / "script.py").write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), end],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    return process, MEMORY / process.stdout.readline().split("|")[0]


@pytest.mark.skipif(not MEMORY.is_dir(), reason="shared memory has no folder")
def test_the_next_start_frees_the_memory_of_killed_processes_only(tmp_path):
    """A kill of all processes leaves nobody to free it."""
    alive, kept = started(tmp_path, "wait")
    killed, lost = started(tmp_path, "wait")
    foreign = MEMORY / lost.name.replace("cv_jax-", "cv_jax-1", 1)  # of another namespace
    foreign.touch()
    try:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
        assert lost.exists()
        following, own = started(tmp_path, "end")
        following.communicate(timeout=30)
        assert not lost.exists()
        assert kept.exists()
        assert foreign.exists()
    finally:
        foreign.unlink()
        os.killpg(alive.pid, signal.SIGKILL)
        alive.wait()
        kept.unlink()


SLOW_START = """
import multiprocessing, os, sys, time
if __name__ == "__mp_main__":
    from cv_jax.data import children
    children.end_with_the_parent()
    print(os.getpid(), flush=True)
    time.sleep(60)  # the imports of the program
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    context.Process(target=print, daemon=True).start()
    time.sleep(60)
"""


def test_a_child_ends_with_its_parent_while_it_imports_the_program(tmp_path):
    (tmp_path / "script.py").write_text(SLOW_START)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    child = int(process.stdout.readline())
    process.kill()
    process.wait()
    limit = time.monotonic() + 20
    while time.monotonic() < limit and psutil.pid_exists(child):
        time.sleep(0.05)
    assert not psutil.pid_exists(child)


def start(data_dir, folder, *more):
    flags = ["model.widths=8", "image_size=8", "batch_size=64", "eval.batch_size=64"]
    flags += ["data.cache=none", "data.workers=2", f"data.dir={data_dir}"]
    command = [sys.executable, "launch.py", "--config=configs/mlp.py", f"--workdir={folder}"]
    command += [f"--config.{flag}" for flag in flags] + list(more)
    return subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def memory():
    """Names of shared memory, without that of processes that run beside this test."""
    owners = {}
    for name in os.listdir(MEMORY):
        own, loky = children._NAME.match(name), re.match(r"sem\.loky-(\d+)-", name)  # scikit-learn
        owners[name] = int(own[2]) if own else int(loky[1]) if loky else None
    return {name for name, pid in owners.items() if pid is None or not psutil.pid_exists(pid)}


@pytest.mark.slow
def test_runs_with_workers_end_quietly_and_leave_no_memory(data_dir, tmp_path):
    """A good end, of one process and of two."""
    before = memory()
    runs = [start(data_dir, tmp_path / "one", "--config.total_steps=30")]
    several = ["--coordinator=localhost:23781", "--num_processes=2", "--config.total_steps=30"]
    runs += [start(data_dir, tmp_path / "two", *several, f"--process_id={i}") for i in (0, 1)]
    for run in runs:
        _, message = run.communicate(timeout=300)
        assert run.returncode == 0, message
        assert "resource_tracker" not in message
        assert "Traceback" not in message
    assert memory() <= before


@pytest.mark.slow
@pytest.mark.parametrize("early", [True, False])
def test_a_killed_run_leaves_no_process(data_dir, tmp_path, early):
    before = memory()
    run = start(data_dir, tmp_path / "run", "--config.total_steps=100000")
    if early:
        while len(psutil.Process(run.pid).children(recursive=True)) < 3:
            time.sleep(0.02)
    else:
        while not run.stderr.readline().startswith("first step"):
            pass
    family = psutil.Process(run.pid).children(recursive=True)
    run.kill()
    run.wait()
    assert not psutil.wait_procs(family, timeout=30)[1]
    run = start(data_dir, tmp_path / "run", "--config.total_steps=1")  # frees what is left
    run.communicate(timeout=300)
    assert memory() <= before


@pytest.mark.slow
def test_a_killed_loader_process_is_one_line(data_dir, tmp_path):
    run = start(data_dir, tmp_path / "run", "--config.total_steps=100000")
    while not run.stderr.readline().startswith("first step"):
        pass
    loaders = [
        child
        for child in psutil.Process(run.pid).children()
        if any("spawn_main" in word for word in child.cmdline())
    ]
    loaders[-1].kill()
    _, message = run.communicate(timeout=60)
    assert run.returncode == 1
    *_, last = message.splitlines()
    assert last.startswith("error: a loader process was killed (exit code -9), perhaps because")
    assert "Traceback" not in message


@pytest.mark.slow
@pytest.mark.parametrize(("early", "count", "code"), [(1, 1, 130), (0, 1, 75), (0, 2, 130)])
def test_ctrl_c_in_a_terminal(data_dir, tmp_path, early, count, code):
    """It reaches the workers, too: while they start, and while they load."""
    before = memory()
    run = start(data_dir, tmp_path / "run", "--config.total_steps=100000")
    lines = []
    if early:
        while len(psutil.Process(run.pid).children(recursive=True)) < 2:  # the tracker, a worker
            time.sleep(0.02)
    else:
        while not lines or not lines[-1].startswith("first step"):
            lines.append(run.stderr.readline())
    for _ in range(count):
        os.killpg(run.pid, signal.SIGINT)
        time.sleep(0.01)
    _, message = run.communicate(timeout=120)
    assert run.returncode == code
    assert "Traceback" not in message
    assert "resource_tracker" not in message
    limit = time.monotonic() + 10
    while memory() - before and time.monotonic() < limit:
        time.sleep(0.1)
    assert memory() <= before
