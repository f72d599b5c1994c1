"""Output whose reader, terminal or disk is lost: training goes on, and no exit code changes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from slow import slow_except

ROOT = Path(__file__).resolve().parent.parent
GUARD = "import sys; from cv_jax import output, signals; signals.watch(); output.guard(); "
PRINT = "print('x' * 99999); print('y', file=sys.stderr); sys.exit(75)"


def shell(words, redirection):
    """Run a command with a redirection of bash; return its exit code, its output and its errors."""
    script = f'"$@" {redirection}; echo $? >&3'
    reader, writer = os.pipe()
    process = subprocess.run(
        ["bash", "-c", f"exec 3>&{writer}; {script}", "bash", *words],
        cwd=ROOT,
        pass_fds=[writer],
        env={**os.environ, "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    os.close(writer)
    with os.fdopen(reader) as file:
        return int(file.read()), process.stdout, process.stderr


@pytest.mark.parametrize("redirection", [">/dev/full 2>&1", "<&- >&- 2>&-", "2>&-", ">&-"])
def test_optional_output_changes_no_exit_code(redirection):
    code, _, _ = shell([sys.executable, "-c", GUARD + "output.optional(); " + PRINT], redirection)
    assert code == 75


def test_optional_output_without_a_reader_changes_no_exit_code():
    code = GUARD + "output.optional(); sys.stdin.readline(); " + PRINT
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    process.stderr.close()
    process.stdin.close()
    assert process.wait(30) == 75


def test_required_output_ends_the_command():
    words = [sys.executable, "-m", "cv_jax", "help"]
    said = "error: standard output cannot be written: No space left on device\n"
    assert shell(words, ">/dev/full") == (1, "", said)
    words = [sys.executable, "-c", GUARD + "[print(i) for i in range(10**9)]"]
    code, out, err = shell(words, "| head -1; (exit ${PIPESTATUS[0]})")
    assert (code, out, err) == (0, "0\n", "")
    assert shell([sys.executable, "-m", "cv_jax", "modls"], "2>/dev/full") == (2, "", "")


def test_a_file_opened_after_the_start_does_not_get_the_output(tmp_path):
    code = GUARD + f"file = open({str(tmp_path / 'file')!r}, 'w'); import os; os.write(1, b'out'); "
    shell([sys.executable, "-c", code + "os.write(2, b'err')"], "<&- >&- 2>&-")
    assert (tmp_path / "file").read_bytes() == b""


CASES = [
    f"{kind} {redirection}"
    for kind in ("run", "slots", "vmap")
    for redirection in (">/dev/full 2>&1", "<&- >&- 2>&-", "2>&1 | head -1")
]


@pytest.mark.parametrize("case", slow_except(CASES, "run 2>&1 | head -1", long=True))
def test_training_goes_on_without_output(tmp_path, data_dir, case):
    kind, _, redirection = case.partition(" ")
    flags = [
        "--config",
        "configs/mlp.py",
        f"--config.data.dir={data_dir}",
        "--config.total_steps=4",
        "--config.batch_size=32",
        "--config.model.widths=8",
    ]
    if kind == "run":
        flags += ["--workdir", str(tmp_path / "run"), "--config.log.writers=tensorboard"]
    else:
        flags += ["--sweep=rate", "--sweep_dir", str(tmp_path), f"--sweep_executor={kind}"]
    redirection += "; (exit ${PIPESTATUS[0]})"
    assert shell([sys.executable, "launch.py", *flags], redirection)[0] == 0
    summaries = list(tmp_path.glob("*/summary.json"))
    assert len(summaries) == (1 if kind == "run" else 3)
    assert {json.loads(file.read_text())["step"] for file in summaries} == {4}


@pytest.mark.slow
@pytest.mark.parametrize("ignored", [False, True])
def test_a_lost_terminal_saves_and_stops_a_run_or_is_ignored_under_nohup(
    tmp_path, data_dir, ignored
):
    import fcntl
    import pty
    import signal
    import termios

    def own_terminal():
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        if ignored:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    master, slave = pty.openpty()
    steps = 300 if ignored else 3000
    flags = ["--config", "configs/mlp.py", f"--config.data.dir={data_dir}"]
    flags += [
        "--workdir",
        str(tmp_path),
        f"--config.total_steps={steps}",
        "--config.model.widths=8",
    ]
    process = subprocess.Popen(
        [sys.executable, "launch.py", *flags],
        cwd=ROOT,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        preexec_fn=own_terminal,
    )
    os.close(slave)
    seen = b""
    while b"first step" not in seen:
        seen += os.read(master, 4096)
    os.close(master)
    assert process.wait(300) == (0 if ignored else 75)
    assert (tmp_path / "checkpoints" / str(steps)).is_dir() == ignored
    assert list((tmp_path / "checkpoints").glob("[0-9]*"))


HOSTILE = "a\x1b]0;title\x07\x1b[31mred\x1b[2Kgone\x9b\u202eb\x7f\x00"  # title, colours, bell, …


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_control_characters_are_text(stream):
    """Also those that a library prints; progress bars may go up and erase lines."""
    code = GUARD + f"print({HOSTILE!r}, 'ünï', '\\ttab', '\\r', file=sys.{stream})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=60)
    written = getattr(done, stream).decode()
    shown = r"a\x1b]0;title\x07\x1b[31mred" + "\x1b[2Kgone" + r"\x9b\u202eb\x7f\x00"
    assert written == f"{shown} ünï \ttab \r\n"


def test_control_characters_in_the_log_are_text():
    code = GUARD + "import logging; logging.getLogger('x').warning('%s', 'a\\nERROR: b\\x1b[2J')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=60)
    assert done.stderr == rb"WARNING: a ERROR: b\x1b[2J" + b"\n"
