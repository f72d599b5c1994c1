"""The task sequence → sequence: tokens, loss, evaluation, restart, and mistakes."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import launch
from cv_jax import config as configs
from cv_jax import models, tasks
from cv_jax.__main__ import main
from cv_jax.data import embedded, symbols
from cv_jax.errors import InputError
from cv_jax.evaluation.kinds import make_evaluator
from cv_jax.models.decoder import BOS, EOS, PAD
from cv_jax.run import checkpoint
from cv_jax.tasks.batch import blank_batch, fold_views
from cv_jax.training import experiment

SEQUENCE = np.array([[4, 0, 7], [9, -1, -1], [-1, -1, -1], [1, 1, -1]], np.int32)
LABEL = np.array([[7, 0, 4, -1], [9, -1, -1, -1], [-1] * 4, [0, 1, 2, 3]], np.int32)
TINY = {
    "model.width": 8,
    "model.depth": 1,
    "model.num_heads": 2,
    "model.hidden_dim": 8,
    "total_steps": 4,
    "batch_size": 16,
    "eval.batch_size": 16,
    "eval.every_percent": 50,
    "checkpoint.every_percent": 25,
    "mesh.devices": 1,
}


@pytest.fixture(scope="module")
def load(load_config, symbols_dir):
    """`load({"seed": 1}, "sort")` returns the config of a tiny Transformer."""

    def load(overrides=None, argument="", name="transformer"):
        tiny = TINY if name == "transformer" else {}
        values = {**tiny, "data.dir": symbols_dir, **(overrides or {})}
        return load_config(name, values, argument)

    return load


@pytest.fixture(scope="module")
def task():
    c = configs.with_normalisation(configs.default("reverse", "transformer_base"))
    c.loss.label_smoothing = 0.1
    return tasks.make_task(c, models.create("transformer_base", vocab_size=13, width=8))


def test_tokens_of_source_and_target(task):
    batch = {"sequence": jnp.asarray(SEQUENCE), "label": jnp.asarray(LABEL)}
    source, before = task.inputs(batch, {})
    expected = [[7, 3, 10, EOS], [12, EOS, PAD, PAD], [EOS, PAD, PAD, PAD], [4, 4, EOS, PAD]]
    np.testing.assert_array_equal(source, expected)
    written = [[10, 3, 7, EOS, PAD], [12, EOS, PAD, PAD, PAD], [EOS] + [PAD] * 4, [3, 4, 5, 6, EOS]]
    np.testing.assert_array_equal(task.written(batch), written)
    np.testing.assert_array_equal(before[:, 0], BOS)
    np.testing.assert_array_equal(before[:, 1:], np.array(written)[:, :-1])
    assert source.dtype == before.dtype == jnp.int32
    assert task.classes == 10
    assert task.class_scores is None


def test_the_loss_is_the_smoothed_cross_entropy_of_the_tokens(task):
    batch = {"sequence": jnp.asarray(SEQUENCE), "label": jnp.asarray(LABEL)}
    written = np.asarray(task.written(batch))
    logits = np.random.default_rng(0).normal(scale=3, size=(4, 5, 13)).astype(np.float32)
    loss, right = task.score((jnp.asarray(logits), {}), batch)
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    for i, length in enumerate((4, 2, 1, 5)):
        truth = np.full((length, 13), 0.1 / 13)
        truth[np.arange(length), written[i, :length]] += 0.9
        np.testing.assert_allclose(loss[i], -(truth * log_p[i, :length]).sum() / length, rtol=1e-5)
    assert not right.any()
    assert task.score((20.0 * jax.nn.one_hot(written, 13), {}), batch)[1].all()


def test_a_batch_of_sequences_has_no_image_and_no_views():
    batch = blank_batch((5,), label_shape=(4,))
    assert {name: (x.shape, x.dtype.name) for name, x in batch.items()} == {
        "sequence": ((1, 5), "int32"),
        "label": ((1, 4), "int32"),
        "position": ((1,), "int32"),
    }
    assert fold_views(batch) is batch


def test_an_untrained_model_is_evaluated_by_decoding(load, fast_compilation):
    parts = experiment.build(load({}, "sort"))
    assert parts.input_shape == (5,)
    assert parts.num_classes == 20
    assert parts.sizes.multiply_adds > 1000
    evaluation = parts.evaluations[0]
    assert (evaluation.kind, evaluation.options["beams"]) == ("sequence", 4)
    scores = make_evaluator(parts, evaluation)(parts.init()().eval_variables)
    names = ("accuracy", "correct", "token_accuracy", "edit_distance")
    expected = {*names, "loss", "count", *(f"beam_{name}" for name in names)}
    assert set(scores.metrics) == expected
    assert scores.metrics["count"] == 24
    rows = scores.details["by_length"]
    assert sum(row["count"] for row in rows) == 24
    assert [row["length"] for row in rows] == sorted({row["length"] for row in rows})


def run(folder, data):
    """Train in a folder, or continue there."""
    flags = {**TINY, "data.dir": data, "checkpoint.keep_last": 4, "model.dropout_rate": 0.1}
    flags |= {"eval.beams": 0, "eval.every_percent": 100}
    command = [f"--config.{name}={value}" for name, value in flags.items()]
    file = pathlib.Path(launch.__file__).parent / "configs" / "transformer.py"
    return launch.run(["--config", f"{file}:reverse", "--workdir", str(folder), *command])


def results(folder):
    """The bytes of all arrays of the last checkpoint, and of the metrics."""
    arrays, step = checkpoint.read_newest(folder / "checkpoints", lambda name: True)
    assert step == 4
    files = {name: (folder / name).read_bytes() for name in ("metrics.jsonl", "summary.json")}
    return files | {name: x.tobytes() for name, x in arrays.items()}


@pytest.fixture(scope="module")
def trained(symbols_dir, tmp_path_factory):
    """The folder of a run of four steps."""
    folder = tmp_path_factory.mktemp("translation") / "run"
    assert run(folder, symbols_dir) == 0
    return folder


def test_a_run_restarts_bit_for_bit(trained, symbols_dir, tmp_path):
    """A run whose last two checkpoints are lost ends as it did before."""
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    before = results(folder)
    assert len(before) > 40
    for step in (3, 4):
        shutil.rmtree(folder / "checkpoints" / str(step))
    (folder / "summary.json").unlink()
    assert run(folder, symbols_dir) == 0
    assert results(folder) == before
    starts = json.loads((folder / "run.json").read_text())
    assert [start["step"] for start in starts] == [0, 2]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("predict RUN RUN/image.png", "RUN holds transformer_base, which reads sequences"),
        ("look RUN", "RUN holds transformer_base, which reads sequences"),
        ("features RUN --list", "RUN holds transformer_base, which reads sequences"),
        ("augment flip --data sort --dir DATA --out RUN/x.png", "--data=sort: the examples of sor"),
        ("prepare sort --data-dir DATA --to RUN/x", "--to: the examples of sort are sequences"),
    ],
)
def test_commands_of_images_refuse_sequences(trained, symbols_dir, command, message, capsys):
    (trained / "image.png").touch()
    places = {"RUN": str(trained), "DATA": str(symbols_dir)}
    for name, path in places.items():
        command, message = command.replace(name, path), message.replace(name, path)
    assert main(command.split()) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("name", "argument", "overrides", "message"),
    [
        ("transformer", "digits", {}, "transformer_base reads sequences; the examples of digits "
         "are images; those of copy, reverse and sort are sequences"),
        ("mlp", "reverse", {}, "mlp reads images; the examples of reverse are sequences"),
        ("transformer", "sort", {"augment": "flip"}, "config.augment=flip: the examples of sort "
         "are sequences, not images"),
        ("transformer", "sort", {"eval_preprocess": "mirror"}, "config.eval_preprocess=mirror: the "
         "examples of sort are sequences, not images"),
        ("transformer", "sort", {"eval.extra": "sequence(dataset='digits')"}, "config.eval.extra: "
         "sequence: dataset: the examples of digits are images, those of sort are sequences"),
        ("transformer", "sort", {"eval.extra": "knn()"}, "the kind knn does not suit"),
        ("transformer", "sort", {"eval.max_length": 5}, "max_length=5: test of sort has sequences "
         "of 6 tokens"),
        ("transformer", "sort", {"model.vocab_size": 22}, "set config.model.vocab_size=23 or more"),
        ("transformer", "sort", {"model.pos_embed": "learned"}, "unknown pos_embed 'learned'"),
        ("transformer", "sort", {"loss.name": "sigmoid"}, "tokens need the loss softmax"),
        ("transformer", "sort", {"data.per_class": 2}, "a label of sort is a sequence of classes"),
        ("transformer", "sort", {"distill.teacher": "x"}, "transformer_base is not a classifier"),
        ("transformer", "sort", {"data.target": "x"}, "'x' is not a class label or a sequence"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(load, data_dir, name, argument, overrides, message):
    folder = {"data.dir": data_dir} if argument == "digits" else {}
    config = load({**folder, **overrides}, argument, name)
    with pytest.raises(InputError) as error:
        experiment.build(config)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def short_dir(tmp_path_factory):
    """TFDS folder with `reverse` of two to five letters."""
    folder = tmp_path_factory.mktemp("short")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(symbols, "COUNTS", {"train": 6000, "test": 200})
        patch.setattr(symbols, "LENGTHS", (2, 5))
        return embedded.ensure("reverse", folder)


@pytest.mark.slow
@pytest.mark.parametrize("change", ["", "model.pos_embed=none", "model.causal=false"])
def test_positions_and_mask_are_needed_to_reverse(change, short_dir, tmp_path):
    """Without positions the order is lost; without the mask training sees what decoding lacks."""
    file = pathlib.Path(launch.__file__).parent / "configs" / "transformer.py"
    flags = [f"data.dir={short_dir}", "total_steps=600", "model.depth=1", "mesh.devices=1"]
    flags += ["eval.every_percent=100", "eval.beams=0", *filter(None, [change])]
    command = ["--config", str(file), "--workdir", str(tmp_path / "run")]
    assert launch.run([*command, *(f"--config.{flag}" for flag in flags)]) == 0
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    forced, decoded = (
        [x["accuracy"] for x in lines if x["split"] == split][-1] for split in ("train", "test")
    )
    if not change:
        assert decoded > 0.97
        assert forced > 0.97
    elif "pos_embed" in change:
        # Two letters are in the right order by chance; so are more if they are equal.
        assert decoded < 0.5
    else:
        assert forced > 0.97
        assert decoded < 0.2
