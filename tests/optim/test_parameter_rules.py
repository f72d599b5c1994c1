"""Treatment of parameters by name: rules, layer decay, freezing."""

import functools

import flax
import jax
import numpy as np
import pytest

from cv_jax import config, models
from cv_jax.errors import InputError
from cv_jax.optim import parameter_rules

VIT = dict(image_size=32, patch_size=8, width=16, num_heads=2, num_classes=10)


@functools.cache
def shapes(name, **fields):
    model = models.create(name, **fields)
    image = np.zeros((1, 32, 32, 3), np.float32)
    return model, jax.eval_shape(model.init, jax.random.key(0), image)["params"]


def treated(name, texts=(), layer_decay=None, **fields):
    c = config.default(model=name)
    c.optim.rules, c.optim.layer_decay = tuple(texts), layer_decay
    return parameter_rules.treatments(c, *shapes(name, **fields))


def test_the_first_rule_with_a_setting_wins():
    found = treated(
        "vit_ti16",
        [
            "head/.*: lr=10",
            "blocks_1/attn/.*: train lr=0.5",
            ".*(bias|scale): decay=0",
            "blocks_[01]/.*: freeze, lr=2",
            "head/kernel: lr=3 decay=0.5",
        ],
        depth=2,
        **VIT,
    )

    def of(name):
        return tuple(found[name][:3])

    assert of("head/kernel") == (10, 0.5, False)
    assert of("head/bias") == (10, 0, False)
    assert of("blocks_1/attn/qkv/kernel") == (0.5, 1, False)
    assert of("blocks_1/attn/qkv/bias") == (0.5, 0, False)
    assert of("blocks_0/mlp/fc1/kernel") == (2, 1, True)
    assert of("blocks_0/norm1/scale") == (2, 0, True)
    assert of("pos_embed") == (1, 1, False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("head", "a rule is PATTERN: followed by"),
        ("head/.*:", "a rule is PATTERN: followed by"),
        ("head/.*: rate=3", "'rate=3' is none of lr=…, decay=…, freeze, train"),
        ("head/.*: lr=fast", "lr=fast: 'fast' is not a number of at least 0"),
        ("head/.*: lr=-1", "'-1' is not a number of at least 0"),
        ("head/.*: lr=nan", "'nan' is not a number of at least 0"),
        ("head/.*: lr=1 lr=2", "lr is set twice"),
        ("head/.*: freeze train", "freeze or train is set twice"),
        ("(head: freeze", "missing \\), unterminated subpattern"),
        ("haed/.*: lr=2", "'haed/.*: lr=2' matches no parameter of linear; it has head/bias"),
        (".*: freeze", "every parameter is frozen; nothing is left to train"),
    ],
)
def test_a_mistake_in_a_rule_gives_one_line(text, said):
    with pytest.raises(InputError, match=f"config.optim.rules: .*{said}") as caught:
        treated("linear", [text], num_classes=10)
    assert "\n" not in str(caught.value)


def test_join_is_the_inverse_of_split():
    _, params = shapes("mlp", widths=(8,), num_classes=10)
    found = treated("mlp", ["head/.*: freeze"], widths=(8,), num_classes=10)
    trained, frozen = parameter_rules.split(params, found)
    assert len(jax.tree.leaves(trained)) == len(jax.tree.leaves(frozen)) == 2
    assert parameter_rules.join(trained, frozen) == params


def test_treatments_in_words():
    layers = np.array([0.25, 0.5, 1.0]).reshape(3, 1)
    for treatment, words in (
        (parameter_rules.Treatment(), ""),
        (parameter_rules.Treatment(0.1, 0.0, True), "lr 0.1, decay 0, frozen"),
        (parameter_rules.Treatment(layers, 1.0, False, (3, 8), True), "lr 0.25 … 1"),
    ):
        assert parameter_rules.describe(treatment) == words


def test_scanned_blocks_are_treated_as_unrolled_ones():
    texts = ["blocks_1/.*: lr=3", "blocks_2/mlp/.*kernel: decay=0.5", "head/.*: freeze"]
    arguments = dict(texts=texts, layer_decay=0.5, depth=3, **VIT)
    unrolled = treated("vit_ti16", **arguments)
    scanned = treated("vit_ti16", scan_layers=True, **arguments)
    for name, treatment in scanned.items():
        assert treatment.stacked == name.startswith("blocks/")
        if not treatment.stacked:
            assert treatment == unrolled[name]
            continue
        for i in range(3):
            one = unrolled[name.replace("blocks", f"blocks_{i}")]
            for key in ("lr", "decay"):
                np.testing.assert_allclose(
                    np.ravel(np.broadcast_to(getattr(treatment, key), treatment.shape)[i]),
                    getattr(one, key),
                )
    assert treated("vit_ti16", ["blocks_./.*: freeze"], depth=3, scan_layers=True, **VIT)[
        "blocks/mlp/fc1/kernel"
    ].frozen
    with pytest.raises(InputError, match=r"blocks/\S+ holds all scanned layers: freeze all of"):
        treated("vit_ti16", ["blocks_0/.*: freeze"], depth=3, scan_layers=True, **VIT)


# ---- Layer decay


@pytest.mark.parametrize(
    ("size", "depth", "decay"), [("b", 12, 0.65), ("b", 12, 0.75), ("l", 24, 0.75), ("h", 32, 0.75)]
)
def test_layer_decay_is_that_of_masked_autoencoders(size, depth, decay):
    """Every parameter of the published sizes, against the formula of MAE's fine-tuning code."""

    def official(name):
        layers = depth + 1
        if name.split("/")[0] in ("cls_token", "pos_embed", "patch_embed"):
            number = 0
        elif name.startswith("blocks_"):
            number = int(name.split("/")[0].removeprefix("blocks_")) + 1
        else:
            number = layers
        return decay ** (layers - number)

    fields = dict(image_size=32, num_classes=10, pool="mean", class_token=True, fc_norm=True)
    found = treated(f"vit_{size}16", layer_decay=decay, **fields)
    assert {name: t.lr for name, t in found.items()} == {name: official(name) for name in found}
    assert found["patch_embed/kernel"].lr == decay ** (depth + 1)
    assert found["blocks_0/norm1/scale"].lr == decay**depth
    assert found[f"blocks_{depth - 1}/norm1/scale"].lr == decay
    assert found["fc_norm/scale"].lr == found["head/kernel"].lr == 1


def test_layer_decay_of_swin_counts_through_its_stages():
    fields = dict(width=16, depths=(1, 2, 1), num_heads=(1, 2, 4), window_size=4, num_classes=10)
    found = treated("swin_t", layer_decay=0.5, **fields)
    powers = {  # SimMIM: 0 embedding, 1…4 blocks, 5 the rest; merging is part of the block before
        "patch_embed/kernel": 5,
        "patch_norm/scale": 5,
        "layers_0/blocks_0/attn/relative_position_bias_table": 4,
        "layers_1/downsample/reduction/kernel": 4,
        "layers_1/blocks_0/mlp/fc1/kernel": 3,
        "layers_1/blocks_1/mlp/fc1/kernel": 2,
        "layers_2/downsample/norm/scale": 2,
        "layers_2/blocks_0/attn/qkv/bias": 1,
        "norm/scale": 0,
        "head/kernel": 0,
    }
    assert {name: found[name].lr for name in powers} == {n: 0.5**p for n, p in powers.items()}


def test_layer_decay_of_residual_nets_counts_their_blocks():
    found = treated("resnet20_cifar", layer_decay=0.5)
    powers = {"conv1/kernel": 10, "bn1/scale": 10, "layer1_0/conv1/kernel": 9, "head/bias": 0}
    powers |= {"layer2_0/bn1/scale": 6, "layer3_2/conv2/kernel": 1}
    assert {name: found[name].lr for name in powers} == {n: 0.5**p for n, p in powers.items()}


def test_layer_decay_of_other_nets_is_refused():
    said = "no layer order is known for model mlp; it is known for ResNet, ViT, Swin$"
    with pytest.raises(InputError, match=said):
        treated("mlp", layer_decay=0.5, widths=(8,), num_classes=10)


# ---- The recipes' decay, parameter by parameter

BLOCK = {
    "attn/proj/bias": 0,
    "attn/proj/kernel": 1,
    "attn/qkv/bias": 0,
    "attn/qkv/kernel": 1,
    "mlp/fc1/bias": 0,
    "mlp/fc1/kernel": 1,
    "mlp/fc2/bias": 0,
    "mlp/fc2/kernel": 1,
    "norm1/bias": 0,
    "norm1/scale": 0,
    "norm2/bias": 0,
    "norm2/scale": 0,
}
EMBED = {"patch_embed/bias": 0, "patch_embed/kernel": 1}
LAST = {"norm/bias": 0, "norm/scale": 0, "head/bias": 0, "head/kernel": 1}
MERGING = {"downsample/norm/bias": 0, "downsample/norm/scale": 0, "downsample/reduction/kernel": 1}
TABLE = "attn/relative_position_bias_table"
V2 = {name: value for name, value in BLOCK.items() if name != "attn/qkv/bias"}
V2 |= {"attn/q_bias": 0, "attn/v_bias": 0, "attn/logit_scale": 0, "attn/cpb_mlp_2/kernel": 0}
V2 |= {"attn/cpb_mlp_0/bias": 0, "attn/cpb_mlp_0/kernel": 0}


def under(prefix, names):
    return {f"{prefix}/{name}": value for name, value in names.items()}


def swin(block):
    return {
        **EMBED,
        "patch_norm/bias": 0,
        "patch_norm/scale": 0,
        **under("layers_0/blocks_0", block),
        **under("layers_0/blocks_1", block),
        **under("layers_1", MERGING),
        **under("layers_1/blocks_0", block),
        **LAST,
    }


# Sources: DeiT's and Swin's official code (biases, norms, tokens, positions and Swin's position
# biases are not decayed; all kernels are); MAE's pre-training decays its token.
DECAY = {
    ("vit_b16", "vit_ti16"): {"cls_token": 0, "pos_embed": 0, **EMBED, **LAST},
    ("deit", "deit_ti16_distilled"): {
        "cls_token": 0,
        "dist_token": 0,
        "pos_embed": 0,
        "head_dist/bias": 0,
        "head_dist/kernel": 1,
        **EMBED,
        **LAST,
    },
    ("swin", "swin_t"): swin({**BLOCK, TABLE: 0}),
    ("swin", "swinv2_t"): swin(V2),
    ("mae", "mae_vit_b16"): {
        "cls_token": 1,
        "mask_token": 1,
        "norm/bias": 0,
        "norm/scale": 0,
        **EMBED,
        **under("decoder_blocks_0", BLOCK),
        "decoder_embed/bias": 0,
        "decoder_embed/kernel": 1,
        "decoder_norm/bias": 0,
        "decoder_norm/scale": 0,
        "decoder_pred/bias": 0,
        "decoder_pred/kernel": 1,
    },
}


@pytest.mark.parametrize("recipe", DECAY, ids="-".join)
def test_what_a_recipe_decays(recipe, load_config):
    file, name = recipe
    expected = dict(DECAY[recipe])
    c = load_config(file, {}, f"digits,model={name}")
    if "swin" in name:
        fields = dict(width=16, depths=(2, 1), num_heads=(1, 2), window_size=4, num_classes=10)
        model, params = shapes(name, **fields)
    else:
        fields = {**VIT, "depth": 1}
        if name == "mae_vit_b16":
            fields.pop("num_classes")
            fields |= dict(decoder_width=16, decoder_depth=1, decoder_num_heads=2)
        expected |= under("blocks_0", BLOCK)
        model = models.create(name, **fields)
        inputs = [np.zeros((1, 32, 32, 3), np.float32)]
        inputs += [np.zeros((1, 16), np.float32)] if name == "mae_vit_b16" else []
        params = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    found = parameter_rules.treatments(c, model, params)
    assert {n: t.decay for n, t in found.items()} == expected
    assert set(expected) == set(flax.traverse_util.flatten_dict(params, sep="/"))
