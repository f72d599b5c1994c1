"""A run that is killed and started again is bit-equal to the uninterrupted run."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from event_files import read_points

from cv_jax.run import checkpoint
from cv_jax.training import experiment

ROOT = Path(__file__).resolve().parents[2]

# Shuffling, host and device augmentation, mixing, dropout and averaging; two devices.
OVERRIDES = {
    "augment": "resize(20)|random_crop(16)|pad_crop(2)|flip|mixup(0.2)",
    "eval_preprocess": "resize(20)|central_crop(16)",
    "image_size": 16,
    "batch_size": 16,
    "model.widths": "256,256",
    "model.dropout_rate": 0.1,
    "ema.decay": 0.99,
    "total_steps": 400,
    "eval.every_steps": 50,
    "checkpoint.every_steps": 10,
    "log.every_steps": 7,
    "log.norms": True,
    "log.writers": "tensorboard",
    # Intervals that differ from each other and from all other intervals of this run.
    "eval.extra": "classification(name='seen', split='train[:100]', every_steps=35)"
    "|knn(k=3, feature='fc2', train_examples=100, every_steps=90)",
    "data.prefetch": 2,
}


def command(workdir, data_dir, name, overrides):
    flags = {"data.dir": data_dir, **overrides}
    return [
        sys.executable,
        str(ROOT / "launch.py"),
        "--config",
        str(ROOT / "configs" / f"{name}.py"),
        "--workdir",
        str(workdir),
        *[f"--config.{key}={value}" for key, value in flags.items()],
    ]


def start(workdir, data_dir, name="mlp", overrides=OVERRIDES):
    flags = "--xla_force_host_platform_device_count=2"
    return subprocess.Popen(
        command(workdir, data_dir, name, overrides),
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, code=0):
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    return out, err


def final_state(workdir, load_config, name="mlp", overrides=OVERRIDES):
    parts = experiment.build(load_config(name, {**overrides, "mesh.devices": 2}))
    restored, step = checkpoint.Checkpoints(workdir / "checkpoints").restore(parts.abstract_state)
    return jax.device_get(restored), step


def assert_same_run(workdir, reference, load_config, **net):
    got, step = final_state(workdir, load_config, **net)
    expected, last = final_state(reference, load_config, **net)
    assert step == last
    leaves = jax.tree_util.tree_leaves_with_path(expected)
    assert len(leaves) > 20
    for (path, a), b in zip(leaves, jax.tree.leaves(got), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), jax.tree_util.keystr(path)
    for file in ("metrics.jsonl", "summary.json"):
        assert (workdir / file).read_text() == (reference / file).read_text()
    if (reference / "tensorboard").is_dir():
        points = read_points(workdir / "tensorboard")
        assert points == read_points(reference / "tensorboard")
        assert len(points) == len(set(points))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, data_dir):
    workdir = tmp_path_factory.mktemp("uninterrupted") / "run"
    finish(start(workdir, data_dir))
    return workdir


def test_every_evaluation_has_its_own_interval(uninterrupted):
    text = (uninterrupted / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    steps = {split: [x["step"] for x in lines if x["split"] == split] for split in ("test", "seen")}
    assert steps["test"] == list(range(50, 401, 50))
    assert steps["seen"] == [*range(35, 400, 35), 400]
    probes = [line for line in lines if line["split"] == "knn"]
    assert [line["step"] for line in probes] == [90, 180, 270, 360, 400]
    assert all(line["count"] == 359 for line in probes)
    norms = [line for line in lines if line["split"] == "norms"]
    assert [line["step"] for line in norms] == [x["step"] for x in lines if x["split"] == "train"]


def wait_for(process, condition, seconds=120):
    """Poll until the condition holds; return False if the process ends first."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            return False
        if condition():
            return True
        time.sleep(0.0005)
    raise AssertionError(f"timeout after {seconds} s: {process.communicate()}")


def saved(workdir):
    return checkpoint.finished(workdir / "checkpoints")


def test_kills_at_any_time_change_nothing(tmp_path, data_dir, uninterrupted, load_config):
    workdir, rng = tmp_path / "run", random.Random(time.time_ns())
    kills = during_saves = 0
    while kills < 4 or not during_saves:
        assert kills < 12, "no kill during a save"
        process = start(workdir, data_dir)
        newest = max(saved(workdir), default=0)
        if kills % 2 == 0:  # after a new checkpoint, and while the next one is written
            happened = wait_for(
                process,
                lambda newest=newest: (
                    max(saved(workdir), default=0) > newest
                    and list((workdir / "checkpoints").glob(f"*{checkpoint.WRITING}"))
                ),
            )
        else:
            happened = wait_for(process, lambda n=newest: max(saved(workdir), default=0) > n)
            time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.communicate()
        assert happened, "the run ended before it could be killed"
        kills += 1
        during_saves += bool(list((workdir / "checkpoints").glob(f"*{checkpoint.WRITING}")))
    finish(start(workdir, data_dir))
    assert_same_run(workdir, uninterrupted, load_config)
    starts = json.loads((workdir / "run.json").read_text())
    assert len(starts) == kills + 1
    assert [s["step"] for s in starts] == sorted({s["step"] for s in starts})


@pytest.mark.slow
def test_kills_change_nothing_with_batch_norm(tmp_path, data_dir, load_config):
    """The state includes running statistics, their averages, and momentum."""
    overrides = {
        "model.widths": "4,8,8",
        "model.stem_width": 4,
        "model.stage_sizes": "1,1,1",
        "image_size": 8,
        "batch_size": 16,
        "augment": "pad_crop(1)|mixup(0.2)",
        "ema.decay": 0.99,
        "total_steps": 300,
        "eval.every_steps": 50,
        "checkpoint.every_steps": 10,
    }
    net = {"name": "resnet", "overrides": overrides}
    finish(start(tmp_path / "reference", data_dir, **net))
    workdir = tmp_path / "run"
    for _ in range(2):
        process = start(workdir, data_dir, **net)
        newest = max(saved(workdir), default=0)
        assert wait_for(process, lambda n=newest: max(saved(workdir), default=0) > n)
        time.sleep(random.Random(time.time_ns()).uniform(0, 0.1))
        process.kill()
        process.communicate()
    finish(start(workdir, data_dir, **net))
    assert_same_run(workdir, tmp_path / "reference", load_config, **net)
    state, _ = final_state(workdir, load_config, **net)
    assert {"mean", "var"} == set(state.model_state["batch_stats"]["bn1"])
    assert "batch_stats" in state.ema


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)]
)
def test_a_signal_saves_and_the_same_command_continues(
    tmp_path, data_dir, uninterrupted, load_config, number
):
    workdir = tmp_path / "run"
    process = start(workdir, data_dir)
    assert wait_for(process, lambda: saved(workdir))
    process.send_signal(number)
    _, err = finish(process, code=75)
    assert f"stopped by {number.name} at step" in err
    stopped_at = int(err.split("at step ")[1].split()[0])
    assert max(saved(workdir)) == stopped_at < 400
    assert f"--workdir {workdir}" in err  # the command that continues
    out, _ = finish(start(workdir, data_dir))
    assert "test accuracy" in out
    assert_same_run(workdir, uninterrupted, load_config)
    # A start of a finished run changes nothing.
    out, _ = finish(start(workdir, data_dir))
    assert "finished already" in out
    assert_same_run(workdir, uninterrupted, load_config)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_the_run_and_all_its_processes(tmp_path, data_dir):
    import psutil

    overrides = {**OVERRIDES, "data.cache": "none", "data.workers": 2, "total_steps": 100000}
    process = start(tmp_path / "run", data_dir, overrides=overrides)
    assert wait_for(process, lambda: saved(tmp_path / "run"))
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    for child in children:  # a terminal sends Ctrl-C to the workers too
        child.send_signal(signal.SIGINT)
    os.kill(process.pid, signal.SIGSTOP)  # both signals arrive in the same step
    process.send_signal(signal.SIGINT)
    os.kill(process.pid, signal.SIGCONT)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=60)
    process.communicate()
    assert process.returncode in (130, 75)
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


@pytest.mark.slow
def test_loader_workers_ignore_sigint_and_change_nothing(tmp_path, data_dir, load_config):
    import psutil

    few = {**OVERRIDES, "total_steps": 60, "data.cache": "none"}
    finish(start(tmp_path / "reference", data_dir, overrides=few))
    workdir = tmp_path / "run"
    process = start(workdir, data_dir, overrides={**few, "data.workers": 2})
    assert wait_for(process, lambda: saved(workdir))
    for child in psutil.Process(process.pid).children(recursive=True):
        child.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    finish(process, code=75)
    finish(start(workdir, data_dir, overrides=few))
    assert_same_run(workdir, tmp_path / "reference", load_config, overrides=few)


def test_two_runs_cannot_share_a_directory(tmp_path, data_dir):
    workdir = tmp_path / "run"
    first = start(workdir, data_dir, overrides={**OVERRIDES, "total_steps": 100000})
    assert wait_for(first, lambda: saved(workdir))
    second = start(workdir, data_dir, overrides={**OVERRIDES, "total_steps": 100000})
    _, err = finish(second, code=2)
    assert f"is in use by process {first.pid}" in err
    first.kill()
    first.communicate()
