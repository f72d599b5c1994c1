"""Chapter 7: attention."""

from pathlib import Path

import numpy as np

from cv_jax.course import networks
from cv_jax.course.chapter import Chapter, Picture, Runs, Study, Trial, by_seed
from cv_jax.course.figures import bars, percent
from cv_jax.course.verdict import Verdict, difference, less, more
from cv_jax.inspect import attention

SCALE = Study("attention", "attention.py", {"digits": "digits", "cifar10": "cifar10"})
# The sequences are the same whatever the dataset of images.
MASK = Study(
    "mask",
    "transformer_ablations.py",
    {"digits": "", "cifar10": ""},
    sweep="mask",
    overrides={"total_steps": "1000", "eval.beams": "0"},
)
ROUNDING = 1e-4
SPREAD = 0.5  # patches between the nearest and the farthest reading head
REACH = 0.5  # share of the distance of attention that reads everything equally


def measure(study: str, path: Path) -> dict[str, float]:
    """Sums of rows, distances and entropies of the heads of the first layer."""
    if study != "attention":
        return {}
    net, images = networks.opened(path), networks.subject(path, networks.IMAGES).images
    found = attention.layers(net.model, net.weights.variables, images)
    first = found[0]
    initial = attention.layers(net.model, networks.initial_variables(path), images)[0]
    distance = attention.mean_distance(first) / first.patch[0]
    sums = max(float(np.abs(np.asarray(x.weights).sum(axis=-1) - 1).max()) for x in found)
    return {
        "row_error": sums,
        "spread": float(distance.max() - distance.min()),
        "reach": float(distance.max() / uniform_distance(first.shape)),
        "initial_entropy": float(attention.entropy(initial).mean()),
        "entropy": float(attention.entropy(first).mean()),
    }


def uniform_distance(shape: tuple[int, int]) -> float:
    """Mean distance of attention that reads all places equally, in places."""
    places = np.stack(np.indices(shape), axis=-1).reshape(-1, 2)
    return float(np.linalg.norm(places[:, None] - places[None], axis=-1).mean())


def verdict(trials: list[Trial]) -> Verdict:
    """Rows, heads, reach, scale and mask."""

    def of(metric, scale="sqrt"):
        return by_seed(trials, metric, "attention", scale=scale)

    def mask(metric, causal):
        return by_seed(trials, metric, "mask", model__causal=causal)

    checks = (
        less(
            "weights are probabilities",
            "largest distance of the sum of a row from one",
            of("row_error"),
            ROUNDING,
        ),
        more(
            "heads differ in the first layer",
            "farthest minus nearest mean distance of a head",
            of("spread"),
            SPREAD,
            "patches",
        ),
        more(
            "a head sees the whole image from the first layer",
            "its mean distance over that of equal attention to all patches",
            of("reach"),
            REACH,
        ),
        more(
            "without 1/√d attention starts sharper",
            "entropy of the first layer before training, with minus without",
            difference(of("initial_entropy"), of("initial_entropy", "none")),
            0.0,
            "nats",
        ),
        more(
            "without 1/√d the net is worse",
            "test accuracy with minus without",
            difference(of("test_accuracy"), of("test_accuracy", "none")),
            0.0,
            "points",
        ),
        more(
            "a decoder that sees what comes next writes worse",
            "exact match of written copies, with minus without the causal mask",
            difference(mask("test_accuracy", True), mask("test_accuracy", False)),
            0.5,
            "points",
        ),
    )
    return Verdict(checks)


def draw_distances(runs: Runs) -> Picture:
    """Distances of the heads."""
    path = runs.path("attention", scale="sqrt")
    name = "attention_distance"
    return networks.picture(path, "attention", "How far each head looks", name=name)


def draw_maps(runs: Runs) -> Picture:
    """What one place reads."""
    path, title = runs.path("attention", scale="sqrt"), "What a place in the middle reads"
    return networks.picture(path, "attention", title, name="attention_maps")


def draw_accuracies(runs: Runs) -> Picture:
    """Accuracies with and without the scale."""
    found = {
        name: percent(by_seed(runs.trials, "test_accuracy", "attention", scale=scale))
        for scale, name in (("sqrt", "with 1/√d"), ("none", "without"))
    }
    drawn = bars("Test accuracy", found, "test accuracy, %")
    return Picture("With and without 1/√d", "Test accuracy of the same net.", drawn)


ATTENTION = Chapter(
    name="attention",
    title="Attention",
    claim="Attention reads the whole image from the first layer, its heads read differently, and "
    "it needs its scale 1/√d and, in a decoder, its mask.",
    background="Vaswani et al. (2017): the product of two vectors of d independent entries has the "
    "variance d; without the division the softmax starts close to a choice of one key and its "
    "gradient vanishes. The mask keeps a decoder from reading the token that it must predict.",
    findings={
        "digits": "In this short training on 200 images the heads of the first layer still read "
        "nearly equally far, close to equal attention to all patches. The net without 1/√d starts "
        "with sharper attention and fits its training images better in the same number of steps. "
        "Saturation, the reason for the scale, may need wider heads or longer training; that has "
        "not been tested."
    },
    studies=(SCALE, MASK),
    verdict=verdict,
    pictures=(
        draw_distances,
        draw_maps,
        draw_accuracies,
    ),
    columns={
        "test_accuracy": "test",
        "train_accuracy": "last training batches",
        "reach": "reach",
        "spread": "spread of heads, patches",
        "initial_entropy": "entropy, initial",
        "entropy": "entropy, trained",
    },
    measure=measure,
)
