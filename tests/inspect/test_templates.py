"""Templates of a classifier with known weights, and the command on a trained run."""

import io

import numpy as np
import pytest
from PIL import Image

from cv_jax import config as configs
from cv_jax.__main__ import main
from cv_jax.inspect import templates
from cv_jax.training import experiment, loop


@pytest.fixture
def three_classes():
    """(pixels, labels): three classes with bright pixels of their own on a random background."""
    rng = np.random.default_rng(0)
    labels = np.arange(30) % 3
    pixels = rng.integers(0, 20, (30, 4, 5, 2)).astype(np.uint8)
    pixels[np.arange(30), labels] += 200
    return pixels, labels


def test_averages_are_those_of_numpy(three_classes):
    pixels, labels = three_classes
    found = templates.compare(np.zeros((40, 3)), (0.5,), pixels, labels)
    for k in range(3):
        np.testing.assert_allclose(found.images[k], pixels[k::3].mean(0) / 255)
    np.testing.assert_allclose(found.averages.mean(0), 0, atol=1e-12)
    assert (templates.correlations(found) == 0).all()  # a zero template has cosine 0


def test_templates_are_laid_out_as_the_pixels_that_they_multiply(three_classes):
    pixels, labels = three_classes
    std = (0.5, 2.0)
    weights = np.random.default_rng(1).standard_normal((40, 3))
    found = templates.compare(weights, std, pixels, labels)
    normalised = (pixels / 255 - 0.3) / np.array(std)
    scores = normalised.reshape(30, -1) @ weights
    ours = np.einsum("nhwc,khwc->nk", pixels / 255, found.templates)
    # Up to a component common to all classes, and a constant.
    scores, ours = (x - x.mean(axis=1, keepdims=True) for x in (scores, ours))
    np.testing.assert_allclose(scores - scores[0], ours - ours[0], atol=1e-12)


def test_correlation_of_the_averages_with_themselves_is_one(three_classes):
    pixels, labels = three_classes
    averages = templates.compare(np.zeros((40, 3)), (1.0,), pixels, labels).averages
    # A shift common to all columns changes no decision; scale changes only confidence.
    kernel = 7 * averages.reshape(3, -1).T + np.arange(40)[:, None]
    found = templates.compare(kernel, (1.0,), pixels, labels)
    cosines = templates.correlations(found)
    np.testing.assert_allclose(np.diag(cosines), 1)
    rows = averages.reshape(3, -1)
    lengths = np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(cosines, rows @ rows.T / np.outer(lengths, lengths))


def test_command(load_config, tmp_path, capsys):
    config = load_config("linear", {"total_steps": 40})
    assert loop.train(experiment.build(config), tmp_path / "run", "") == 0
    out = tmp_path / "templates.png"
    capsys.readouterr()
    assert main(["templates", str(tmp_path / "run"), "--out", str(out)]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    # A few steps suffice: the first gradient is the difference of the class averages.
    assert "10 of 10 templates are nearest" in last
    with Image.open(out) as image:
        assert image.format == "PNG"
        assert image.width > image.height > 300

    assert main(["templates", str(tmp_path / "run"), "--out", str(out)]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["templates", str(tmp_path / "run"), "--out", str(out), "--force"]) == 0
    kept = out.read_bytes()
    other = str(tmp_path / "templates.foo")
    assert main(["templates", str(tmp_path / "run"), "--out", other]) == 2
    assert "templates.foo must end in one of .eps" in capsys.readouterr().err
    assert out.read_bytes() == kept
    assert {path.name for path in tmp_path.iterdir()} == {"run", out.name}


def test_names_of_classes_may_have_dollar_signs(three_classes):
    pixels, labels = three_classes
    grey = pixels[..., :1]
    found = templates.compare(np.ones((20, 3)), (0.5,), grey, labels)
    templates.figure(found, ("$a$", "$\\frac$", "c")).savefig(io.BytesIO())


@pytest.mark.slow
def test_only_linear_classifiers_have_templates(load_config, tmp_path, capsys):
    config = load_config("mlp", {"total_steps": 1, "model.widths": "8"})
    assert loop.train(experiment.build(config), tmp_path, "") == 0
    assert main(["templates", str(tmp_path)]) == 2
    assert "only linear has templates" in capsys.readouterr().err
    assert main(["templates", str(tmp_path / "none")]) == 2


def test_restored_config_is_the_one_that_was_flattened(load_config):
    config = load_config("swin", {"image_size": "48,32", "optim.clip_norm": "none"})
    flat = configs.flatten(config)
    assert configs.restore(flat) == config
    as_json = {k: list(v) if isinstance(v, tuple) else v for k, v in flat.items()}
    assert configs.flatten(configs.restore({**as_json, "gone": 1})) == flat
