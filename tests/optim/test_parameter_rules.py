"""Treatment of parameters by name: rules, layer decay, freezing."""

import functools

import jax
import numpy as np
import pytest

from cv_jax import config, models
from cv_jax.errors import InputError
from cv_jax.optim import parameter_rules

VIT = dict(image_size=32, patch_size=8, width=16, num_heads=2, num_classes=10)
MAE = {k: v for k, v in VIT.items() if k != "num_classes"}
MAE |= dict(decoder_width=16, decoder_num_heads=2)


@functools.cache
def shapes(name, **fields):
    model = models.create(name, **fields)
    inputs = [np.zeros((1, 32, 32, 3), np.float32)]
    if name == "image_transformer_ti":
        inputs.append(np.ones((1, 2), np.int32))
    rngs = {key: jax.random.key(0) for key in ("params", "mask")}
    return model, jax.eval_shape(model.init, rngs, *inputs)["params"]


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
        ("head/.*: rate=3", "'rate=3' is none of lr=…, decay=…, until=…%, freeze, train"),
        ("head/.*: until=30", "until=30: '30' is not above 0% and at most 100%"),
        ("head/.*: until=0%", "'0%' is not above 0% and at most 100%"),
        ("head/.*: until=101%", "'101%' is not above 0% and at most 100%"),
        ("head/.*: until=nan%", "'nan%' is not above 0% and at most 100%"),
        ("head/.*: until=all%", "'all%' is not above 0% and at most 100%"),
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
        (parameter_rules.Treatment(decay=0.5, until=37.5), "decay 0.5, until 37.5 %"),
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
    for text in ("blocks_0/.*: freeze", "blocks_0/.*: until=50%"):
        with pytest.raises(InputError, match=r"blocks/\S+ holds all scanned layers: freeze all"):
            treated("vit_ti16", [text], depth=3, scan_layers=True, **VIT)


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


@pytest.mark.parametrize(
    ("name", "fields", "layers"),
    [
        ("linear", {}, ["head"]),
        ("mlp", dict(widths=(8, 8)), ["fc1", "fc2", "head"]),
        ("lenet5", {}, ["c1", "c3", "c5", "f6", "head"]),
        ("lenet5_1998", {}, ["c1 s2", "c3 s4", "c5", "f6"]),
        (
            "vgg11_bn",
            dict(depths=(2, 1), widths=(4, 4), fc_width=8, pool_size=1),
            [
                "features_0 features_1",
                "features_3 features_4",
                "features_7 features_8",
                "classifier_0",
                "classifier_3",
                "head",
            ],
        ),
        (
            "mae_vit_b16",
            dict(MAE, depth=2, decoder_depth=2),
            [
                "patch_embed cls_token",
                "blocks_0",
                "blocks_1",
                "norm decoder_embed mask_token",
                "decoder_blocks_0",
                "decoder_blocks_1",
                "decoder_norm decoder_pred",
            ],
        ),
        (
            "image_transformer_ti",
            dict(vocab_size=13, image_size=32, patch_size=8, width=16, num_heads=2)
            | dict(depth=2, decoder_depth=2),
            [
                "encoder/patch_embed encoder/pos_embed",
                "encoder/blocks_0",
                "encoder/blocks_1 encoder/norm",
                "decoder/layers_0",
                "decoder/layers_1",
                "decoder/embedding",
            ],
        ),
    ],
)
def test_layers_of_other_nets(name, fields, layers):
    found = treated(name, layer_decay=0.5, **fields)
    expected = {}
    for power, together in enumerate(reversed(layers)):
        for layer in together.split():
            own = [key for key in found if key == layer or key.startswith(f"{layer}/")]
            assert own, layer
            expected |= dict.fromkeys(own, 0.5**power)
    assert {key: treatment.lr for key, treatment in found.items()} == expected
