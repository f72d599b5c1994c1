"""Runs with several real processes on loopback: results, signals, failures and restarts."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import processes
import pytest

from cv_jax.run import checkpoint

ROOT = Path(__file__).resolve().parents[2]

# Host and device augmentation, mixing, dropout, weight averages, a probe and timed saves.
OVERRIDES = {
    "augment": "resize(10)|random_crop(8)|mixup(0.2)",
    "eval_preprocess": "resize(10)|central_crop(8)",
    "image_size": 8,
    "batch_size": 16,
    "eval.batch_size": 64,
    "model.widths": "32,32",
    "model.dropout_rate": 0.1,
    "ema.decay": 0.9,
    "optim.learning_rate": 3e-3,
    "schedule.warmup_epochs": "none",
    "total_steps": 200,
    "eval.every_steps": 100,
    "checkpoint.every_steps": 25,
    "checkpoint.every_seconds": 0.5,
    "checkpoint.keep_best": 1,
    "log.every_steps": 10,
    "eval.extra": "knn(k=3, feature='fc2', train_examples=100, every_steps=90)",
    "mesh.heartbeat_seconds": 4,
}
ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}


def coordinator():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def begin(commands, **variables):
    """Start processes; `variables` are further environment variables of the last one."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    *first, last = commands
    environments = [ENVIRONMENT] * len(first) + [{**ENVIRONMENT, **variables}]
    return [
        subprocess.Popen(command, env=environment, **pipes)
        for command, environment in zip([*first, last], environments, strict=True)
    ]


def start(count, workdir, data_dir, special=None, variables=None, **overrides):
    """Start `count` processes of one run.

    `special` and `variables` are extra arguments and environment variables of the last process.
    """
    address, values = coordinator(), {"data.dir": data_dir, **OVERRIDES, **overrides}
    commands = [
        [
            *(sys.executable, str(ROOT / "launch.py"), "--config", f"{ROOT}/configs/mlp.py"),
            *("--workdir", str(workdir), "--coordinator", address),
            *("--num_processes", str(count), "--process_id", str(index)),
            *[f"--config.{key}={value}" for key, value in values.items()],
            *(special or [] if index == count - 1 else []),
        ]
        for index in range(count)
    ]
    return begin(commands, **(variables or {}))


def finish(started, code=0):
    """Wait for all processes; return the standard output and error of each."""
    try:
        outputs = [process.communicate(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [code] * len(started), outputs
    return outputs


def saved(workdir):
    return checkpoint.finished(workdir / "checkpoints")


def wait_for_save(started, workdir, after=0, seconds=120):
    """Wait until a checkpoint later than step `after` is finished."""
    end = time.monotonic() + seconds
    while max(saved(workdir), default=0) <= after:
        assert all(process.poll() is None for process in started), "the run ended too early"
        assert time.monotonic() < end, "nothing was saved"
        time.sleep(0.005)


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def assert_same_curve(got, expected):
    """Compare to rounding: the summation order of the gradients differs."""
    assert [(x["step"], x["split"]) for x in got] == [(x["step"], x["split"]) for x in expected]
    for a, b in zip(got, expected, strict=True):
        assert a.keys() == b.keys()
        if "loss" in a:
            np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-4, err_msg=str(a["step"]))
        if "correct" in a:  # examples near the decision boundary may differ
            assert abs(a["correct"] - b["correct"]) <= 2
            assert a["count"] == b["count"]


def one_process(name, workdir, data_dir, overrides=OVERRIDES, what="train"):
    """Run in this process, on one device."""
    values = {"data.dir": data_dir, **overrides, "mesh.devices": 1}
    assert processes.run(what, f"{ROOT}/configs/{name}.py", values, workdir) == 0


@pytest.fixture(scope="module")
def single(tmp_path_factory, data_dir):
    workdir = tmp_path_factory.mktemp("single") / "run"
    one_process("mlp", workdir, data_dir)
    return workdir


@pytest.fixture(scope="module")
def double(tmp_path_factory, data_dir):
    workdir = tmp_path_factory.mktemp("double") / "run"
    return workdir, finish(start(2, workdir, data_dir, **{"checkpoint.keep_last": 1000}))


def test_two_processes_train_like_one(double, single):
    assert lines(single)[-1]["split"] == "knn"
    assert lines(single)[-2]["accuracy"] > 0.5
    assert_same_curve(lines(double[0]), lines(single))


def test_only_process_0_prints_and_writes(double):
    workdir, ((out, err), (other_out, other_err)) = double
    assert "test accuracy" in out
    assert "step 200: test accuracy" in err
    assert "test accuracy" not in other_out
    assert not other_err.strip()
    (run,) = json.loads((workdir / "run.json").read_text())
    assert (run["processes"], len(run["devices"])) == (2, 2)
    assert not list(workdir.glob(".*"))


def test_timed_saves_follow_the_clock_of_process_0(double):
    steps = saved(double[0])
    assert set(range(25, 201, 25)) <= set(steps)
    assert all(checkpoint.damage(double[0] / "checkpoints" / str(step)) is None for step in steps)


@pytest.mark.slow
def test_a_dead_process_is_detected_and_a_restart_continues_bit_for_bit(tmp_path, double, data_dir):
    workdir, noted = tmp_path / "run", {"data.hash": "full", "data.cache": "none"}
    # Process 1 is killed, then process 0; then process 0 is frozen: only its heartbeat tells.
    for victim, how, what in (
        (1, signal.SIGKILL, "another process of this run has ended"),
        (0, signal.SIGKILL, "process 0 of this run has ended"),
        (0, signal.SIGSTOP, "process 0 of this run does not answer"),
    ):
        started = start(2, workdir, data_dir, **noted)
        wait_for_save(started, workdir, after=max(saved(workdir), default=0))
        started[victim].send_signal(how)
        since = time.monotonic()
        _, err = started[1 - victim].communicate(timeout=60)
        assert started[1 - victim].returncode == 1, err
        assert time.monotonic() - since < 25
        (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
        assert line.startswith(f"error: {what}; start all processes again to continue"), err
        assert victim or err == f"{line}\n"  # process 0 has written lines on its progress before
        assert "Traceback" not in err
        started[victim].kill()
        started[victim].communicate()
        for step in saved(workdir):
            assert checkpoint.damage(workdir / "checkpoints" / str(step)) is None

    finish(start(2, workdir, data_dir, **noted))
    files = sorted(file.name for file in (workdir / "digests").iterdir())
    assert files == ["eval-0.bin", "eval-1.bin", "train-0.bin", "train-1.bin"]
    for file in ("metrics.jsonl", "summary.json"):
        assert (workdir / file).read_text() == (double[0] / file).read_text()
    got, step = checkpoint.read_newest(workdir / "checkpoints", lambda name: True)
    expected, last = checkpoint.read_newest(double[0] / "checkpoints", lambda name: True)
    assert step == last == 200
    assert got.keys() == expected.keys()
    assert len(got) > 20
    for name in expected:
        assert got[name].tobytes() == expected[name].tobytes(), name


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, data_dir):
    """Four processes with a sharded state; process 1 receives SIGTERM during the run."""
    workdir = tmp_path_factory.mktemp("stopped") / "run"
    split = {"mesh.params": "fsdp", "mesh.fsdp_min_size": 64}
    started = start(4, workdir, data_dir, **split)
    wait_for_save(started, workdir)
    started[1].send_signal(signal.SIGTERM)
    return workdir, finish(started, code=75)


@pytest.mark.slow
def test_a_signal_to_one_process_saves_and_stops_all(stopped):
    workdir, outputs = stopped
    err = outputs[0][1]
    assert "stopped by SIGTERM at step" in err
    assert max(saved(workdir)) == int(err.split("at step ")[1].split()[0]) < 200
    newest = workdir / "checkpoints" / str(max(saved(workdir)))
    assert checkpoint.damage(newest) is None


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_fewer_processes_continue_a_run_of_four(tmp_path, stopped, single, data_dir, count):
    workdir = tmp_path / "run"
    shutil.copytree(stopped[0], workdir)
    if count == 1:
        one_process("mlp", workdir, data_dir)
    else:
        finish(start(count, workdir, data_dir))
    begun = [run["step"] for run in json.loads((workdir / "run.json").read_text())]
    assert begun == [0, max(saved(stopped[0]))]
    assert_same_curve(lines(workdir), lines(single))


def test_an_input_error_in_one_process_ends_all(tmp_path, data_dir):
    (_, first), (_, second) = finish(
        start(2, tmp_path / "run", data_dir, special=["--config.seed=7"]), code=2
    )
    message = "config of process 1 differs from that of process 0: seed=7, not 0"
    assert second == f"error: {message}\n"
    assert first == f"error: process 1: {message}\n"
    assert not (tmp_path / "run").exists()


def test_processes_in_different_environments_are_refused(tmp_path, data_dir):
    """Each process computes the replicated values itself, and they must have the same bits."""
    variables = {"NVIDIA_TF32_OVERRIDE": "0", "PJRT_NPROC": "7"}
    (_, first), (_, second) = finish(
        start(2, tmp_path / "run", data_dir, variables=variables), code=2
    )
    assert second.startswith(
        "error: environment of process 1 differs from that of process 0: cpu_threads=7, not "
    )
    assert second.endswith("; NVIDIA_TF32_OVERRIDE='0', not None\n")
    assert first == f"error: process 1: {second.removeprefix('error: ')}"
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_teacher_initial_weights_a_device_cache_and_masking_on_two_processes(
    tmp_path, single, data_dir
):
    short = {
        "total_steps": 20,
        "log.every_steps": 1,
        "eval.every_steps": 20,
        "mesh.devices": "none",
    }
    taught = {**OVERRIDES, **short, "augment": "flip|mixup(0.2)", "data.cache": "device"}
    taught |= {"distill.teacher": single, "init_from": single}
    masked = {**short, "image_size": 8, "batch_size": 16, "eval.batch_size": 64}
    masked |= {"augment": "resize(8)|flip", "eval_preprocess": "resize(8)"}
    masked |= {"model.width": 24, "model.num_heads": 2, "model.depth": 1}
    masked |= {"model.decoder_width": 16, "model.decoder_num_heads": 2, "model.decoder_depth": 1}
    masked |= {"schedule.warmup_epochs": "none"}
    jobs = [
        ("train", "mlp", taught, "taught"),
        (
            "score",
            "mlp",
            {**taught, "eval_preprocess": "resize(8)|flips", "eval.extra": ""},
            "taught",
        ),
        ("train", "mae", masked, "masked"),
    ]
    for what, name, overrides, folder in jobs:
        one_process(name, tmp_path / "one" / folder, data_dir, overrides, what)
    texts = json.dumps(
        [
            (
                what,
                f"{ROOT}/configs/{name}.py",
                {"data.dir": str(data_dir), **{k: str(v) for k, v in overrides.items()}},
                str(tmp_path / "two" / folder),
            )
            for what, name, overrides, folder in jobs
        ]
    )
    address = coordinator()
    program = [sys.executable, str(ROOT / "tests" / "processes.py"), address, "2"]
    finish(begin([*program, str(index), texts] for index in range(2)))
    for folder in ("taught", "masked"):
        assert_same_curve(lines(tmp_path / "two" / folder), lines(tmp_path / "one" / folder))
    found = []
    for count in ("one", "two"):
        (file,) = (tmp_path / count / "taught").glob("evaluation-*.json")
        found.append(json.loads(file.read_text())["evaluations"]["test"]["metrics"])
    np.testing.assert_allclose(found[0]["nll"], found[1]["nll"], rtol=1e-4)
    assert found[0]["count"] == found[1]["count"] == 359
