"""Chapter 6: deep plain nets fail in optimisation, and shortcuts cure it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from cv_jax.course import networks
from cv_jax.course.chapter import Chapter, Picture, Runs, Study, Trial, by_seed, select
from cv_jax.course.figures import bars, curves, error, percent
from cv_jax.course.verdict import Check, Verdict, difference, less, more
from cv_jax.models import resnet

EPOCHS = {"digits": "digits,epochs=4", "cifar10": "cifar10,epochs=6"}
NORMS = {"log.norms": "true", "log.every_steps": "1"}  # the first line is that of step 1
DEPTHS = Study("depth", "depth.py", EPOCHS, sweep="few", overrides=NORMS)
CURES = Study("cures", "depth.py", EPOCHS, sweep="cures", overrides=NORMS)
VARIANTS = Study("variants", "depth.py", EPOCHS, sweep="variants")
SHALLOW, MIDDLE, DEEP = 8, 20, 44
WORSE = 0.02  # a difference of training errors that counts
CURED = 0.1  # a lower training error that counts as a cure
SAME = 0.01
GENTLE = 0.1  # accuracy that a gentle degradation may cost
WITHOUT = "accuracy_without_"  # and the name of a block


def measure(study: str, path: Path) -> dict[str, float]:
    """First-step gradient norm of the first and last filters; accuracy without single blocks."""
    found = {}
    norms = next((line for line in networks.lines(path) if line["split"] == "norms"), None)
    if norms:
        blocks = networks.opened(path).model.stage_sizes[2]
        first, last = norms["gradient/conv1"], norms[f"gradient/layer3_{blocks - 1}/conv2"]
        found = {"first_gradient": first, "gradient_ratio": first / last}
    if study == "depth" and networks.config_of(path).model.name in (
        "plain20_cifar",
        "resnet20_cifar",
    ):
        alone = {f"{WITHOUT}{block}": without(path, block) for block in removable(path)}
        found |= {"skipped_accuracy": float(np.mean(list(alone.values()))), **alone}
    return found


def removable(path: Path) -> list[str]:
    """Names of the blocks whose input and output have the same shape."""
    model = networks.opened(path).model
    names = [f"layer{s}_{i}" for s, n in enumerate(model.stage_sizes, 1) for i in range(n)]
    return [n for n in names if n == "layer1_0" or not n.endswith("_0")]


def without(path: Path, block: str) -> float:
    """Test accuracy with one block replaced by the identity (Veit et al., 2016)."""

    def predict(net, images):
        return logits_without(net.model, net.weights.variables, images, block)

    return networks.accuracy(path, predict)


def logits_without(
    model: nn.Module, variables: Mapping[str, Any], images: jax.Array, block: str
) -> jax.Array:
    """Return the logits of a residual or plain net without one block, which passes its input on."""

    def skip(call, args, kwargs, context):
        if isinstance(context.module, resnet.Block) and context.module.name == block:
            return args[0]
        return call(*args, **kwargs)

    with nn.intercept_methods(skip):
        return model.apply(variables, images, train=False)[0]


def verdict(trials: list[Trial]) -> Verdict:
    """Training errors over depth, gradients, cures, variants, and nets without a block."""
    checks = *_depth(trials), *_cures(trials), *_variants(trials), *_without_a_block(trials)
    return Verdict(checks)


def _mistakes(trials: list[Trial], study: str, **values: Any) -> dict[int, float]:
    """Return seed → error on the training images."""
    found = by_seed(trials, "train_eval_accuracy", study, **values)
    return {seed: 1 - value for seed, value in found.items()}


def _depth(trials: list[Trial]) -> list[Check]:
    def deeper(net):
        deep, shallow = (_mistakes(trials, "depth", net=net, depth=d) for d in (DEEP, SHALLOW))
        return difference(deep, shallow)

    def logarithm(layers):
        found = by_seed(trials, "gradient_ratio", "depth", net="plain", depth=layers)
        return {seed: float(np.log10(value)) for seed, value in found.items()}

    metric = "difference of the errors on the training images"
    return [
        more(
            f"a plain net of {DEEP} layers has a higher error on its own training images than one "
            f"of {SHALLOW}",
            metric,
            deeper("plain"),
            WORSE,
            "points",
        ),
        less(
            f"a residual net of {DEEP} layers has no higher one than a residual net of {SHALLOW}",
            metric,
            deeper("residual"),
            WORSE,
            "points",
        ),
        more(
            "gradients of the first layer explode with the depth of plain nets",
            f"log₁₀ of first over last gradient norm, {DEEP} minus {SHALLOW} layers, first step",
            difference(logarithm(DEEP), logarithm(SHALLOW)),
            1.0,
        ),
    ]


def _cures(trials: list[Trial]) -> list[Check]:
    base = _mistakes(trials, "cures", change="none")
    names = {
        "small_rate": "a tenth of the learning rate",
        "warm_up": "a warm-up of half the training",
        "no_norm": "He's initialisation without batch normalisation",
    }
    return [
        more(
            f"{name} cures a plain net of {DEEP} layers",
            "training error without minus with the cure",
            difference(base, _mistakes(trials, "cures", change=change)),
            CURED,
            "points",
        )
        for change, name in names.items()
    ]


def _variants(trials: list[Trial]) -> list[Check]:
    base = _mistakes(trials, "variants", change="none")
    names = {"shortcut_b": "shortcut B", "shortcut_c": "shortcut C"}
    names["stochastic_depth"] = "stochastic depth"
    return [
        less(
            f"a residual net of {MIDDLE} layers with {name} trains as well as with shortcut A",
            "difference of the errors on the training images",
            difference(_mistakes(trials, "variants", change=change), base),
            SAME,
            "points",
        )
        for change, name in names.items()
    ]


def _without_a_block(trials: list[Trial]) -> list[Check]:
    def lost(net):
        whole, without = (
            by_seed(trials, metric, "depth", net=net, depth=MIDDLE)
            for metric in ("test_accuracy", "skipped_accuracy")
        )
        return difference(whole, without)

    metric = f"test accuracy lost, mean over the blocks of {MIDDLE} layers"
    gentle = "a residual net without one block degrades gently"
    breaks = "a plain net without one block breaks"
    return [
        less(gentle, metric, lost("residual"), GENTLE, "points"),
        more(breaks, metric, lost("plain"), GENTLE, "points"),
    ]


def _over_depth(
    runs: Runs, metric: str, change: Callable[[Mapping[int, float]], dict[int, float]]
) -> dict[str, list[dict[int, float]]]:
    return {
        net: [
            change(by_seed(runs.trials, metric, "depth", net=net, depth=depth))
            for depth in (SHALLOW, MIDDLE, DEEP)
        ]
        for net in ("plain", "residual")
    }


def draw_gradients(runs: Runs) -> Picture:
    """Gradient norms over depth."""

    def logarithms(values):
        return {seed: float(np.log10(value)) for seed, value in values.items()}

    drawn = curves(
        "Gradient norm of the first over the last filters, first step",
        (SHALLOW, MIDDLE, DEEP),
        _over_depth(runs, "gradient_ratio", logarithms),
        "layers",
        "log₁₀ of the ratio",
    )
    text = "1 means that the first layer receives ten times the gradient of the last."
    return Picture("Gradients over depth", text, drawn)


def draw_errors(runs: Runs) -> Picture:
    """Training errors over depth."""
    drawn = curves(
        "Plain and residual nets",
        (SHALLOW, MIDDLE, DEEP),
        _over_depth(runs, "train_eval_accuracy", error),
        "layers",
        "error on the training images, %",
    )
    text = (
        "Without augmentation and with the final weights: more layers could only copy their input "
        "and would be no worse."
    )
    return Picture("Error on the training images over depth", text, drawn)


def draw_cures(runs: Runs) -> Picture:
    """Training errors of a deep plain net with each cure."""
    names = {"none": "no cure", "small_rate": "small rate", "warm_up": "long warm-up"}
    names["no_norm"] = "no normalisation"
    found = {
        name: error(by_seed(runs.trials, "train_eval_accuracy", "cures", change=change))
        for change, name in names.items()
    }
    drawn = bars(f"Plain net of {DEEP} layers", found, "error on the training images, %")
    return Picture("Cures without shortcuts", "The same net, trained in other ways.", drawn)


def draw_blocks(runs: Runs) -> Picture:
    """Test accuracies without single blocks: figure 3 of Veit et al. (2016)."""
    middle = select(runs.trials, "depth", depth=MIDDLE)
    names = sorted({name for trial in middle for name in trial.metrics if name.startswith(WITHOUT)})
    lines = {
        net: [percent(by_seed(middle, name, net=net)) for name in names]
        for net in ("plain", "residual")
    }
    drawn = curves(
        f"{MIDDLE} layers, one block left out",
        range(1, len(names) + 1),
        lines,
        "block left out, counted from the input",
        "test accuracy, %",
    )
    blocks = ", ".join(name.removeprefix(WITHOUT) for name in names)
    text = f"A block that is left out passes its input on. The blocks are {blocks}."
    return Picture("Nets without one block", text, drawn)


DEGRADATION = Chapter(
    name="degradation",
    title="Degradation and shortcuts",
    claim="Beyond some depth a plain net gets worse on its own training images, which is a failure "
    "of optimisation and not overfitting; shortcuts cure it, and make single layers dispensable.",
    background="He et al. (2015) saw it and left the cause open. Yang et al. (2019) derive that "
    "gradients explode through batch normalisation, by a factor a layer, and that shortcuts "
    "prevent it. Veit et al. (2016) read a residual net as an ensemble of shallow paths, so that "
    "taking one block away costs little.",
    findings={
        "digits": "None of the three cures, each tried alone, brings the plain net of 44 layers "
        "below an error of 60 % on its training images in 180 steps. A smaller rate and a warm-up "
        "do not change the gradients of the initial net. Without normalisation the first layers "
        "get less gradient than the last ones, and the net stays at chance. What a residual net "
        "loses without a block, it loses without one of its first two blocks; all others are "
        "dispensable, as the last picture shows."
    },
    studies=(DEPTHS, CURES, VARIANTS),
    verdict=verdict,
    pictures=(
        draw_gradients,
        draw_errors,
        draw_cures,
        draw_blocks,
    ),
    columns={
        "train_eval_accuracy": "training images",
        "test_accuracy": "test",
        "gradient_ratio": "gradient, first over last",
        "skipped_accuracy": "test without one block",
    },
    measure=measure,
)
