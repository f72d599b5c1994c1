"""Several updates in one program: bits, events, restarts, losses that are not finite."""

import json
import shutil

import jax
import numpy as np
import pytest

from cv_jax.errors import ExitCode, InputError
from cv_jax.run import checkpoint
from cv_jax.training import experiment, loop, programs

# Intervals that do not divide each other; epochs end within a program and within a batch.
FIELDS = {
    "data.cache": "device",
    "data.train_split": "train[:100]",
    "model.widths": "16",
    "model.dropout_rate": 0.1,
    "augment": "alternating_flip|pad_crop(2, 'reflect')|mixup(0.2)",
    "batch_size": 24,
    "total_steps": 40,
    "schedule.warmup_epochs": "none",
    "ema.decay": 0.9,
    "log.every_steps": 6,
    "log.norms": True,
    "eval.every_steps": 15,
    "eval.batch_size": 120,
    "checkpoint.every_steps": 10,
    "checkpoint.keep_last": 9,
    "mesh.devices": 2,
}


def build(load_config, name="mlp", **overrides):
    fields = {**FIELDS, **{key.replace("__", "."): value for key, value in overrides.items()}}
    if name != "mlp":
        del fields["model.dropout_rate"]
    return experiment.build(load_config(name, fields))


def train(workdir, parts, code=ExitCode.DONE):
    assert loop.train(parts, workdir, "") == code
    state, step = checkpoint.Checkpoints(workdir / "checkpoints").restore(parts.abstract_state)
    assert step == parts.total_steps
    return jax.tree_util.tree_leaves_with_path(jax.device_get(state))


def assert_equal(ours, theirs):
    for (path, a), (_, b) in zip(ours, theirs, strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), jax.tree_util.keystr(path)


@pytest.fixture(scope="module")
def single(load_config, tmp_path_factory):
    """Folder and final state of a run with one update a program."""
    folder = tmp_path_factory.mktemp("single")
    return folder, train(folder, build(load_config))


@pytest.mark.parametrize("steps", [3, 40])
def test_lines_and_checkpoints_are_those_of_single_updates(load_config, tmp_path, single, steps):
    folder, expected = single
    assert_equal(train(tmp_path, build(load_config, steps_per_program=steps)), expected)
    assert (tmp_path / "metrics.jsonl").read_text() == (folder / "metrics.jsonl").read_text()
    saved = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert saved == [10, 20, 30, 40]


@pytest.mark.usefixtures("full_optimisation")
def test_the_bits_are_those_of_single_updates(load_config, tmp_path):
    """For this net, compiled as for users on a CPU; those of convolutional nets may differ."""
    one, many = (
        train(tmp_path / str(steps), build(load_config, steps_per_program=steps))
        for steps in (1, 8)
    )
    assert_equal(many, one)


def test_spans_end_at_every_event(load_config):
    parts = build(load_config, steps_per_program=7, profile__start_step=2, profile__num_steps=3)
    ends = [2, 5, 6, 10, 12, 15, 18, 20, 24, 30, 36, 40]
    assert [last for _, last in programs.spans(parts, 0)] == ends
    assert programs.spans(parts, 0) == list(zip([0, *ends], ends, strict=False))
    assert [last for _, last in programs.spans(parts, 13)] == [15, 18, 20, 24, 30, 36, 40]
    parts = build(load_config, steps_per_program=7, log__every_steps=100)
    assert [last for _, last in programs.spans(parts, 0)] == [7, 10, 15, 20, 27, 30, 37, 40]


@pytest.mark.slow
@pytest.mark.usefixtures("full_optimisation")
def test_a_restart_ends_with_the_same_bits(load_config, tmp_path):
    """Of a net with convolutions and running statistics; other programs begin and end elsewhere."""
    small = {"model__widths": "4,4", "image_size": 16, "total_steps": 36}

    def parts(**more):
        fields = {**small, "steps_per_program": 8, **more}
        return build(load_config, "cifar_speedrun", **fields)

    expected = train(tmp_path / "whole", parts())
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    (tmp_path / "killed/summary.json").unlink()
    for path in (tmp_path / "killed/checkpoints").iterdir():
        if int(path.name) > 10:
            shutil.rmtree(path)
    assert_equal(train(tmp_path / "killed", parts(eval__every_steps=7)), expected)


@pytest.mark.slow
def test_two_devices_store_shards_of_the_parameters(load_config, tmp_path, single):
    fsdp = {"mesh__params": "fsdp", "mesh__fsdp_min_size": 1}
    found = train(tmp_path, build(load_config, steps_per_program=9, **fsdp))
    for (_, a), (_, b) in zip(found, single[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_a_loss_that_is_not_finite_ends_the_program(load_config, tmp_path, capsys):
    """The message names the same update as with single updates, inside a program."""
    wild = {"optim__name": "sgd", "optim__learning_rate": 1e30, "log__norms": False}
    wild |= {"checkpoint__every_steps": 40, "eval__every_steps": 40, "log__every_steps": 40}
    said = []
    for steps in (1, 40):
        parts = build(load_config, steps_per_program=steps, **wild)
        assert loop.train(parts, tmp_path / str(steps), "") == ExitCode.NOT_FINITE
        error = capsys.readouterr().err.splitlines()[-1]
        said.append(error.partition(";")[0])
    assert said[0] == said[1]
    assert "the loss is not finite at step" in said[0]
    assert 1 < int(said[0].rpartition(" ")[2]) < 30


def test_a_trace_begins_and_ends_with_its_updates(load_config, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: made.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: made.append("stop"))
    parts = build(load_config, steps_per_program=9, profile__start_step=2, profile__num_steps=3)
    run = programs.runs

    def noted(*arguments):
        for last, program, inputs in run(*arguments):
            made.append(last)
            yield last, program, inputs

    monkeypatch.setattr(loop.programs, "runs", noted)
    train(tmp_path, parts)
    assert made[:6] == [2, 5, "start", "stop", 6, 10]


def test_it_needs_the_split_in_device_memory(load_config):
    with pytest.raises(InputError, match="steps_per_program=2 needs .* config.data.cache=device"):
        build(load_config, steps_per_program=2, data__cache="memory")


def test_the_summary_and_the_timing(load_config, tmp_path, single):
    """The first timing line follows the first program."""
    train(tmp_path, build(load_config, steps_per_program=4))
    first = json.loads((tmp_path / "timing.jsonl").read_text().splitlines()[0])
    assert first["step"] == 4
    ours, theirs = (json.loads((x / "summary.json").read_text()) for x in (tmp_path, single[0]))
    for name in ("digest", "sha256"):  # of the config, of the summary
        assert ours.pop(name) != theirs.pop(name)
    assert ours == theirs
