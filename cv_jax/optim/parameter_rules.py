"""What a config says of single parameters, by name: learning rate, weight decay, freezing.

`config.optim.rules` is an ordered list of rules, each a regular expression that must match a whole
name such as "blocks_0/attn/qkv/kernel", and after a colon what it states:

    head/.*: lr=10                      ten times the learning rate
    .*(bias|scale): decay=0             no weight decay
    patch_embed/.*: lr=0.1 decay=0.5
    norm/.*: train                      not frozen, whatever a later rule says
    blocks_[0-3]/.*: freeze

For each of `lr`, `decay` and freezing, the first rule that matches a name and states it wins; what
no rule states stays as it is for all (1, 1, trained). `config.optim.layer_decay` multiplies the
learning rate besides.

A frozen parameter gets no gradient, no update and no state of the optimiser: it stays as it was bit
for bit. Running statistics of batch normalisation are no parameters: in a frozen layer they go on
following the data, as in PyTorch, for the layer goes on normalising with the batch.

Scanned blocks hold the parameters of all layers in one array with a leading axis. Rules and layer
decay name them as if they were unrolled (`blocks_3/…`); the factors then become one per layer.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax
import ml_collections
import numpy as np

from cv_jax.errors import InputError
from cv_jax.models.resnet import ResNet
from cv_jax.models.swin import Swin
from cv_jax.models.vit import ViT

STACK = re.compile(r"(^|.*/)(\w*blocks)(/.*)")  # unrolled blocks carry a number


class Treatment(NamedTuple):
    """How one parameter is trained.

    Attributes:
      lr: factor of the learning rate; of scanned blocks an array [depth, 1, …] that fits the
        parameter, if it differs between layers.
      decay: factor of the weight decay, likewise.
      frozen: whether it is left as it is.
      shape: of the parameter.
      stacked: whether the first axis is that of scanned layers.
    """

    lr: float | np.ndarray = 1.0
    decay: float | np.ndarray = 1.0
    frozen: bool = False
    shape: tuple[int, ...] = ()
    stacked: bool = False


class Rule(NamedTuple):
    """One parsed rule; what it does not state is none."""

    text: str
    pattern: re.Pattern
    lr: float | None = None
    decay: float | None = None
    frozen: bool | None = None


def parse_rule(text: str) -> Rule:
    """Reads "PATTERN: [lr=NUMBER] [decay=NUMBER] [freeze|train]".

    Raises:
      InputError: it is no such rule.
    """
    where = f"config.optim.rules: {text!r}"
    pattern, colon, statements = text.rpartition(":")
    if not colon or not pattern.strip() or not statements.strip():
        raise InputError(f"{where}: a rule is PATTERN: followed by lr=…, decay=…, freeze or train")
    stated: dict[str, Any] = {}
    for word in statements.replace(",", " ").split():
        name, equals, value = word.partition("=")
        if word in ("freeze", "train"):
            name, number = "frozen", word == "freeze"
        elif equals and name in ("lr", "decay"):
            try:
                number = float(value)
            except ValueError:
                number = -1.0
            if not 0 <= number < float("inf"):
                raise InputError(f"{where}: {word}: {value!r} is not a number of at least 0")
        else:
            raise InputError(f"{where}: {word!r} is none of lr=…, decay=…, freeze, train")
        if name in stated:
            raise InputError(f"{where}: it says {name if equals else 'freeze or train'} twice")
        stated[name] = number
    try:
        return Rule(text, re.compile(pattern.strip()), **stated)
    except re.error as error:
        raise InputError(f"{where}: {error}") from None


def treatments(
    config: ml_collections.ConfigDict, model: nn.Module, params: Any
) -> dict[str, Treatment]:
    """Name → treatment of every parameter.

    Args:
      config: the run's config; `config.optim.rules` and `config.optim.layer_decay` are read.
      model: what is trained; layer decay needs to know its kind.
      params: its parameters, or their shapes.

    Raises:
      InputError: a rule cannot be read or matches nothing, nothing is left to train, scanned layers
        are frozen in part, or the layers of this kind of model are not known.
    """
    rules = [parse_rule(text) for text in config.optim.rules]
    used = [False] * len(rules)
    layer_rate = _layer_rates(config.optim.layer_decay, model)

    def of_layer(name):
        found = Treatment()._asdict()
        for i, rule in reversed(list(enumerate(rules))):
            if rule.pattern.fullmatch(name):
                used[i] = True
                for key in ("lr", "decay", "frozen"):
                    if getattr(rule, key) is not None:
                        found[key] = getattr(rule, key)
        return Treatment(**found)._replace(lr=found["lr"] * layer_rate(name))

    def of_parameter(name, shape):
        match = STACK.fullmatch(name)
        if match is None:
            return of_layer(name)._replace(shape=shape)
        before, stack, after = match.groups()
        layers = [of_layer(f"{before}{stack}_{i}{after}") for i in range(shape[0])]
        if len({layer.frozen for layer in layers}) > 1:
            raise InputError(
                f"config.optim.rules: {name} holds all scanned layers: freeze all of them or none, "
                "or set config.model.scan_layers=false"
            )

        def factor(values):
            if len(set(values)) == 1:
                return values[0]
            return np.array(values, np.float32).reshape(-1, *[1] * (len(shape) - 1))

        lr, decay = factor([x.lr for x in layers]), factor([x.decay for x in layers])
        return Treatment(lr, decay, layers[0].frozen, shape, True)

    names = flax.traverse_util.flatten_dict(params, sep="/")
    found = {name: of_parameter(name, x.shape) for name, x in names.items()}
    for rule, matched in zip(rules, used, strict=True):
        if not matched:
            raise InputError(
                f"config.optim.rules: {rule.text!r} matches no parameter of {config.model.name}; "
                f"it has {_some(names)}"
            )
    if all(treatment.frozen for treatment in found.values()):
        raise InputError("config.optim.rules: every parameter is frozen; nothing is left to train")
    return found


def describe(treatment: Treatment) -> str:
    """What is not as for all, such as "lr 0.5, decay 0, frozen"; of scanned layers, from … to."""

    def number(values):
        ends = dict.fromkeys(np.ravel(values)[[0, -1]])
        return " … ".join(f"{value:.3g}" for value in ends)

    words = [
        f"{name} {number(values)}"
        for name, values in (("lr", treatment.lr), ("decay", treatment.decay))
        if np.any(np.asarray(values) != 1)
    ]
    return ", ".join([*words, "frozen"] if treatment.frozen else words)


def split(params: Any, found: dict[str, Treatment]) -> tuple[Any, Any]:
    """`(trained, frozen)`: the same tree twice, with none in place of the parameters of the other.

    None is an empty subtree to JAX: what is mapped over `trained` does not see frozen parameters.
    """
    names = flax.traverse_util.flatten_dict(params, sep="/")
    trained = {name: None if found[name].frozen else x for name, x in names.items()}
    frozen = {name: x if found[name].frozen else None for name, x in names.items()}
    return tuple(flax.traverse_util.unflatten_dict(x, sep="/") for x in (trained, frozen))


def join(trained: Any, frozen: Any) -> Any:
    """The inverse of `split`."""
    return jax.tree.map(
        lambda a, b: b if a is None else a, trained, frozen, is_leaf=lambda x: x is None
    )


def layer_of(model: nn.Module) -> tuple[int, Callable[[str], int]]:
    """`(n, layer)` where `layer(name)` is the place of a parameter from 0 (embedding) to n (head).

    ViT: what makes the first tokens is 0, block i is i + 1, the last norm, the pooling and the
    heads are depth + 1 (as in the fine-tuning of BEiT, Bao et al., 2022, and MAE, He et al., 2022).
    Swin counts its blocks through all stages, and a merging belongs to the block before it (as in
    that of SimMIM, Xie et al., 2022). ResNet likewise counts its residual blocks after the stem.

    Raises:
      InputError: for any other kind of model.
    """
    if isinstance(model, ViT):
        first = ("patch_embed", "cls_token", "dist_token", "reg_token", "pos_embed")
        stages, block, offset = (model.depth,), re.compile(r"blocks_(?P<block>\d+)/.*"), 0
    elif isinstance(model, Swin):
        first = ("patch_embed", "patch_norm")
        stages, offset = model.depths, 0
        block = re.compile(r"layers_(?P<stage>\d+)/(downsample|blocks_(?P<block>\d+))/.*")
    elif isinstance(model, ResNet):
        first = ("conv1", "bn1")
        stages, offset = model.stage_sizes, 1
        block = re.compile(r"layer(?P<stage>\d+)_(?P<block>\d+)/.*")
    else:
        raise InputError(
            f"config.optim.layer_decay: the layers of {type(model).__name__} have no known order; "
            "ViT, Swin and ResNet have"
        )

    def layer(name):
        if name.split("/")[0] in first:
            return 0
        match = block.fullmatch(name)
        if match is None:
            return sum(stages) + 1
        found = match.groupdict()
        before = sum(stages[: int(found.get("stage", offset)) - offset])
        return before + (0 if found["block"] is None else int(found["block"]) + 1)

    return sum(stages) + 1, layer


def _layer_rates(decay: float | None, model: nn.Module) -> Callable[[str], float]:
    """Factor of the learning rate by name: decay^(n − layer); see `layer_of`."""
    if decay is None:
        return lambda name: 1.0
    last, layer = layer_of(model)
    return lambda name: decay ** (last - layer(name))


def _some(names) -> str:
    """A few names that stand for all."""
    names = list(names)
    return ", ".join(names if len(names) <= 4 else [*names[:2], "…", *names[-2:]])
