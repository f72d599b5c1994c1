"""The same run under every way of splitting the state over eight devices."""

import math

import flax
import flax.linen as nn
import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from cv_jax import config as configs
from cv_jax import models
from cv_jax.devices import mesh as meshes
from cv_jax.devices import partition
from cv_jax.errors import InputError
from cv_jax.training import experiment

STEPS = 20
NETS = {
    "vit_ti16": {
        "image_size": 16,
        "augment": "resize(16)|flip",
        "optim.learning_rate": 3e-3,
        "eval_preprocess": "resize(16)",
        "model.patch_size": 4,
        "model.width": 64,
        "model.depth": 2,
        "model.num_heads": 4,
        "model.dropout_rate": 0.1,
    },
    "swin": {
        "image_size": 16,
        "augment": "resize(16)",
        "eval_preprocess": "resize(16)",
        "model.patch_size": 2,
        "model.window_size": 4,
        "model.width": 32,
        "model.depths": "2,2",
        "model.num_heads": "2,4",
    },
    "resnet20_cifar": {
        "image_size": 16,
        "augment": "resize(16)",
        "eval_preprocess": "resize(16)",
        "model.stage_sizes": "1,1,1",
    },
}
# Relative difference of the losses, and largest difference of the averages. ResNet is trained with
# SiLU: a ReLU of an input that is zero to rounding has the gradient 0 or 1, which changes the
# gradient of a small net by a few per cent.
ROUNDING = {"vit_ti16": 2e-4, "swin": 2e-4, "resnet20_cifar": 2e-6}
COMMON = {
    "batch_size": 32,
    "total_steps": STEPS,
    "schedule.warmup_epochs": "none",
    "ema.decay": 0.9,
}


def build(load_config, net, **overrides):
    config = load_config(net, {**COMMON, **NETS[net], **overrides})
    return experiment.build(config)


@pytest.fixture(scope="module")
def run(load_config):
    """`run(net, **overrides)`: losses of twenty steps and the state after them; each made once."""
    made = {}

    def train(net, **overrides):
        key = net, tuple(overrides.items())
        if key not in made:
            parts = build(load_config, net, **overrides)
            state, train_step, losses = parts.init()(), parts.train_step(), []
            batches = parts.train_batches(0)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(nn, "relu", nn.silu)
                for _ in range(STEPS):
                    state, metrics = train_step(state, next(batches))
                    losses.append(float(metrics["loss"]))
            made[key] = np.array(losses), state
        return made[key]

    return train


FSDP = {"mesh.params": "fsdp", "mesh.fsdp_min_size": 64}
SCHEMES = [
    ("vit_ti16", {**FSDP, "mesh.model": 4}),
    pytest.param("vit_ti16", FSDP, marks=pytest.mark.slow),
    pytest.param("swin", FSDP, marks=pytest.mark.slow),
    pytest.param("resnet20_cifar", FSDP, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("net", "scheme"), SCHEMES)
def test_losses_are_those_of_replicated_parameters(run, net, scheme):
    """To rounding: sums over devices are taken in another order, which twenty updates let grow."""
    replicated, whole = run(net)
    split, state = run(net, **scheme)
    assert np.ptp(replicated) > 0.05  # a hundred times what is allowed below
    np.testing.assert_allclose(split, replicated, rtol=ROUNDING[net])
    for a, b in zip(jax.tree.leaves(whole.ema), jax.tree.leaves(state.ema), strict=True):
        np.testing.assert_allclose(a, b, atol=ROUNDING[net])


@pytest.mark.parametrize(("net", "scheme"), SCHEMES)
def test_the_state_stays_split(load_config, run, net, scheme):
    """After steps, too, every array lies as the abstract state says, and the split ones in parts:
    parameters, both moments and the averages alike."""
    _, state = run(net, **scheme)
    wanted = build(load_config, net, **scheme).abstract_state
    for leaf, want in zip(jax.tree.leaves(state), jax.tree.leaves(wanted), strict=True):
        assert leaf.sharding.is_equivalent_to(want.sharding, leaf.ndim)
    large = [leaf for leaf in jax.tree.leaves(state) if leaf.size >= 4096]
    assert len(large) >= 12
    for leaf in large:
        assert leaf.addressable_shards[0].data.size <= leaf.size / 2


@pytest.mark.parametrize("name", ["vit_b16", "swin_t", "resnet50", "mae_vit_b16", "vgg16"])
def test_a_device_holds_an_eighth_of_the_parameters(load_config, name):
    """At published sizes and the default `fsdp_min_size`; shapes only."""
    config = load_config("linear", {"mesh.params": "fsdp"})
    model, inputs = models.create(name), models.dummy_inputs(name)
    variables = jax.eval_shape(
        lambda: model.init({"params": jax.random.key(0)}, *inputs, train=False)
    )
    shapes = [leaf.shape for leaf in jax.tree.leaves(variables["params"])]
    places = jax.tree.leaves(partition.stored(config, meshes.make_mesh(8), variables["params"]))
    held = [place.shard_shape(shape) for place, shape in zip(places, shapes, strict=True)]
    total, part = (sum(math.prod(shape) for shape in group) for group in (shapes, held))
    assert abs(part / (total / 8) - 1) < 0.05


def test_initialisation_never_holds_the_whole_state(load_config):
    """What the compiler sets aside on one device, for the result and on the way to it."""
    parts = build(load_config, "vit_ti16", **{**FSDP, "model.width": 256})
    state = parts.abstract_state
    total = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    memory = parts.init().lower().compile().memory_analysis()
    assert memory.output_size_in_bytes < 1.05 * total / 8
    assert memory.temp_size_in_bytes < total / 8


@pytest.mark.usefixtures("full_optimisation")
@pytest.mark.slow
def test_initial_values_do_not_depend_on_the_scheme(load_config):
    whole, *split = (
        jax.device_get(build(load_config, "vit_ti16", **scheme).init()())
        for scheme in ({}, FSDP, {"mesh.model": 4})
    )
    for state in split:
        jax.tree.map(np.testing.assert_array_equal, whole, state)


def test_given_weights_are_split_too(load_config):
    parts = build(load_config, "vit_ti16", **FSDP)
    variables = {"params": jax.device_get(parts.init()().params)}
    state = parts.init()(variables)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.params), variables["params"])
    assert state.params["blocks_0"]["mlp"]["fc1"]["kernel"].sharding.spec == PartitionSpec(
        None, "data"
    )


def test_heads_and_hidden_units_are_split(load_config):
    parts = build(load_config, "vit_ti16", **{"mesh.model": 2})
    state = parts.abstract_state
    by_columns, by_rows = PartitionSpec(None, "model"), PartitionSpec("model", None)
    block = state.params["blocks_1"]
    assert block["attn"]["qkv"]["kernel"].sharding.spec == by_columns
    assert block["attn"]["proj"]["kernel"].sharding.spec == by_rows
    assert block["mlp"]["fc1"]["bias"].sharding.spec == PartitionSpec("model")
    assert block["mlp"]["fc2"]["kernel"].sharding.spec == by_rows
    assert not any(block["mlp"]["fc2"]["bias"].sharding.spec)
    moments = [
        leaf.sharding.spec
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)
        if jax.tree_util.keystr(path, simple=True, separator="/").endswith("0/mlp/fc2/kernel")
    ]
    assert moments == [by_rows] * 2
    scanned = build(load_config, "vit_ti16", **{"mesh.model": 2, "model.scan_layers": True})
    kernel = scanned.abstract_state.params["blocks"]["mlp"]["fc1"]["kernel"]
    assert kernel.sharding.spec == PartitionSpec(None, None, "model")


COLUMNS, BIAS, ROWS = (None, "model"), ("model",), ("model", None)
VIT_AXES = {
    "attn/qkv/kernel": COLUMNS,
    "attn/qkv/bias": BIAS,
    "attn/proj/kernel": ROWS,
    "mlp/fc1/kernel": COLUMNS,
    "mlp/fc1/bias": BIAS,
    "mlp/fc2/kernel": ROWS,
}
DECODER_AXES = {
    **{
        f"{attention}/{x}_proj/{kind}": axes
        for attention in ("self_attn", "multihead_attn")
        for x in "qkv"
        for kind, axes in (("kernel", COLUMNS), ("bias", BIAS))
    },
    "self_attn/out_proj/kernel": ROWS,
    "multihead_attn/out_proj/kernel": ROWS,
    "linear1/kernel": COLUMNS,
    "linear1/bias": BIAS,
    "linear2/kernel": ROWS,
}
POOL_AXES = {
    "q/kernel": COLUMNS,
    "q/bias": BIAS,
    "kv/kernel": COLUMNS,
    "kv/bias": BIAS,
    "proj/kernel": ROWS,
    "mlp/fc1/kernel": COLUMNS,
    "mlp/fc1/bias": BIAS,
    "mlp/fc2/kernel": ROWS,
}
SMALL_VIT = dict(image_size=32, patch_size=8, width=24, depth=1, num_heads=2)
# Model → (fields, shapes of the inputs, axes of all parameters that are split).
AXES = {
    "vit_ti16": (
        dict(SMALL_VIT, pool="map"),
        [(1, 32, 32, 3)],
        {"blocks_0": VIT_AXES, "pool": POOL_AXES},
    ),
    "mae_vit_b16": (
        dict(SMALL_VIT, decoder_width=16, decoder_depth=1, decoder_num_heads=2),
        [(1, 32, 32, 3), (1, 16)],
        {"blocks_0": VIT_AXES, "decoder_blocks_0": VIT_AXES},
    ),
    "swinv2_t": (
        dict(width=8, depths=(1,), num_heads=(2,), window_size=2),
        [(1, 32, 32, 3)],
        {"layers_0/blocks_0": {k: v for k, v in VIT_AXES.items() if k != "attn/qkv/bias"}},
    ),
    "image_transformer_ti": (
        dict(SMALL_VIT, decoder_depth=1),
        [(1, 32, 32, 3), (1, 4)],
        {"encoder/blocks_0": VIT_AXES, "decoder/layers_0": DECODER_AXES},
    ),
    "vgg11": (dict(depths=(1, 1), widths=(4, 4), fc_width=8), [(1, 32, 32, 3)], {}),
    "resnet50": (dict(stage_sizes=(1,), widths=(8,), stem_width=8), [(1, 32, 32, 3)], {}),
}


def split_axes(name, config_of):
    """Parameter name → axes, of the split parameters of a small net."""
    fields, inputs, _ = AXES[name]
    dtypes = [np.float32, np.int32 if "image_transformer" in name else np.float32]
    inputs = [np.zeros(shape, dtype) for shape, dtype in zip(inputs, dtypes, strict=False)]
    model = models.create(name, **fields)
    params = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    places = partition.stored(configs.default(model=config_of), meshes.make_mesh(8, 2), params)
    flat = flax.traverse_util.flatten_dict(places, sep="/")
    return {key: tuple(place.spec) for key, place in flat.items() if any(place.spec)}


@pytest.mark.parametrize("name", AXES)
def test_axes_of_every_parameter(name):
    expected = {
        f"{module}/{layer}": axes
        for module, layers in AXES[name][2].items()
        for layer, axes in layers.items()
    }
    assert split_axes(name, name) == expected


@pytest.mark.parametrize("teacher", ["vit_ti16", "swinv2_t", "resnet50"])
def test_a_teacher_has_the_same_axes_with_the_config_of_its_student(teacher):
    assert split_axes(teacher, "swin_t") == split_axes(teacher, teacher)


@pytest.mark.parametrize(
    ("net", "overrides", "message"),
    [
        ("vit_ti16", {"mesh.model": 3}, "config.mesh.model=3 does not divide 8 devices"),
        ("vit_ti16", {"mesh.model": 0}, "config.mesh.model=0 must be at least 1"),
        ("vit_ti16", {"mesh.model": 8}, "does not divide config.model.num_heads=4"),
        ("resnet20_cifar", {"mesh.model": 2}, "model resnet20_cifar has no parameters to split"),
        ("vit_ti16", {"mesh.step": "pmap", "mesh.model": 2}, "config.mesh.step=pmap: every device"),
        ("vit_ti16", {"mesh.step": "pmap", "mesh.params": "fsdp"}, "config.mesh.step=pmap: every"),
        ("vit_ti16", {"mesh.model": 2, "batch_size": 30}, "does not divide over 4 groups of 2"),
    ],
)
def test_mistakes(load_config, net, overrides, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        build(load_config, net, **overrides)
