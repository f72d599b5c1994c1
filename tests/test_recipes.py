"""Configs of ImageNet and CIFAR-10 are equal to their published recipes."""

from pathlib import Path

import pytest
from recipes import RECIPES

from cv_jax import config as configs
from cv_jax.config.fields import FIELDS
from cv_jax.config.presets import PRESETS

FOLDER = Path(__file__).resolve().parent.parent / "configs"


@pytest.mark.parametrize("name", RECIPES)
def test_a_config_is_its_published_recipe(name):
    stem, argument = name.split(":")
    config = configs.flatten(configs.load(f"{FOLDER / stem}.py:{argument}"))
    source, fields = RECIPES[name]
    assert source
    stated = {key: config[key] for key in fields}
    assert stated == {
        key: pytest.approx(v) if isinstance(v, float) else v for key, v in fields.items()
    }
    # Any other result field keeps its default: each number needs a source.
    model = config["model.name"]
    dataset = argument.partition(",")[0]
    default = configs.flatten(configs.with_normalisation(configs.default(dataset, model)))
    kinds = {key: FIELDS[key].kind if key in FIELDS else "result" for key in config}
    changed = {key for key, value in config.items() if value != default[key]}
    units = {key for key in changed if config[key] is None}  # a duration in another unit
    assert {key for key in changed - units if kinds[key] == "result"} <= set(fields)
    assert PRESETS[dataset]["data.mean"] == config["data.mean"]


def test_the_preset_has_the_usual_mean_and_standard_deviation():
    """Sources: transforms of torchvision's weights; IMAGENET_DEFAULT_MEAN and _STD of timm."""
    preset = PRESETS["imagenet2012"]
    assert preset["data.mean"] == (0.485, 0.456, 0.406)
    assert preset["data.std"] == (0.229, 0.224, 0.225)
