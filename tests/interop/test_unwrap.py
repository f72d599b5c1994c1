"""The network among the arrays of a training checkpoint."""

import json
import pathlib

import numpy as np
import pytest

from cv_jax import interop
from cv_jax.errors import InputError
from cv_jax.interop.unwrap import unwrapped

SHAPES = pathlib.Path(__file__).parents[1] / "golden" / "shapes"
NETWORKS = {
    "timm-resnet18": ("resnet18", "timm"),
    "timm-vit_tiny_patch16_224": ("vit_ti16", "timm"),
    "torchvision-vit_b_16": ("vit_b16", "torchvision"),  # its own names begin with "encoder."
    "torchvision-vgg11": ("vgg11", "torchvision"),
    "timm-swin_tiny_patch4_window7_224": ("swin_t", "timm"),
    "mae": ("mae_vit_b16", "mae"),
}
# Prefixes of DataParallel, torch.compile, Lightning, self-supervised methods and their nesting.
PREFIXES = (
    "",
    "module.",
    "_orig_mod.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "model.",
    "net.",
    "encoder.",
    "backbone.",
    "model.module.encoder.",
    "student.backbone.",
    "encoder.model.net.",
    "state_dict/",
    "model/module.",
    "checkpoint/model_state_dict/_orig_mod.module.backbone.",
)


def arrays(name: str) -> dict[str, np.ndarray]:
    """Return one number for each array of a network."""
    keys = json.loads((SHAPES / f"{name}.json").read_text())
    return {key: np.array(i) for i, key in enumerate(keys)}


def taken(state_dict, name, notes=None):
    table = interop.family(*NETWORKS[name])
    return unwrapped(state_dict, table, "x.pth", [].append if notes is None else notes.append)


def under(prefix: str, network: dict) -> dict:
    return {prefix + key: x for key, x in network.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_prefixes_in_any_order(name):
    network = arrays(name)
    for prefix in PREFIXES:
        notes = []
        assert taken(under(prefix, network), name, notes) == network, prefix
        assert not notes


def test_optimiser_states_and_other_arrays_are_no_part_of_the_network():
    network, notes = arrays("timm-resnet18"), []
    optimiser = {f"optimizer/state/{i}/exp_avg": np.zeros(2) for i in range(60)}
    counter = {"n_averaged": np.array(3), "epoch_loss": np.zeros(9)}
    state = {**optimiser, **counter, **under("state_dict/module.", network)}
    assert taken(state, "timm-resnet18", notes) == network
    assert not notes
    # In the dictionary of the network itself, they are named.
    state = {**under("model.", network), "criterion.weight": np.zeros(10)}
    assert taken(state, "timm-resnet18", notes) == network
    assert notes == ["left out beside model: criterion.weight"]


@pytest.mark.parametrize(
    ("plain", "averaged"),
    [
        ("state_dict/", "state_dict_ema/"),
        ("model/module.", "model_ema/module."),
        ("model.", "model_ema.module."),
        ("model/", "ema_state_dict/"),
        ("student/module.backbone.", "teacher/backbone."),
        ("net.", "ema_model."),
    ],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_of_a_network_and_its_average_the_average_is_taken(plain, averaged, reverse):
    network = arrays("timm-resnet18")
    average = {key: x + 1000 for key, x in network.items()}
    parts = [under(plain, network), under(averaged, average)]
    state = {key: x for part in parts[:: -1 if reverse else 1] for key, x in part.items()}
    notes = []
    assert taken(state, "timm-resnet18", notes) == average
    assert notes == [
        f"the averaged weights in {averaged.rstrip('./')} are used; others: "
        f"x.pth#{plain.rstrip('./')}"
    ]


def test_two_networks_without_an_average_are_not_guessed():
    network = arrays("timm-resnet18")
    state = under("module.encoder_q.", network) | under("module.encoder_k.", network)
    with pytest.raises(InputError) as error:
        taken(state, "timm-resnet18")
    assert str(error.value) == (
        "x.pth holds several networks; choose x.pth#module.encoder_q or x.pth#module.encoder_k"
    )


def test_arrays_of_another_network_stay_as_they_are():
    state = {"a.weight": np.zeros(1), "b": np.zeros(2)}
    assert taken(state, "timm-resnet18") == state
