"""Ctrl-C, SIGTERM and SIGHUP: from the first import on, in a loop that saves, and twice."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent
LAUNCH = [sys.executable, "launch.py", "--config", "configs/vit_ti16.py"]
LAUNCH += ["--config.compile_cache=none"]
# Holds the main thread in C code that no Python handler interrupts.
STUCK = "import hashlib; print(1, flush=True); hashlib.pbkdf2_hmac('md5', b'', b'', 50_000_000)"


def start(*command, **options):
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={name: text for name, text in os.environ.items() if name != "GLIBC_TUNABLES"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def python(*lines, **options):
    code = "\n".join(["import os, signal, subprocess, sys, time", *lines])
    return start(sys.executable, "-c", code, **options)


def interrupted(process, number, seconds=5.0):
    """Send a signal; check that the process ends within seconds with one line and its code."""
    sent = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - sent < seconds
    assert process.returncode == 128 + number
    assert err == f"interrupted by {number.name}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_process_at_once_in_c_code_too(number):
    process = python("from cv_jax import signals", "signals.watch()", STUCK)
    process.stdout.readline()
    interrupted(process, number, seconds=3)


def test_children_end_too():
    process = python(
        "from cv_jax import signals",
        "signals.watch()",
        "print(subprocess.Popen(['sleep', '60']).pid, flush=True)",
        STUCK,
    )
    child = psutil.Process(int(process.stdout.readline()))
    interrupted(process, signal.SIGTERM)
    psutil.wait_procs([child], timeout=5)
    assert not child.is_running()


def test_the_end_of_a_child_is_not_reported():
    process = python(
        "from cv_jax import signals",
        "signals.watch()",
        "print(1, flush=True)",
        "subprocess.run(['sleep', '60'])",
        "print('the child has ended', file=sys.stderr)",
    )
    process.stdout.readline()
    time.sleep(0.2)
    interrupted(process, signal.SIGTERM)


def test_sighup_stays_ignored_under_nohup():
    process = python(
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)",
        "from cv_jax import signals",
        "signals.watch()",
        "with signals.caught() as stop: os.kill(os.getpid(), signal.SIGHUP); time.sleep(0.3)",
        "os.kill(os.getpid(), signal.SIGHUP)",
        "time.sleep(0.3)",
        "print(stop.signal)",
    )
    assert process.communicate(timeout=30) == ("0\n", "")
    assert process.returncode == 0


def test_a_signal_is_not_lost_while_a_program_replaces_itself():
    process = python(
        "from cv_jax import signals",
        "if 'AGAIN' not in os.environ:",
        "    signals.block()",
        "    os.kill(os.getpid(), signal.SIGINT)",
        "    os.environ['AGAIN'] = '1'",
        "    os.execv(sys.executable, sys.orig_argv)",
        "signals.watch()",
        "time.sleep(9)",
    )
    assert process.communicate(timeout=8) == ("", "interrupted by SIGINT\n")
    assert process.returncode == 130


def test_a_loop_records_a_signal_and_a_second_ctrl_c_ends_it_at_once():
    process = python(
        "from cv_jax import signals",
        "with signals.caught() as stop:",
        "    print(1, flush=True)",
        "    while not stop.signal: time.sleep(0.01)",
        f"    print(stop.signal, flush=True); {STUCK}",
    )
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "15\n"
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=3)
    assert process.returncode == 130
    assert err.splitlines() == [
        "finishing this step and saving; Ctrl-C again ends at once",
        "killed; the same command continues",
    ]


def test_a_loop_records_nothing_before_it_has_something_to_save():
    lines = ["from cv_jax import signals", "with signals.caught(recording=False) as stop:"]
    process = python(*lines, f"    {STUCK}")
    process.stdout.readline()
    interrupted(process, signal.SIGINT)


def test_handlers_are_restored():
    from cv_jax import signals

    before = [signal.getsignal(number) for number in signals.NUMBERS]
    with signals.caught("") as stop:
        os.kill(os.getpid(), signal.SIGINT)
        end = time.monotonic() + 5
        while not stop.signal and time.monotonic() < end:
            time.sleep(0.01)
    assert stop.signal == signal.SIGINT
    assert [signal.getsignal(number) for number in signals.NUMBERS] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", [LAUNCH, [sys.executable, "-m", "cv_jax", "models"]])
def test_a_command_ends_at_once_during_its_imports(command, number):
    process = start(*command)
    time.sleep(0.5)
    interrupted(process, number)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.3, 2, 5])
@pytest.mark.parametrize("flags", ["", "--evaluate", "--dry_run", "--sweep=rate --dry_run"])
def test_a_command_ends_at_once_at_any_time(tmp_path, flags, seconds):
    config = ["--config", "configs/mlp.py"] if "sweep" in flags else []
    folder = ["--sweep_dir" if "sweep" in flags else "--workdir", str(tmp_path)]
    process = start(*LAUNCH, *config, *folder, *flags.split())
    time.sleep(seconds)
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - sent < 5
    if "interrupted" in err:
        assert (process.returncode, err) == (130, "interrupted by SIGINT\n")
    else:  # it has ended by itself just before, or a run has saved after its first step
        own = {"": 75, "--evaluate": 2}.get(flags, 0)
        assert process.returncode in (own, -signal.SIGINT)  # the second while Python ends
        assert out or err
        assert "Traceback" not in err


@pytest.mark.slow
def test_a_run_ends_at_once_while_it_compiles_and_can_start_again(tmp_path):
    for number in (signal.SIGINT, signal.SIGTERM):
        process = start(*LAUNCH, "--workdir", str(tmp_path))
        assert "step 0 of" in process.stderr.readline()
        assert "training on" in process.stderr.readline()
        time.sleep(1)
        interrupted(process, number)


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, pytest.param(1, marks=pytest.mark.long)])
def test_all_processes_of_a_run_end_at_once_if_one_is_interrupted(tmp_path, which):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    flags = ["--workdir", str(tmp_path), "--coordinator", address, "--num_processes", "2"]
    processes = [start(*LAUNCH, *flags, "--process_id", str(i)) for i in range(2)]
    assert "step 0 of" in processes[0].stderr.readline()
    assert "training on" in processes[0].stderr.readline()
    processes[which].send_signal(signal.SIGINT)
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [130, 130]
    assert errors[which] == "error: interrupted by SIGINT\n"
    assert errors[1 - which] == f"error: process {which}: interrupted by SIGINT\n"
