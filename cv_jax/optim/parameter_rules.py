"""Learning rate, weight decay and freezing of single parameters, by name.

`config.optim.rules` is an ordered list of rules. A rule is a regular expression that must match the
whole name of a parameter, such as "blocks_0/attn/qkv/kernel", then a colon and settings:

    head/.*: lr=10                      ten times the learning rate
    .*(bias|scale): decay=0             no weight decay
    patch_embed/.*: lr=0.1 decay=0.5
    norm/.*: train                      not frozen, whatever a later rule sets
    blocks_[0-3]/.*: freeze

Each of `lr`, `decay` and `freeze`/`train` comes from the first matching rule that sets it. Defaults
are 1, 1 and `train`. `config.optim.layer_decay` also multiplies the learning rate.

A frozen parameter has no gradient, no update and no optimiser state; it stays equal bit for bit.
Running statistics of batch normalisation are not parameters: in a frozen layer they still follow
the data, as in PyTorch, because the layer still normalises with the batch.

Scanned blocks hold the parameters of all layers in one array with a leading axis. Rules and layer
decay use the names of unrolled blocks (`blocks_3/…`), and the factors become one per layer.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax
import ml_collections
import numpy as np

from cv_jax import models
from cv_jax.errors import InputError
from cv_jax.models.entry import LayerOrder

STACK = re.compile(r"(^|.*/)(\w*blocks)(/.*)")  # unrolled blocks have a number


class Treatment(NamedTuple):
    """How one parameter is trained.

    Attributes:
      lr: factor of the learning rate; for scanned blocks whose layers differ an array
        [depth, 1, …] that broadcasts to the parameter.
      decay: factor of the weight decay, likewise.
      frozen: whether the parameter keeps its value.
      shape: shape of the parameter.
      stacked: whether the first axis is the axis of scanned layers.
    """

    lr: float | np.ndarray = 1.0
    decay: float | np.ndarray = 1.0
    frozen: bool = False
    shape: tuple[int, ...] = ()
    stacked: bool = False


class Rule(NamedTuple):
    """One parsed rule; settings that it does not contain are `None`."""

    text: str
    pattern: re.Pattern
    lr: float | None = None
    decay: float | None = None
    frozen: bool | None = None


def parse_rule(text: str) -> Rule:
    """Parse "PATTERN: [lr=NUMBER] [decay=NUMBER] [freeze|train]".

    Raises:
      InputError: the text is not a valid rule.
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
            raise InputError(f"{where}: {name if equals else 'freeze or train'} is set twice")
        stated[name] = number
    try:
        return Rule(text, re.compile(pattern.strip()), **stated)
    except re.error as error:
        raise InputError(f"{where}: {error}") from None


def treatments(
    config: ml_collections.ConfigDict, model: nn.Module, params: Any
) -> dict[str, Treatment]:
    """Return the treatment of every parameter by name.

    Args:
      config: the run's config; reads `model.name`, `optim.rules` and `optim.layer_decay`.
      model: the model; layer decay reads the number of its blocks.
      params: its parameters, or their shapes.

    Raises:
      InputError: a rule is invalid or matches no parameter, all parameters are frozen, scanned
        layers are frozen in part, or layer decay is set for a model without a layer order.
    """
    rules = [parse_rule(text) for text in config.optim.rules]
    used = [False] * len(rules)
    layer_rate = _layer_rates(config, model)

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
    """Return the settings that differ from the defaults, such as "lr 0.5, decay 0, frozen".

    Factors of scanned layers are the first and the last, such as "lr 0.25 … 1".
    """

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
    """Return `(trained, frozen)`: two copies of the tree with `None` for the other parameters.

    `None` is an empty subtree in JAX, so `jax.tree.map` over `trained` skips frozen parameters.
    """
    names = flax.traverse_util.flatten_dict(params, sep="/")
    trained = {name: None if found[name].frozen else x for name, x in names.items()}
    frozen = {name: x if found[name].frozen else None for name, x in names.items()}
    return tuple(flax.traverse_util.unflatten_dict(x, sep="/") for x in (trained, frozen))


def join(trained: Any, frozen: Any) -> Any:
    """Merge two trees; the inverse of `split`."""
    return jax.tree.map(
        lambda a, b: b if a is None else a, trained, frozen, is_leaf=lambda x: x is None
    )


def layer_of(order: LayerOrder, model: nn.Module) -> tuple[int, Callable[[str], int]]:
    """Return `(n, layer)`: `layer(name)` is the layer of a parameter, from 0 to n.

    ViT: the embedding is 0, block i is i + 1, the last norm, the pooling and the heads are
    depth + 1 (as in the fine-tuning of BEiT, Bao et al., 2022, and MAE, He et al., 2022). Swin
    numbers its blocks through all stages, and a patch merging belongs to the block before it (as in
    SimMIM, Xie et al., 2022). ResNet also numbers its residual blocks through all stages.
    """
    sizes, block = getattr(model, order.stages), re.compile(order.block)
    sizes = (sizes,) if isinstance(sizes, int) else sizes

    def layer(name):
        if name.split("/")[0] in order.first:
            return 0
        match = block.fullmatch(name)
        if match is None:
            return sum(sizes) + 1
        found = match.groupdict()
        before = sum(sizes[: int(found.get("stage", order.first_stage)) - order.first_stage])
        return before + (0 if found["block"] is None else int(found["block"]) + 1)

    return sum(sizes) + 1, layer


def _layer_rates(config: ml_collections.ConfigDict, model: nn.Module) -> Callable[[str], float]:
    """Return the factor of the learning rate by name: decay^(n − layer); see `layer_of`."""
    decay, name = config.optim.layer_decay, config.model.name
    if decay is None:
        return lambda name: 1.0
    order = models.MODELS[name].layer_order
    if order is None:
        entries = models.MODELS.values()
        known = dict.fromkeys(entry.module.__name__ for entry in entries if entry.layer_order)
        raise InputError(
            f"config.optim.layer_decay={decay}: no layer order is known for model {name}; it is "
            f"known for {', '.join(known)}"
        )
    last, layer = layer_of(order, model)
    return lambda name: decay ** (last - layer(name))


def _some(names) -> str:
    """Join the names; of more than four only the first two and the last two."""
    names = list(names)
    return ", ".join(names if len(names) <= 4 else [*names[:2], "…", *names[-2:]])
