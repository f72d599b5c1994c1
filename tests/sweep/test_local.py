"""The scheduler of slots, with fake trials: kills, failures, signals, locks and the display."""

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from driver import trials_of  # noqa: E402

from cv_jax.errors import ExitCode, RunError  # noqa: E402
from cv_jax.run import json_files, lock  # noqa: E402
from cv_jax.sweep import local  # noqa: E402
from cv_jax.sweep.display import Board  # noqa: E402
from cv_jax.sweep.folder import Trial  # noqa: E402
from cv_jax.sweep.slots import Slot  # noqa: E402

DRIVER = Path(__file__).with_name("driver.py")
ROOT = Path(__file__).resolve().parents[2]
TWO = [Slot("a", {}, ()), Slot("b", {}, ())]


def start(folder, kinds, steps=60, slots=2):
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, str(DRIVER), str(folder), str(slots), str(steps), *kinds],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_here(folder, kinds, steps=20, slots=TWO, board=None, **options):
    folder.mkdir(exist_ok=True)
    trials = list(trials_of(folder, steps, kinds))
    board = board or Board(len(trials), len(slots))
    return local.run(iter(trials), slots, folder, board, **options)


def finish(process, code):
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    return out, err


def expected(name, steps):
    value = name
    for step in range(1, steps + 1):
        value = hashlib.sha256(f"{value} {step}".encode()).hexdigest()
    return value


def assert_trained_once(folder, count, steps):
    """Check that every trial finished once, with the results and lines of an uninterrupted one."""
    for i in range(count):
        path = folder / f"trial={i}"
        assert json.loads((path / "summary.json").read_text())["value"] == expected(
            path.name, steps
        )
        assert len((path / "ends").read_text().split()) == 1
        lines = [json.loads(x)["step"] for x in (path / "metrics.jsonl").read_text().splitlines()]
        assert lines == list(range(1, steps + 1))


def wait_until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def count_done(folder):
    return len(list(folder.glob("*/summary.json")))


@pytest.mark.slow
def test_kill_9_of_the_scheduler_and_of_its_trials_loses_nothing(tmp_path):
    kinds = ["plain"] * 12
    process = start(tmp_path, kinds)
    wait_until(lambda: count_done(tmp_path) >= 2)
    wait_until(lambda: len(psutil.Process(process.pid).children()) == 2)
    children = psutil.Process(process.pid).children()
    process.kill()  # the kernel then sends SIGTERM to its trials
    psutil.wait_procs(children, timeout=10)
    assert not any(child.is_running() for child in children)
    assert 2 <= count_done(tmp_path) < 12
    process.communicate()

    process = start(tmp_path, kinds)
    done = count_done(tmp_path)
    wait_until(lambda: count_done(tmp_path) >= done + 3)
    family = [*psutil.Process(process.pid).children(), process]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.communicate()
    assert count_done(tmp_path) < 12

    out, _ = finish(start(tmp_path, kinds), 0)
    assert "12 of 12 trials done" in out
    assert_trained_once(tmp_path, 12, 60)
    starts = [len(p.read_text().splitlines()) for p in tmp_path.glob("*/starts.jsonl")]
    assert sum(starts) <= 12 + 4  # two trials were running at each kill
    outcomes = run_here(tmp_path, kinds, steps=60)
    assert [(outcome.state, outcome.code) for outcome in outcomes] == [("done", None)] * 12
    assert starts == [len(p.read_text().splitlines()) for p in tmp_path.glob("*/starts.jsonl")]


def test_a_failing_trial_is_retried_and_reported_and_the_others_finish(tmp_path):
    kinds = ["plain"] * 12
    kinds[3] = "broken"
    out, err = finish(start(tmp_path, kinds, steps=5), ExitCode.FAILED)
    assert count_done(tmp_path) == 11
    assert "11 of 12 trials done, 1 failed" in out
    assert "trial=3 failed, exit code 1:\n  a first line\n  something broke\n" in err
    assert len((tmp_path / "trial=3" / "starts.jsonl").read_text().splitlines()) == local.TRIES
    log = (tmp_path / "trial=3.log").read_text().splitlines()
    assert log.count("something broke") == local.TRIES
    assert sum(line.startswith("$ ") and line.endswith(" broken") for line in log) == local.TRIES
    lines = [json.loads(line) for line in (tmp_path / "trials.jsonl").read_text().splitlines()]
    assert [line["code"] for line in lines if line["trial"] == "trial=3"] == [1] * local.TRIES
    assert sum(line["code"] == 0 for line in lines) == 11


def test_final_exit_codes_are_not_retried(tmp_path):
    outcomes = run_here(tmp_path, ["nan", "plain"], steps=5)
    states = {outcome.trial.name: (outcome.state, outcome.code) for outcome in outcomes}
    assert states == {"trial=0": ("failed", 3), "trial=1": ("done", 0)}
    assert len((tmp_path / "trial=0" / "starts.jsonl").read_text().splitlines()) == 1


def test_a_trial_that_fails_with_progress_finishes(tmp_path):
    (outcome,) = run_here(tmp_path, ["shaky"], steps=50)
    assert outcome.state == "done"
    starts = (tmp_path / "trial=0" / "starts.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in starts] == [0, 10, 20, 30, 40, 50]
    assert_trained_once(tmp_path, 1, 50)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_all_trials_and_the_next_start_continues(tmp_path, number):
    kinds = ["plain"] * 4
    process = start(tmp_path, kinds, steps=100)
    wait_until(lambda: len(list(tmp_path.glob("*/saved"))) == 2)
    process.send_signal(number)
    out, _ = finish(process, 75)
    assert "0 of 4 trials done, 4 not finished" in out
    lines = [json.loads(line) for line in (tmp_path / "trials.jsonl").read_text().splitlines()]
    assert [line["code"] for line in lines] == [75, 75]
    run_here(tmp_path, kinds, steps=100)
    assert_trained_once(tmp_path, 4, 100)
    for line in lines:  # no step was repeated
        starts = (tmp_path / line["trial"] / "starts.jsonl").read_text().splitlines()
        assert json.loads(starts[1])["step"] == line["step"]


def test_a_second_ctrl_c_kills_the_trials(tmp_path):
    process = start(tmp_path, ["deaf", "deaf"], steps=5000)
    wait_until(lambda: len(list(tmp_path.glob("*/saved"))) == 2)
    children = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = finish(process, 130)
    assert err.endswith("killed; the same command continues\n")
    psutil.wait_procs(children, timeout=10)
    assert not any(child.is_running() for child in children)


def test_a_sweep_goes_on_without_a_reader_and_with_full_logs(tmp_path):
    """The reader of its output has ended, and each write to a log fails like on a full disk."""
    for i in range(3):
        (tmp_path / f"trial={i}.log").symlink_to("/dev/full")
    process = start(tmp_path, ["plain"] * 3, steps=5)
    process.stdout.close()
    process.stderr.close()
    assert process.wait(60) == 0
    assert_trained_once(tmp_path, 3, 5)


def test_a_locked_run_directory_is_waited_for(tmp_path, capsys):
    """A trial that the other process finishes is not trained again."""
    for path in (tmp_path / "trial=0", tmp_path / "trial=1"):
        path.mkdir()
    locks = [(tmp_path / f"trial={i}" / "lock").open("a+") for i in (0, 1)]
    for file in locks:
        fcntl.flock(file, fcntl.LOCK_EX)

    class ReleasingBoard(Board):
        def ended(self, outcome):
            super().ended(outcome)
            if outcome.trial.name == "trial=2":
                summary = {"step": 20, "test_loss": 1.0}
                json_files.write_record(tmp_path / "trial=0" / "summary.json", summary)
                for lock in locks:
                    lock.close()

    outcomes = run_here(tmp_path, ["plain"] * 3, board=ReleasingBoard(3, 2))
    assert [outcome.state for outcome in outcomes] == ["done"] * 3
    assert not (tmp_path / "trial=0" / "starts.jsonl").exists()
    assert (tmp_path / "trial=1" / "ends").is_file()
    assert capsys.readouterr().err.count("waiting for another process that trains it") == 2


def test_a_pruned_trial_is_stopped_and_not_started_again(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "LOOK_SECONDS", 0.05)

    def prune(trial):
        begun = (trial.workdir / "metrics.jsonl").is_file()
        return {"reason": "bad"} if begun and trial.name == "trial=1" else None

    for again in (False, True):
        outcomes = run_here(tmp_path, ["plain"] * 3, steps=40, prune=prune)
        states = {outcome.trial.name: outcome.state for outcome in outcomes}
        assert states == {"trial=0": "done", "trial=1": "pruned", "trial=2": "done"}
        assert all((outcome.code is None) == again for outcome in outcomes)
    written = json.loads((tmp_path / "trial=1" / "pruned.json").read_text())
    assert written == {"trial": "trial=1", "reason": "bad"}


def test_each_trial_uses_the_cores_and_variables_of_its_slot(tmp_path):
    cores = sorted(os.sched_getaffinity(0))
    slots = [Slot("first", {"SHARE": "1"}, (cores[0],)), Slot("last", {"SHARE": "2"}, (cores[-1],))]
    run_here(tmp_path, ["plain"] * 4, slots=slots)
    used = set()
    for file in tmp_path.glob("*/starts.jsonl"):
        seen = json.loads(file.read_text())
        used.add((tuple(seen["cores"]), seen["environment"]["SHARE"]))
    assert used == {((cores[0],), "1"), ((cores[-1],), "2")}
    assert sorted(os.sched_getaffinity(0)) == cores


class Terminal:
    """A terminal screen with two escape sequences: cursor up, and erase below."""

    def __init__(self):
        self.lines, self.seen = [""], []

    def write(self, text):
        if text.startswith("\x1b["):
            up = int(text[2:].partition("A")[0])
            assert text.endswith("A\x1b[J")
            self.lines = self.lines[: len(self.lines) - 1 - up] + [""]
            return
        for character in text:
            if character == "\n":
                self.lines.append("")
            else:
                self.lines[-1] += character
        self.seen += self.lines

    def flush(self):
        pass

    def isatty(self):
        return True


def test_a_narrow_terminal_shortens_only_names(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    monkeypatch.setenv("COLUMNS", "40")
    name = "optim.learning_rate=0.001,model.dropout_rate=0.1,seed=3"
    trial = Trial(name, [], tmp_path, tmp_path / "log", 300, 8)
    (tmp_path / "metrics.jsonl").write_text('{"step": 7, "split": "test", "accuracy": 0.5}\n')
    (tmp_path / "timing.jsonl").write_text('{"step": 7, "images_per_second": 8.0}\n')
    board = Board(1, 1)
    board.look([local.Running(trial, TWO[0], None, 0.0, 0, 0)], 0)
    row = screen.lines[1]
    assert len(row) < 40
    assert row.split() == [row.split()[0], "a", "7/300", "50.00%", "4:53"]
    start, _, end = row.split()[0].partition("…")
    assert name.startswith(start)
    assert name.endswith(end)
    assert len(end) > 2


def test_the_table_of_running_trials_is_removed_at_the_end(tmp_path, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(local, "LOOK_SECONDS", 0.05)
    run_here(tmp_path, ["plain"] * 3, steps=30)
    head = next(line for line in screen.seen if line.startswith("trial"))
    assert head.split() == ["trial", "on", "step", "accuracy", "left"]
    assert any("/30" in line and "%" in line for line in screen.seen)
    assert any("of 3 over, 2 running" in line for line in screen.seen)
    assert [line.partition(",")[0] for line in screen.lines[:-1]] == [
        f"[{i}/3] {line.split()[1]} done" for i, line in enumerate(screen.lines[:-1], 1)
    ]
    assert screen.lines[-1] == ""


def test_a_sweep_whose_folder_is_replaced_stops_and_writes_nothing_there(tmp_path):
    """No further trial starts, and those that run are killed."""
    folder = tmp_path / "sweep"
    with lock.claimed(folder, "--sweep_dir") as claim:

        def replace(trial):
            if not (tmp_path / "moved").exists():
                folder.rename(tmp_path / "moved")
                folder.mkdir()
                (folder / "lock").write_text("another sweep")

        with pytest.raises(RunError, match=f"--sweep_dir={folder} was moved, removed or replaced"):
            run_here(
                folder, ["", "", ""], steps=400, slots=TWO[:1], prune=replace, guard=claim.check
            )
    assert [path.name for path in folder.iterdir()] in (["lock"], ["lock", "trial=0"])
    assert not (folder / "trials.jsonl").exists()
