"""Model FLOPs, compared with counts by hand; traces with exactly the configured updates."""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from cv_jax.errors import InputError
from cv_jax.training import experiment, profiling
from cv_jax.training.teacher import Teacher

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import launch  # noqa: E402

NET = {"model.widths": 8, "batch_size": 32, "total_steps": 8}


@pytest.fixture(scope="module")
def mlp(load_config):
    return experiment.build(load_config("mlp", NET))


# ---- Model FLOPs

FORWARD = 32 * 32 * 8 + 8 * 10  # multiply-adds of an image


def test_model_flops_of_an_mlp(mlp, load_config):
    assert profiling.model_flops(mlp) == 6 * 32 * FORWARD
    # Two views of each example; the products inside augmentation do not count.
    augmented = {**NET, "augment": "views(2)|rotate(30)|gaussian_blur|mixup(0.2)"}
    parts = experiment.build(load_config("mlp", augmented))
    assert profiling.model_flops(parts) == 2 * 6 * 32 * FORWARD


def test_a_teacher_counts_with_its_forward_pass_only(mlp):
    kernel = np.zeros((32 * 32, 10), np.float32)
    teacher = Teacher(kernel, lambda v, x: x.reshape(len(x), -1) @ v, {})
    expected = 6 * 32 * FORWARD + 2 * 32 * kernel.size
    assert profiling.model_flops(dataclasses.replace(mlp, teacher=teacher)) == expected


def test_model_flops_of_a_transformer_do_not_depend_on_its_implementation(load_config):
    width, depth, tokens, classes, batch = 48, 2, 5, 10, 16
    block = 3 * tokens * width**2  # queries, keys, values
    block += 2 * tokens**2 * width  # attention scores, weighted sum of the values
    block += tokens * width**2  # projection
    block += 2 * tokens * width * 4 * width  # two layers of the MLP
    forward = 4 * 16 * 16 * width + depth * block + width * classes
    net = {"model.width": width, "model.depth": depth, "batch_size": batch}
    for overrides in (
        {},
        {"model.scan_layers": True, "model.remat_policy": "full"},
        {"optim.accumulate_steps": 2},
        {"ema.decay": 0.9, "optim.rules": "blocks_0/.*: freeze"},
    ):
        parts = experiment.build(load_config("vit_ti16", {**net, **overrides}))
        assert profiling.model_flops(parts) == 6 * batch * forward, overrides


@pytest.mark.parametrize(
    ("kind", "tera"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.4),
        ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362.05),
        ("TPU v2", 23),
        ("TPU v3", 61.5),
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5", 459),
        ("TPU v5p", 459),
        ("TPU v6 lite", 918),
        ("TPU v6e", 918),
        ("cpu", None),
        ("NVIDIA L40", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("TPU v4 lite", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
    ],
)
def test_peak_flops_of_device_kinds(kind, tera):
    assert profiling.peak_flops(kind) == (tera and tera * 1e12)


def test_utilisation_is_relative_to_the_peak_of_all_devices(mlp, monkeypatch):
    assert profiling.utilisation(mlp) is None  # on CPUs
    monkeypatch.setattr(profiling, "peak_flops", lambda kind: 1e9)
    share = profiling.utilisation(mlp)(2000.0)
    assert mlp.mesh.size == 8
    assert share == pytest.approx(2000 * 6 * FORWARD / 8e9)


def test_a_run_logs_its_utilisation(mlp, monkeypatch, tmp_path, data_dir):
    monkeypatch.setattr(profiling, "peak_flops", lambda kind: 1e12)
    assert run(tmp_path / "run", data_dir, "--config.log.every_steps=4") == 0
    first, *lines = map(json.loads, (tmp_path / "run" / "timing.jsonl").read_text().splitlines())
    assert first["step"] == 1
    assert first["programs"] >= first["programs_loaded"] >= 0
    assert [line["step"] for line in lines] == [4, 8]
    for line in lines:
        expected = line["images_per_second"] * 6 * FORWARD / 8e12
        assert line["utilisation"] == pytest.approx(expected, abs=1e-4)


# ---- Traces


def run(workdir, data_dir, *flags):
    arguments = ["--config", f"{ROOT}/configs/mlp.py", f"--config.data.dir={data_dir}"]
    arguments += [f"--config.{key}={value}" for key, value in NET.items()]
    return launch.main([*arguments, "--workdir", str(workdir), *flags])


def traced_updates(workdir):
    """The updates in the trace of a run."""
    (file,) = (workdir / "profile").rglob("*.xplane.pb")
    return sorted(
        value
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes
        for line in plane.lines
        for event in line.events
        if event.name == "train"
        for name, value in event.stats
        if name == "step_num"
    )


def test_the_trace_has_the_configured_updates(tmp_path, data_dir):
    trace = ["--config.profile.start_step=2", "--config.profile.num_steps=3"]
    assert run(tmp_path / "run", data_dir, *trace) == 0
    assert traced_updates(tmp_path / "run") == [3, 4, 5]
    # `profile` is a run field, and a trace does not change the metrics.
    assert run(tmp_path / "other", data_dir) == 0
    assert not (tmp_path / "other" / "profile").exists()
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == (
        tmp_path / "other" / "metrics.jsonl"
    ).read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["start_step=6", "num_steps=3"], "reach beyond the 8 updates of the run"),
        (["num_steps=1"], "start_step=10 and num_steps=1 reach beyond the 8 updates"),
    ],
)
def test_updates_after_the_end_of_the_run_are_errors(tmp_path, data_dir, flags, message):
    with pytest.raises(InputError) as caught:
        run(tmp_path / "run", data_dir, *[f"--config.profile.{flag}" for flag in flags])
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


def trace_steps(trace, first, last):
    for step in range(first, last):
        assert trace.run(step, step + 1, lambda x: x + 1, step) == step + 1


def test_a_continued_run_traces_the_remaining_updates(load_config, tmp_path):
    config = load_config("mlp", {**NET, "profile.start_step": 2, "profile.num_steps": 3})
    for start, expected in ((4, [5]), (5, None)):
        with profiling.tracing(config, tmp_path / str(start)) as trace:
            trace_steps(trace, start, 8)
        if expected is None:
            assert not (tmp_path / str(start)).exists()
        else:
            assert traced_updates(tmp_path / str(start)) == expected


def test_a_run_that_fails_within_the_traced_updates_writes_its_trace(load_config, tmp_path):
    config = load_config("mlp", {**NET, "profile.start_step": 2, "profile.num_steps": 5})

    def fail():
        with profiling.tracing(config, tmp_path) as trace:
            trace_steps(trace, 0, 4)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert traced_updates(tmp_path) == [3, 4]
