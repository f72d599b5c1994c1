"""Pictures of reconstructions during the training."""

import numpy as np
import pytest
from PIL import Image
from tiny_configs import MAE

from cv_jax.augment.batch import normalise, to_pixels
from cv_jax.errors import InputError
from cv_jax.training import experiment, pictures


def test_to_pixels_is_the_inverse_of_normalise(load_config):
    config = load_config("mae", {"data.mean": (0.1, 0.2, 0.3), "data.std": (0.5, 0.6, 0.7)})
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)).astype(np.float32)
    found = to_pixels(config, np.asarray(normalise(config, images)))
    np.testing.assert_allclose(found, images, atol=1e-3)


@pytest.mark.slow
def test_the_same_images_at_each_evaluation(load_config, tmp_path):
    parts = experiment.build(load_config("mae", {**MAE, "eval.pictures": 2}))
    draw, variables = pictures.make_draw(parts, tmp_path), parts.init()().eval_variables
    named = [draw(5, variables), draw(10, variables)]
    files = sorted((tmp_path / "pictures").iterdir())
    assert [file.name for file in files] == ["00000005.png", "00000010.png"]
    assert named == files
    first, second = (np.asarray(Image.open(file)) for file in files)
    title = 70  # pixels; the title names the step
    np.testing.assert_array_equal(first[title:], second[title:])


def test_no_pictures_by_default(load_config, tmp_path):
    parts = experiment.build(load_config("mae", MAE))
    assert pictures.make_draw(parts, tmp_path)(1, None) is None
    assert not list(tmp_path.iterdir())


def test_a_classifier_has_no_pictures(load_config):
    with pytest.raises(InputError, match="eval.pictures=2: mlp is not a masked autoencoder"):
        experiment.build(load_config("mlp", {"eval.pictures": 2}))
