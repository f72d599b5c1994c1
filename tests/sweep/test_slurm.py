"""Sweeps on Slurm. Some tests need a real Slurm, which `.ci/slurm start` starts."""

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "sweep")]

from driver import trials_of  # noqa: E402

import launch  # noqa: E402
from cv_jax.errors import InputError, RunError  # noqa: E402
from cv_jax.report import results  # noqa: E402
from cv_jax.run import json_files  # noqa: E402
from cv_jax.sweep import folder as folders  # noqa: E402
from cv_jax.sweep import slurm, slurm_task  # noqa: E402
from cv_jax.sweep.points import Sweep, make_point  # noqa: E402


def nodes():
    """Return the names of Slurm's idle nodes; empty if Slurm does not answer."""
    if shutil.which("sinfo") is None or importlib.util.find_spec("submitit") is None:
        return []
    command = ["sinfo", "--Node", "--noheader", "--states=idle,mixed", "--format=%n"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=3)
    except subprocess.TimeoutExpired:
        return []
    return answer.stdout.split()


needs_slurm = pytest.mark.skipif(
    len(nodes()) < 2, reason="no Slurm of two nodes answers here, or submitit is missing"
)


def end(code, before, step, signal=None):
    return {"code": code, "before": before, "step": step, "signal": signal}


@pytest.mark.parametrize(
    ("ends", "again"),
    [
        ([end(75, 0, 4, "SIGTERM")], True),
        ([end(2, 0, 0)], False),  # a mistake in the input
        ([end(3, 0, 9)], False),  # the loss is not finite
        ([end(1, 0, 0)], True),
        ([end(1, 0, 0)] * 3, False),
        ([end(1, 0, 0), end(1, 0, 5), end(1, 5, 5), end(-9, 5, 5)], True),
        ([end(1, 0, 0), end(1, 0, 5), end(1, 5, 5), end(-9, 5, 5), end(1, 5, 5)], False),
        # Repeated early preemptions are not failures, but their number is limited.
        ([end(75, 0, 0, "SIGTERM")] * 9, True),
        ([end(75, 0, 0, "SIGUSR2")] * 10, False),
        ([end(1, 0, 0), *[end(75, 0, 0, "SIGTERM")] * 3, end(1, 0, 0)], True),
    ],
)
def test_the_rule_for_starting_a_job_again(ends, again):
    assert slurm_task.starts_again(ends) is again


def test_reached_includes_checkpoints(tmp_path):
    assert slurm_task.reached(tmp_path) == 0
    (tmp_path / "metrics.jsonl").write_text('{"step": 3, "split": "train"}\n')
    assert slurm_task.reached(tmp_path) == 3
    for name in ("7", "12.partial", "5"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert slurm_task.reached(tmp_path) == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sweep", "--slurm.nodes=2"], "--slurm.nodes needs --sweep_executor=slurm"),
        (["--slurm.nodes=2"], "--slurm.nodes needs --sweep_executor=slurm"),
        (["--sweep", "--sweep_executor=slurm", "--slots=2"], "do not go together"),
        (["--search", "--sweep_executor=slurm"], "--sweep_executor needs --sweep"),
        (["--sweep", "--sweep_executor=slurm", "--slurm.nodes=0"], "nodes=0 must be at least 1"),
        (["--sweep", "--sweep_executor=slurm", "--slurm.time=1h"], "invalid int value: '1h'"),
        (["--sweep", "--sweep_executor=slurm", "--slurm.node=1"], "unrecognized arguments"),
        (["--sweep", "--sweep_executor=slurm"], "sbatch is not installed on this machine"),
    ],
)
def test_an_input_error_is_raised_before_any_write(arguments, message, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        launch.main(["--config", f"{ROOT}/configs/experiments/depth.py", *arguments])
    assert not list(tmp_path.iterdir())


HOSTILE = ["a\ntouch pwned #", "a'\ntouch pwned\n'", "a\rb", "a\x1b[2J", "a\x00b", "a\u2028b"]
TEXTS = [option for option in slurm.OPTIONS if option.kind is not int]


def flags_of(**given):
    return argparse.Namespace(**{f"slurm.{o.name}": given.get(o.name) for o in slurm.OPTIONS})


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """A folder for a sweep, on a machine with a `sbatch` that only answers."""
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text("#!/bin/sh\necho Submitted batch job 7\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:{os.environ['PATH']}")
    return tmp_path


@pytest.mark.parametrize("option", TEXTS, ids=lambda option: option.name)
@pytest.mark.parametrize("text", HOSTILE)
def test_a_value_that_would_be_a_line_of_the_script_is_refused(option, text, installed):
    value = ["module load x", text] if option.kind is list else text
    with pytest.raises(
        InputError, match=rf"(?s)--slurm.{option.name}=.*: the batch script of Slurm"
    ):
        slurm.options(flags_of(**{option.name: value}), installed / "sweep")
    assert sorted(os.listdir(installed)) == ["bin"]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_folder_that_would_be_a_line_of_the_script_is_refused(text, installed, monkeypatch):
    for folder in (installed / text, installed / text / "sweep"):
        with pytest.raises(InputError, match="(?s)--sweep_dir=.*: the batch script of Slurm"):
            slurm.options(flags_of(), folder)
    if "\0" not in text:
        (installed / text).mkdir()
        (installed / "link").symlink_to(text)  # the name of the job is that of the folder
        monkeypatch.chdir(installed / text)
        for folder in (installed / "link", Path("sweep")):
            with pytest.raises(InputError, match="(?s)--sweep_dir=.*: the batch script of Slurm"):
                slurm.options(flags_of(), folder)


def test_quotes_in_a_value_stay_in_the_value(installed):
    """The shell runs the script with all values of another program's syntax; it makes no file."""
    pytest.importorskip("submitit")
    text = "a' b\"; touch pwned; $(touch pwned) `touch pwned` #"
    folder = installed / f"sweep {text}"
    (folder / "slurm").mkdir(parents=True)
    given = {o.name: text for o in slurm.OPTIONS if o.kind is str}
    options = slurm.options(flags_of(**given, setup=["true"]), folder)
    trial = folders.Trial("t", ["true"], folder / "t", folder / "t.log", 1, 1)
    assert slurm.submit([trial, trial._replace(name="u")], options, folder) == {
        "t": "7_0",
        "u": "7_1",
    }
    scripts = list((folder / "slurm").glob("*.sh"))
    assert scripts
    srun = installed / "bin" / "srun"
    srun.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\" > arguments\n")
    srun.chmod(0o755)
    for script in scripts:
        subprocess.run(["bash", str(script)], cwd=installed, check=True)
    assert sorted(os.listdir(installed)) == ["arguments", "bin", folder.name]
    assert str(folder / "slurm") in (installed / "arguments").read_text().splitlines()


@pytest.mark.parametrize("text", ["", "{", "[" * 10**5, '"a"', "[1]", '{"a": 1}'])
def test_a_damaged_list_of_trials_is_named(text, tmp_path):
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "0a.json").write_text(text)
    with pytest.raises(RunError, match="0a.json is damaged; when no job"):
        slurm.queue(tmp_path)


def test_without_an_answer_of_slurm_the_queue_is_an_error(monkeypatch, tmp_path):
    assert slurm.queue(tmp_path) == {}  # without submissions Slurm is not asked
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "0a.json").write_text('["a", "b", "c"]')
    (tmp_path / "bin").mkdir()
    squeue = tmp_path / "bin" / "squeue"
    monkeypatch.setenv("PATH", str(squeue.parent))
    with pytest.raises(RunError, match="squeue does not answer: .*squeue"):
        slurm.queue(tmp_path)
    squeue.write_text("#!/bin/sh\necho 'error: no\n contact' >&2\nexit 1\n")
    squeue.chmod(0o755)
    with pytest.raises(RunError, match="squeue does not answer: error: no contact"):
        slurm.queue(tmp_path)
    rows = "7|1|RUNNING|my-sweep-0a\n8|N/A|PENDING|0a\n9|0|RUNNING|another-0b\n3|0|RUNNING|x|0a"
    squeue.write_text(f"#!/bin/sh\necho '{rows}'\n")
    assert slurm.queue(tmp_path) == {"b": ("7_1", "RUNNING"), "a": ("8", "PENDING")}


def test_a_report_describes_the_end_of_the_last_job(tmp_path):
    points = (make_point({"seed": 0}), make_point({"seed": 1}))
    folders.write(tmp_path, Sweep("linear.py", "", {}, points))
    (tmp_path / "slurm").mkdir()
    for name, codes in (("seed=0", (75, 3)), ("seed=1", (1, 75))):
        for code in codes:
            line = {"trial": name, **end(code, 0, 0)}
            json_files.append_line(tmp_path / "slurm" / f"{name}.jsonl", line)
    states = {result.name: result.state for result in results.read(tmp_path)[1]}
    assert "infinite" in states["seed=0"]
    assert "stopped" in states["seed=1"]


@pytest.fixture
def jobs():
    """Cancel all jobs of this user that were submitted in the test."""
    command = ["squeue", "--me", "--noheader", "--format=%A"]
    before = set(subprocess.check_output(command, text=True).split())
    yield
    after = set(subprocess.check_output(command, text=True).split())
    if after - before:
        subprocess.run(["scancel", *(after - before)])


def wait(condition, what, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


@needs_slurm
def test_stopped_jobs_continue_and_other_jobs_are_not_requeued(tmp_path, jobs, capfd):
    """Fake trials: two are stopped, one is cancelled, and the loss of one is not finite."""
    folder, steps = tmp_path / "sweep", 400
    folder.mkdir()
    trials = list(trials_of(folder, steps, ["fine", "fine", "fine", "nan"]))
    slurm.run(trials, {}, folder)
    assert "4 submitted now; 4 trials" in capfd.readouterr().out
    active = slurm.queue(folder)
    assert sorted(active) == [trial.name for trial in trials]
    names = [active[trial.name][0] for trial in trials]

    wait(lambda: all(lines(t.workdir / "metrics.jsonl")[10:] for t in trials[:3]), "steps")
    subprocess.check_call(["scancel", "--signal=USR2", names[0]])  # as before the time limit
    subprocess.check_call(["scontrol", "requeue", names[1]])
    subprocess.check_call(["scancel", names[2]])
    wait(lambda: len(slurm.queue(folder)) == 2, "the end of two jobs")
    capfd.readouterr()
    slurm.run(trials, {}, folder)  # submits the two trials whose jobs have ended
    out = capfd.readouterr().out
    assert "2 queued or running, 2 submitted now" in out
    rows = {line.split()[0]: line for line in out.splitlines()[:4]}
    assert "(the last job ended with" in rows[trials[2].name]
    assert "(the last job ended with exit code 3)" in rows[trials[3].name]

    wait(lambda: not slurm.queue(folder), "the end of all")
    slurm.run(trials[:3], {}, folder)
    assert "3 done; 3 trials" in capfd.readouterr().out
    for i, trial in enumerate(trials[:3]):
        value = trial.name
        for step in range(1, steps + 1):
            value = hashlib.sha256(f"{value} {step}".encode()).hexdigest()
        assert json.loads((trial.workdir / "summary.json").read_text())["value"] == value
        starts = [json.loads(line)["step"] for line in lines(trial.workdir / "starts.jsonl")]
        assert len(starts) == 2
        assert starts[1] > 10
        assert lines(trial.workdir / "ends") == ["2"]
        ends = [json.loads(line) for line in lines(folder / "slurm" / f"{trial.name}.jsonl")]
        # Slurm signals all processes of a job, and the task also signals its process. The second
        # signal may arrive after Python has removed its handlers.
        assert [end["code"] in (75, -15) for end in ends] == [True]
        assert ends[0]["signal"] == ("SIGUSR2" if i == 0 else "SIGTERM")
        assert ends[0]["slot"] == f"job {names[i]}"
        assert ends[0]["step"] == starts[1]
        assert trial.log.read_text().count("$ ") == 2
    assert len(lines(trials[3].workdir / "starts.jsonl")) == 2  # once for each command


@needs_slurm
def test_a_refusal_of_sbatch_is_an_error_and_leaves_no_files(tmp_path):
    trials = list(trials_of(tmp_path, 5, ["fine"]))
    with pytest.raises(InputError, match="sbatch refuses the jobs: .*invalid partition"):
        slurm.run(trials, {"partition": "nowhere"}, tmp_path)
    assert not list((tmp_path / "slurm").iterdir())


SIMULATED = "--xla_force_host_platform_device_count=2"
CONFIG = (
    (ROOT / "configs" / "linear.py").read_text()
    + """

def sweep():
    for steps in (10**6, 10**6 + 1):  # no such step: both trials compute the same
        yield {"checkpoint.every_steps": steps}
"""
)


@needs_slurm
def test_trials_on_two_nodes_continue_exactly(tmp_path, jobs, data_dir):
    """One of two equal trials is stopped; both results equal a plain run on two devices."""
    config, folder = tmp_path / "small.py", tmp_path / "sweep"
    config.write_text(CONFIG)
    flags = ["--config", str(config), f"--config.data.dir={data_dir}", "--config.total_steps=1000"]
    flags += ["--config.log.every_steps=50", "--config.eval.every_steps=500"]
    sweep = ["--sweep", "--sweep_executor=slurm", "--slurm.nodes=2", "--slurm.time=5"]
    sweep += ["--sweep_dir", str(folder), f"--slurm.setup=touch '{tmp_path}/set up'"]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}

    def call(*arguments, **more):
        return subprocess.Popen(
            [sys.executable, str(ROOT / "launch.py"), *flags, *arguments],
            env={**environment, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    submitting = call(*sweep)
    out, _ = submitting.communicate()
    assert submitting.returncode == 0, out
    assert "2 submitted now; 2 trials" in out
    names = [f"checkpoint.every_steps={steps}" for steps in (10**6, 10**6 + 1)]
    stopped, calm = (folder / name for name in names)
    job = slurm.queue(folder)[names[0]][0]
    wait(lambda: lines(stopped / "metrics.jsonl"), "the first metrics")
    subprocess.check_call(["scancel", "--signal=TERM", job])
    wait(lambda: lines(folder / "slurm" / f"{names[0]}.jsonl"), "the end of its job")
    again = call(*sweep)  # submits nothing: both are finished, queued or running
    plain = call("--workdir", str(tmp_path / "plain"), XLA_FLAGS=SIMULATED)
    out, _ = plain.communicate()
    assert plain.returncode == 0, out
    out, _ = again.communicate()
    assert again.returncode == 0, out
    assert "2 trials in" in out
    assert "submitted now" not in out
    wait(lambda: not slurm.queue(folder), "the end of all")

    assert (tmp_path / "set up").exists()
    starts = [json.loads((path / "run.json").read_text()) for path in (stopped, calm)]
    assert [len(each) for each in starts] == [2, 1]
    assert 0 < starts[0][1]["step"] < 1000
    assert all(start["processes"] == 2 for each in starts for start in each)
    metrics = [lines(path / "metrics.jsonl") for path in (stopped, calm, tmp_path / "plain")]
    assert metrics[0] == metrics[1]
    assert len(metrics[0]) == len(metrics[2]) == 22
    for ours, other in zip(map(json.loads, metrics[1]), map(json.loads, metrics[2]), strict=True):
        assert (ours["step"], ours["split"]) == (other["step"], other["split"])
        np.testing.assert_allclose(ours["loss"], other["loss"], rtol=1e-4)
