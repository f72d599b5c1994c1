"""Learning rate, weight decay and freezing of single parameters.

`config.optim.rules` is an ordered list of rules. A rule is a regular expression that must match the
whole name of a parameter, such as "blocks_0/attn/qkv/kernel", then a colon and settings:

    head/.*: lr=10                      ten times the learning rate
    .*(bias|scale): decay=0             no weight decay
    patch_embed/.*: lr=0.1 decay=0.5
    norm/.*: train                      not frozen, whatever a later rule sets
    blocks_[0-3]/.*: freeze
    patch_embed/.*: until=40%           trained in the first 40 % of the updates

Each of `lr`, `decay`, `until` and `freeze`/`train` comes from the first matching rule that sets it.
Without a matching rule they are 1, 1, 100 % and `train`. The default rules are those of the model:
no weight decay on biases, scales, positions and tokens; see `Entry.undecayed`.
`config.optim.layer_decay` also multiplies the learning rate.

With `until`, a parameter goes through the whole learning-rate schedule in the first part of the
training, and then keeps its value; it still has a gradient and a state of the optimiser.

A frozen parameter has no gradient, no update and no optimiser state; it stays equal bit for bit.
Running statistics of batch normalisation are not parameters: in a frozen layer they still follow
the data, as in PyTorch, because the layer still normalises with the batch.

Scanned blocks hold the parameters of all layers in one array with a leading axis. Rules and layer
decay use the names of unrolled blocks (`blocks_3/…`), and the factors become one per layer.
"""

import bisect
import contextlib
import re
import signal
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax
import ml_collections
import numpy as np

from cv_jax import models
from cv_jax.errors import InputError
from cv_jax.models.entry import Entry

MATCH_SECONDS = 1.0  # of a rule with all names; a pattern can backtrack for ever

STACK = re.compile(r"(^|.*/)(\w*blocks)(/.*)")  # unrolled blocks have a number


class Treatment(NamedTuple):
    """How one parameter is trained.

    Attributes:
      lr: factor of the learning rate; for scanned blocks whose layers differ an array
        [depth, 1, …] that broadcasts to the parameter.
      decay: factor of the weight decay, likewise.
      frozen: whether the parameter always keeps its value.
      shape: shape of the parameter.
      stacked: whether the first axis is the axis of scanned layers.
      matrices: number of matrices that Muon updates; 0 if it leaves the parameter to AdamW.
      last: whether the parameter belongs to a layer that writes the output.
      until: percent of the training after which the parameter keeps its value.
    """

    lr: float | np.ndarray = 1.0
    decay: float | np.ndarray = 1.0
    frozen: bool = False
    shape: tuple[int, ...] = ()
    stacked: bool = False
    matrices: int = 0
    last: bool = False
    until: float = 100.0


class Rule(NamedTuple):
    """One parsed rule; settings that it does not contain are `None`."""

    text: str
    pattern: re.Pattern
    lr: float | None = None
    decay: float | None = None
    until: float | None = None
    frozen: bool | None = None


def parse_rule(text: str) -> Rule:
    """Parse "PATTERN: [lr=NUMBER] [decay=NUMBER] [until=PERCENT%] [freeze|train]".

    Raises:
      InputError: the text is not a valid rule.
    """
    where = f"config.optim.rules: {text!r}"
    pattern, colon, statements = text.rpartition(":")
    if not colon or not pattern.strip() or not statements.strip():
        raise InputError(
            f"{where}: a rule is PATTERN: followed by lr=…, decay=…, until=…%, freeze or train"
        )
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
        elif equals and name == "until":
            number = _percent(value)
            if number is None:
                raise InputError(f"{where}: {word}: {value!r} is not above 0% and at most 100%")
        else:
            raise InputError(f"{where}: {word!r} is none of lr=…, decay=…, until=…%, freeze, train")
        if name in stated:
            raise InputError(f"{where}: {name if equals else 'freeze or train'} is set twice")
        stated[name] = number
    try:
        return Rule(text, re.compile(pattern.strip()), **stated)
    except (re.error, RecursionError, OverflowError) as error:
        raise InputError(f"{where}: {error}") from None


def _percent(text: str) -> float | None:
    """Return the number before "%" if it is above 0 and at most 100."""
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        return None
    return number if text.endswith("%") and 0 < number <= 100 else None


@contextlib.contextmanager
def _limited(text: str) -> Iterator[None]:
    """Raise an `InputError` if matching needs more than `MATCH_SECONDS` of processor time."""

    def end(number, frame):
        raise InputError(
            f"config.optim.rules: {text!r} takes too long to match; repetitions inside "
            "repetitions, as in (a+)+, take exponential time"
        )

    if threading.current_thread() is not threading.main_thread():  # no signals there
        yield
        return
    before = signal.signal(signal.SIGVTALRM, end)
    signal.setitimer(signal.ITIMER_VIRTUAL, MATCH_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _matching(rule: Rule, names: Iterable[str]) -> set[str]:
    """Return the names that a rule matches."""
    with _limited(rule.text):
        return {name for name in names if rule.pattern.fullmatch(name)}


def treatments(
    config: ml_collections.ConfigDict, model: nn.Module, params: Any
) -> dict[str, Treatment]:
    """Return the treatment of every parameter by name.

    Args:
      config: the run's config; reads `model.name`, `optim.rules` and `optim.layer_decay`.
      model: the model.
      params: its parameters, or their shapes.

    Raises:
      InputError: a rule is invalid or matches no parameter, all parameters are frozen, scanned
        layers are frozen in part, or layer decay is set for a model without a layer order.
    """
    rules = [parse_rule(text) for text in config.optim.rules]
    used = [False] * len(rules)
    entry = models.MODELS[config.model.name]
    fused = entry.fused(model) if callable(entry.fused) else entry.fused
    shapes = {k: x.shape for k, x in flax.traverse_util.flatten_dict(params, sep="/").items()}
    unrolled = {name: _unrolled(name, shape) for name, shape in shapes.items()}
    matching = [_matching(rule, sum(unrolled.values(), [])) for rule in rules]
    layer_rate = _layer_rates(config, entry, sum(unrolled.values(), []))

    def of_layer(name):
        found = Treatment()._asdict()
        for i, rule in reversed(list(enumerate(rules))):
            if name in matching[i]:
                used[i] = True
                for key in ("lr", "decay", "until", "frozen"):
                    if getattr(rule, key) is not None:
                        found[key] = getattr(rule, key)
        return Treatment(**found)._replace(lr=found["lr"] * layer_rate(name))

    def of_parameter(name, shape):
        layers = [of_layer(own) for own in unrolled[name]]
        stacked = unrolled[name] != [name]
        if len({(layer.frozen, layer.until) for layer in layers}) > 1:
            raise InputError(
                f"config.optim.rules: {name} holds all scanned layers: freeze all of them or none, "
                "at the same time, or set config.model.scan_layers=false"
            )

        def factor(values):
            if len(set(values)) == 1:
                return values[0]
            return np.array(values, np.float32).reshape(-1, *[1] * (len(shape) - 1))

        lr, decay = factor([x.lr for x in layers]), factor([x.decay for x in layers])
        matrices = matrices_of(name, shape[stacked:], entry, fused)
        last = _is_layer(name, entry.last_layers)
        until, frozen = layers[0].until, layers[0].frozen
        return Treatment(lr, decay, frozen, shape, stacked, matrices, last, until)

    found = {name: of_parameter(name, shape) for name, shape in shapes.items()}
    for rule, matched in zip(rules, used, strict=True):
        if not matched:
            raise InputError(
                f"config.optim.rules: {rule.text!r} matches no parameter of {config.model.name}; "
                f"it has {_some(shapes)}"
            )
    if all(treatment.frozen for treatment in found.values()):
        raise InputError("config.optim.rules: every parameter is frozen; nothing is left to train")
    return found


def matrices_of(name: str, shape: tuple[int, ...], entry: Entry, fused: Mapping[str, int]) -> int:
    """Return the number of matrices that Muon updates in a parameter.

    They are the kernels of dense layers and convolutions between the first and the last layers.

    Args:
      name: path of the parameter.
      shape: its shape, without the axis of scanned layers.
      entry: registry entry of the model.
      fused: layer → number of matrices in its kernel.
    """
    *_, layer, leaf = ("", *name.split("/"))
    ends = (*entry.first_layers, *entry.last_layers)
    if leaf != "kernel" or len(shape) not in (2, 4) or _is_layer(name, ends):
        return 0
    return fused.get(layer, 1)


def _is_layer(name: str, layers: tuple[str, ...]) -> bool:
    """Whether a parameter belongs to one of the layers, which are regular expressions."""
    return re.fullmatch(rf"(?:{'|'.join(layers)})/.*", name) is not None if layers else False


def _unrolled(name: str, shape: tuple[int, ...]) -> list[str]:
    """Return the names of a parameter's layers if it is scanned, else its name."""
    match = STACK.fullmatch(name)
    if match is None:
        return [name]
    before, stack, after = match.groups()
    return [f"{before}{stack}_{i}{after}" for i in range(shape[0])]


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
    if treatment.until < 100:
        words.append(f"until {treatment.until:g} %")
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


def layer_numbers(order: tuple[str, ...], names: Collection[str]) -> dict[str, int]:
    """Return the number of each parameter's layer, from 0 at the input; see `Entry.layer_order`.

    ViT: the embedding is 0, block i is i + 1, the last norm, the pooling and the heads are
    depth + 1 (as in the fine-tuning of BEiT, Bao et al., 2022, and MAE, He et al., 2022). Swin
    numbers its blocks through all stages, and a patch merging belongs to the block before it (as in
    SimMIM, Xie et al., 2022). ResNet also numbers its residual blocks through all stages. Other
    convolutional nets and the MLP count their convolutions and dense layers.
    """

    def place(name):
        for i, pattern in enumerate(order):
            if match := re.fullmatch(pattern, name):
                return i, *(-1 if number is None else int(number) for number in match.groups())
        return (len(order),)

    places = {name: place(name) for name in names}
    layers = sorted(
        {
            at
            for name, at in places.items()
            if at == (len(order),) or (-1 not in at and name.endswith("/kernel"))
        }
    )
    return {name: max(0, bisect.bisect_right(layers, at) - 1) for name, at in places.items()}


def _layer_rates(
    config: ml_collections.ConfigDict, entry: Entry, names: list[str]
) -> Callable[[str], float]:
    """Return the factor of the learning rate by name: decay^(last layer − layer)."""
    decay = config.optim.layer_decay
    if decay is None:
        return lambda name: 1.0
    if entry.layer_order is None:
        raise InputError(
            f"config.optim.layer_decay={decay}: no layer order is known for model "
            f"{config.model.name}; its registry entry must state layer_order"
        )
    layers = layer_numbers(entry.layer_order, names)
    last = max(layers.values())
    return lambda name: decay ** (last - layers[name])


def _some(names) -> str:
    """Join the names; of more than four only the first two and the last two."""
    names = list(names)
    return ", ".join(names if len(names) <= 4 else [*names[:2], "…", *names[-2:]])
