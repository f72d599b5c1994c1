"""Folders of timm that differ from the named architecture, with the logits of timm.

See make_timm_networks.py for `timm_networks.json`.
"""

import json
import pathlib

import jax
import numpy as np
import pytest
import recipe
from slow import slow_except

from cv_jax import models
from cv_jax.errors import InputError
from cv_jax.interop import foreign, place, saved

NETWORKS = json.loads((pathlib.Path(__file__).parent / "timm_networks.json").read_text())


def read(name: str, notes: list[str], **changes) -> saved.Saved:
    """Read a network of the golden file as from a folder, with other top-level values."""
    facts = NETWORKS[name]
    arrays = recipe.state_dict({key: tuple(shape) for key, shape in facts["shapes"].items()})
    config = {**facts["config"], **changes}
    return place.from_foreign(foreign.Foreign(arrays, {}, config), "folder", notes.append)


def logits(weights: saved.Saved, image_size: tuple[int, int]) -> np.ndarray:
    fields = dict(weights.fields)
    if "image_size" in models.fields(weights.model):
        fields["image_size"] = weights.image_size
    model = models.create(weights.model, **fields)
    image = recipe.images(2, image_size, weights.channels)
    return jax.jit(lambda x: model.apply(weights.variables, x, train=False)[0])(image)


def close(got: np.ndarray, expected: list) -> bool:
    expected = np.array(expected)
    return np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()


QUICK = ("vit-avg-fc_norm=False", "vit-max-fc_norm=True", "resnet18-max", "swin-catavgmax", "gap")


@pytest.mark.parametrize("name", slow_except(NETWORKS, *QUICK, long=True))
def test_a_folder_is_the_network_that_its_config_describes(name):
    """The logits are those of timm."""
    facts, notes = NETWORKS[name], []
    size = tuple(facts["image_size"])
    dynamic = facts["config"]["model_args"].get("dynamic_img_size")
    changes = {"pretrained_cfg": {**facts["config"]["pretrained_cfg"], "input_size": [3, *size]}}
    weights = read(name, notes, **(changes if dynamic else {}))
    assert close(logits(weights, size), facts["logits"])
    expected = {
        "resnet-groups": "drop_path_rate=0.1 of config.json concerns training and has no effect "
        "here",
        "vit-backbone": "the weights have no classifier",
        "swin-patches": "the weights have no classifier",
    }
    assert notes == ([expected[name]] if name in expected else [])


def test_the_pooling_of_the_network_counts_without_arguments():
    """Older folders have no `model_args`, but say how the network pooled."""
    facts = NETWORKS["vit-avg-fc_norm=False"]["config"]["model_args"]
    sizes = {k: v for k, v in facts.items() if k not in ("global_pool", "fc_norm")}
    for name in ("vit-avg-fc_norm=False", "vit-max-fc_norm=True"):
        weights = read(name, [], model_args=sizes)
        assert close(logits(weights, (16, 32)), NETWORKS[name]["logits"])
    weights = read("vit-token-fc_norm", [], model_args={**sizes, "fc_norm": True})
    assert close(logits(weights, (16, 32)), NETWORKS["vit-token-fc_norm"]["logits"])


def test_facts_that_contradict_each_other_are_refused():
    name = "resnet18-max"
    details = NETWORKS[name]["config"]["pretrained_cfg"]
    for changes, message in (
        ({"global_pool": "avg"}, "global_pool='avg' and model_args.global_pool='max'"),
        ({"num_classes": 7}, "says num_classes=7, but the weights have 5"),
        ({"pretrained_cfg": {**details, "label_offset": 1}}, "label_offset=1"),
        (
            {"model_args": {**NETWORKS[name]["config"]["model_args"], "in_chans": 1}},
            "says in_chans=1, but the weights have 3",
        ),
        ({"model_args": [1]}, "cannot read the config.json of folder"),
    ):
        with pytest.raises(InputError, match=message):
            read(name, [], **changes)


def test_a_stated_model_keeps_the_fields_of_the_architecture():
    facts = NETWORKS["gap"]
    arrays = recipe.state_dict({key: tuple(shape) for key, shape in facts["shapes"].items()})
    notes, found = [], foreign.Foreign(arrays, {}, facts["config"])
    weights = place.from_foreign(found, "folder", notes.append, model="vit_b16")
    assert close(logits(weights, (16, 32)), facts["logits"])
    assert not notes


def test_a_stated_model_that_is_not_the_architecture_is_named():
    facts, notes = NETWORKS["resnet-avg"], []
    arrays = recipe.state_dict({key: tuple(shape) for key, shape in facts["shapes"].items()})
    config = {**facts["config"], "architecture": "resnetblur50"}
    with pytest.raises(InputError, match="no cv_jax model corresponds to timm's 'resnetblur50'"):
        place.from_foreign(foreign.Foreign(arrays, {}, config), "folder", notes.append)
    place.from_foreign(
        foreign.Foreign(arrays, {}, config), "folder", notes.append, model="resnet50"
    )
    assert notes == [
        "config.json names the architecture 'resnetblur50'; resnet50 is used as stated"
    ]


def test_a_backbone_without_pooling():
    """timm's `num_classes=0, global_pool=""` returns all tokens; the features here are pooled."""
    notes = []
    arguments = {**NETWORKS["vit-backbone"]["config"]["model_args"], "global_pool": ""}
    weights = read("vit-backbone", notes, global_pool="", model_args=arguments)
    assert weights.fields["num_classes"] == 0
    assert "the weights pool nothing" in notes[0]
