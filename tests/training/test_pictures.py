"""Pictures of reconstructions during the training, and pictures of its end."""

import jax
import numpy as np
import pytest
from event_files import read_points
from matplotlib.figure import Figure
from PIL import Image
from tiny_configs import MAE

from cv_jax.augment.batch import normalise, to_pixels
from cv_jax.errors import InputError
from cv_jax.evaluation import metrics
from cv_jax.evaluation.kind import Scores
from cv_jax.inspect.look import errors
from cv_jax.run import checkpoint
from cv_jax.training import experiment, loop, pictures


def test_to_pixels_is_the_inverse_of_normalise(load_config):
    config = load_config("mae", {"data.mean": (0.1, 0.2, 0.3), "data.std": (0.5, 0.6, 0.7)})
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)).astype(np.float32)
    found = to_pixels(config, np.asarray(normalise(config, images)))
    np.testing.assert_allclose(found, images, atol=1e-3)


@pytest.mark.slow
def test_the_same_images_at_each_evaluation(load_config, tmp_path):
    parts = experiment.build(load_config("mae", {**MAE, "eval.pictures": 2}))
    draw, variables = pictures.make_draw(parts, tmp_path), parts.init()().eval_variables
    named = [*draw(5, variables, {"test": None}), *draw(10, variables, {"test": None})]
    assert draw(10, variables, {}) == []  # a step without an evaluation
    files = sorted((tmp_path / "pictures").iterdir())
    assert [file.name for file in files] == ["00000005.png", "00000010.png"]
    assert named == files
    first, second = (np.asarray(Image.open(file)) for file in files)
    title = 70  # pixels; the title names the step
    np.testing.assert_array_equal(first[title:], second[title:])


def test_no_pictures_by_default(load_config, tmp_path):
    parts = experiment.build(load_config("mae", MAE))
    assert pictures.make_draw(parts, tmp_path)(parts.total_steps, None, {}) == []
    assert not list(tmp_path.iterdir())


def test_a_classifier_has_no_reconstructions(load_config):
    with pytest.raises(InputError, match="eval.pictures=2: mlp is not a masked autoencoder"):
        experiment.build(load_config("mlp", {"eval.pictures": 2}))


# ---- The end of a run

END = {"total_steps": 4, "eval.every_steps": 2, "mesh.devices": 1, "compile_cache": "none"}
END |= {"augment": "pad_crop(1)|mixup(0.5)", "log.writers": ("tensorboard",)}
NAMES = ("batch", "confusion", "mistakes")


def files_of(workdir):
    return {name: workdir / "pictures" / f"00000004_{name}.png" for name in NAMES}


@pytest.fixture
def parts(load_config):
    return experiment.build(load_config("linear", END))


@pytest.fixture
def scores(parts):
    """Predictions that are wrong for the examples 7, 3 and 5; the confidence grows so."""
    labels = np.array([parts.evaluations[0].images.get(i)[1] for i in range(359)])
    found = {"label": labels, "prediction": labels.copy(), "rank": np.zeros(359, int)}
    found["confidence"] = np.full(359, 0.9)
    wrong = [7, 3, 5]
    found["prediction"][wrong] = (labels[wrong] + 1) % 10
    found["rank"][wrong], found["confidence"][wrong] = 1, (0.4, 0.6, 0.8)
    return {"test": Scores({}, metrics.details(found, 10), found)}


def test_the_sheet_of_mistakes(parts, scores, tmp_path, monkeypatch):
    sheets = []

    def sheet(shown, title):
        sheets.append((shown, title))
        return Figure(figsize=(1, 1))

    monkeypatch.setattr(errors, "sheet", sheet)
    draw = pictures.make_draw(parts, tmp_path)
    assert draw(2, None, scores) == []
    assert draw(4, None, scores) == list(files_of(tmp_path).values())
    (batch, _), (mistakes, title) = sheets
    assert title == "The 3 most confident of 3 mistakes"
    images, label = parts.evaluations[0].images, scores["test"].predictions["label"]
    for (pixels, caption), index, share in zip(mistakes, (5, 3, 7), (80, 60, 40), strict=True):
        np.testing.assert_array_equal(pixels, images.get(index)[0])
        wrong = (label[index] + 1) % 10
        assert caption == f"{wrong} {share}.0%\ntrue: {label[index]}"
    assert len(batch) == 24
    first = next(parts.train_batches(0))
    np.testing.assert_array_equal(np.stack([x[0] for x in batch[::2]]), first["image"][:12])


def test_a_picture_that_fails_is_one_message(parts, scores, tmp_path, monkeypatch):
    monkeypatch.setattr("cv_jax.inspect.look.confusion.draw", lambda *x: [][1])
    monkeypatch.setattr(errors, "sheet", lambda *x: Figure(figsize=(1, 1)))
    said = []
    files = pictures.make_draw(parts, tmp_path, say=said.append)(4, None, scores)
    assert files == [files_of(tmp_path)[name] for name in ("batch", "mistakes")]
    assert said == ["log.writers: no picture of confusion; list index out of range"]


def test_without_writers_there_are_no_pictures_of_the_end(load_config, scores, tmp_path):
    parts = experiment.build(load_config("linear", {**END, "log.writers": ()}))
    assert pictures.make_draw(parts, tmp_path)(4, None, scores) == []


@pytest.mark.slow
def test_writers_have_the_pictures_of_the_end(load_config, parts, tmp_path):
    """TensorBoard shows each picture once, at the last step; metrics and weights are the same."""
    plain = experiment.build(load_config("linear", {**END, "log.writers": ()}))
    assert loop.train(parts, tmp_path / "run", "") == 0
    assert loop.train(plain, tmp_path / "plain", "") == 0
    files = files_of(tmp_path / "run")
    assert sorted((tmp_path / "run" / "pictures").iterdir()) == sorted(files.values())
    points = [x for x in read_points(tmp_path / "run" / "tensorboard") if isinstance(x[2], tuple)]
    assert [(name, step, value[2]) for name, step, value in points] == [
        (f"{'train' if name == 'batch' else 'test'}/{name}", 4, files[name].read_bytes())
        for name in NAMES
    ]
    assert all(min(Image.open(file).size) > 300 for file in files.values())
    assert not (tmp_path / "plain" / "pictures").exists()
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("run", "plain")]
    assert lines[0] == lines[1]
    states = [
        checkpoint.Checkpoints(tmp_path / name / "checkpoints").restore(parts.abstract_state)[0]
        for name in ("run", "plain")
    ]
    jax.tree.map(np.testing.assert_array_equal, states[0].params, states[1].params)
