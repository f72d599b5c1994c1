"""Weight decay, Muon and layer-wise rate of every parameter of every registered model.

The expectations do not come from the registry. Weight decay: the functions in the authors' code, by
number of axes and by name. Muon and rates: the flow of data through a trace of the network.
"""

import functools

import flax
import flax.linen as nn
import jax
import numpy as np
import pytest
from small_models import SMALL, Small

from cv_jax import config, models
from cv_jax.errors import InputError
from cv_jax.optim import parameter_rules

# Module → parameters without weight decay besides vectors (timm's `param_groups_weight_decay`
# leaves out parameters with at most one axis):
# - ViT: `no_weight_decay` of DeiT and timm; here also other tokens and the query of a pooling;
# - Swin: `no_weight_decay_keywords` of the official code, versions 1 and 2;
# - MAE: as for ViT; the recipe of pre-training decays tokens, as the official code;
# - Transformers with tied embeddings: embeddings and positions, as in minGPT.
NOT_DECAYED = {
    "ViT": {"pos_embed", "cls_token", "dist_token", "reg_token", "query"},
    "MAE": {"cls_token", "mask_token"},
    "Swin": {"relative_position_bias_table", "cpb_mlp_0", "cpb_mlp_2", "logit_scale"},
    "ImageTransformer": {"pos_embed", "embedding"},
    "Transformer": {"embedding"},
}
# Kernels that Muon leaves to AdamW, and their data does not tell: the network of Swin v2 from
# coordinates to biases, and kernels of single connections.
LEFT = {"cpb_mlp_2"}
# Trains on fixed codes of the classes: the last layer with parameters is a hidden layer.
HIDDEN = {("lenet5_1998", "f6")}
RNGS = {key: jax.random.key(0) for key in ("params", "mask", "dropout")}


def small_net(name: str) -> Small:
    """Return the small net of a registered model, with the structure of this model."""
    if name in SMALL and SMALL[name].name == name:
        return SMALL[name]
    module = models.MODELS[name].module
    like = next(small for small in SMALL.values() if models.MODELS[small.name].module is module)
    own = {"groups", "width_per_group", "shortcut", "zero_init_residual", "drop_path_rate"}
    fields = {key: value for key, value in like.fields.items() if key not in own}
    if name == "alexnet":
        fields["channels"] = SMALL["alexnet"].fields["channels"]
    return like._replace(name=name, fields=fields)


CASES = {name: small_net(name) for name in models.list_models()}
CASES |= {kind: small for kind, small in SMALL.items() if kind != small.name}


class Layer:
    """What a trace shows of one layer with a kernel.

    Attributes:
      path: path of the layer.
      channels: channels of its input.
      sources: indices of the parameters that its input depends on.
    """

    def __init__(self, path, channels, sources):
        self.path, self.channels, self.sources = path, channels, sources


@functools.cache
def network(case: str):
    """Return module, shapes of the parameters, and the layers in the order of the computation.

    The last value maps each layer to the parameters that the inputs of all layers depend on.
    """
    small = CASES[case]
    model = models.create(small.name, **small.fields)
    inputs = small.inputs(2) if small.inputs else (np.zeros((2, *small.image), np.float32),)
    variables = jax.eval_shape(lambda *x: model.init(RNGS, *x), *inputs)
    return model, inputs, variables


def flow(case: str) -> tuple[list[Layer], list[str]]:
    """Return the layers with parameters in the order of the computation, and the parameters."""
    model, inputs, variables = network(case)
    names = list(flax.traverse_util.flatten_dict(variables["params"], sep="/"))
    owners = {name.rpartition("/")[0] for name in names}
    paths = []

    def run(variables, *inputs):
        read = []

        def record(method, args, kwargs, context):
            if context.method_name in ("__call__", "attend"):
                path = "/".join(context.module.path)
                if path in owners:
                    paths.append((path, args[0].shape[-1] if args[0].ndim else 1))
                    read.append(args[0])
            return method(*args, **kwargs)

        with nn.intercept_methods(record):
            model.apply(variables, *inputs, rngs=RNGS)
        return read

    closed = jax.make_jaxpr(run)(variables, *inputs)
    flat = jax.tree_util.tree_leaves_with_path(variables)
    keys = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in flat]
    depends = {}
    for variable, key in zip(closed.jaxpr.invars, keys, strict=False):
        depends[variable] = {key.removeprefix("params/")} if key.startswith("params/") else set()

    def of(atoms):
        found = (depends.get(atom, set()) for atom in atoms if not hasattr(atom, "val"))
        return set().union(*found)

    for equation in closed.jaxpr.eqns:
        sources = of(equation.invars)
        depends.update(dict.fromkeys(equation.outvars, sources))
    layers = [
        Layer(path, channels, of([out]))
        for (path, channels), out in zip(paths, closed.jaxpr.outvars, strict=True)
    ]
    return layers, names


def treated(case, **fields):
    model, _, variables = network(case)
    c = config.default(model=CASES[case].name)
    for field, value in fields.items():
        c.optim[field] = value
    return parameter_rules.treatments(c, model, variables["params"])


@pytest.mark.parametrize("name", ["vit_ti16", "swin_t", "swinv2_t", "image_transformer_ti"])
def test_weight_decay_of_a_model_under_the_configs_of_others(name, load_config):
    """Positions, tokens, tables and embeddings have none, whatever the config is made for."""
    model, _, variables = network(name)
    special = NOT_DECAYED[models.MODELS[name].module.__name__]
    stems = ("alexnet", "deit", "image_transformer", "lenet5", "linear", "mae", "mae_finetune")
    stems += ("mlp", "resnet", "resnet20_cifar", "swin", "vgg", "vit_b16", "vit_s16", "vit_ti16")
    references = [(stem, data) for stem in stems for data in ("digits", "imagenet2012")]
    recipes = [("resnet", "v1"), ("resnet", "v2"), ("swin", "torchvision")]
    references += [(stem, f"imagenet2012,recipe={recipe}") for stem, recipe in recipes]
    tested = 0
    for stem, argument in references:
        try:
            c = load_config(stem, argument=f"{argument},model={name}")
        except InputError:  # a recipe with fields that the model does not have
            continue
        found, tested = parameter_rules.treatments(c, model, variables["params"]), tested + 1
        for parameter, treatment in found.items():
            if special & set(parameter.split("/")):
                assert treatment.decay == 0, (stem, argument, parameter)
            elif parameter.endswith("kernel"):
                assert treatment.decay == 1, (stem, argument, parameter)
    assert tested > 8


SCANNED = {case for case, small in CASES.items() if small.fields.get("scan_layers")}
UNROLLED = sorted(CASES.keys() - SCANNED)


@pytest.mark.parametrize("case", CASES)
def test_weight_decay(case):
    """The default rules, and those of recipes for models of kernels, biases and scales."""
    found = treated(case)
    module = models.MODELS[CASES[case].name].module.__name__
    special = NOT_DECAYED.get(module, set())
    for name, treatment in found.items():
        # A coefficient of LeNet-5 of 1998 is the weight of a 2×2 convolution.
        vector = len(treatment.shape) - treatment.stacked <= 1 and "coefficient" not in name
        assert treatment.decay == (not vector and not special & set(name.split("/"))), name


@pytest.mark.parametrize("case", UNROLLED)
def test_muon_and_the_last_layers(case):
    found = treated(case)
    layers, names = flow(case)
    kernels = {name.rpartition("/")[0]: name for name in names if name.endswith("/kernel")}
    model_name = CASES[case].name
    used = set().union(*(layer.sources for layer in layers))
    for layer in layers:
        name = kernels.pop(layer.path, None)
        if name is None:
            continue
        treatment, leaf = found[name], layer.path.split("/")[-1]
        first = not layer.sources
        last = name not in used and (model_name, layer.path) not in HIDDEN
        assert treatment.last == last, name
        shape = treatment.shape
        if first or last or leaf in LEFT or len(shape) == 3:
            assert treatment.matrices == 0, name
            continue
        side_by_side = {"qkv": 3, "kv": 2}.get(leaf, 1)
        groups = layer.channels // shape[2] if len(shape) == 4 else 1
        assert treatment.matrices == side_by_side * groups, name
    assert not kernels
    rest = [name for name in names if not name.endswith("/kernel")]
    assert not any(found[name].matrices for name in rest)


@pytest.mark.parametrize("case", UNROLLED)
def test_layer_wise_rates(case):
    """Whole powers that do not fall along the computation, from the first layer to the last."""
    found = treated(case, layer_decay=0.5)
    layers, _ = flow(case)
    powers = {name: round(-np.log2(treatment.lr)) for name, treatment in found.items()}
    assert {name: 0.5**power for name, power in powers.items()} == {
        name: treatment.lr for name, treatment in found.items()
    }
    assert set(powers.values()) == set(range(max(powers.values()) + 1))
    order = [powers[f"{x.path}/kernel"] for x in layers if f"{x.path}/kernel" in powers]
    # The network of Swin v2 for biases belongs to its block, the output of words to the last layer.
    assert order == sorted(order, reverse=True)
    assert order[0] == max(powers.values())
