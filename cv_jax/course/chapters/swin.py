"""Chapter 11: windows bring locality back at linear cost."""

import time
from pathlib import Path

import jax
import numpy as np

from cv_jax import models
from cv_jax.course import networks
from cv_jax.course.chapter import Chapter, Picture, Runs, Study, Trial, by_seed
from cv_jax.course.figures import bars, percent
from cv_jax.course.verdict import Verdict, difference, less, more
from cv_jax.inspect.look.figures import COLOURS, MARKERS, panels

STUDY = Study("windows", "windows.py", {"digits": "digits", "cifar10": "cifar10,epochs=10"})
SIDES = (24, 48, 96)  # images on which cost is measured, in pixels
LINEAR = 1.25  # exponent of cost over pixels that counts as linear


def rivals(path: Path) -> dict[str, object]:
    """The Swin of a run, and a ViT with its patches, width and number of blocks: side → module."""
    model = networks.opened(path).model
    fields = dict(patch_size=model.patch_size, width=model.width, depth=sum(model.depths))
    heads = dict(num_heads=model.num_heads[0], num_classes=model.num_classes)
    return {
        "Swin": lambda side: model,
        "ViT": lambda side: models.create("vit_ti16", image_size=side, **fields, **heads),
    }


def costs(model, side: int, channels: int) -> dict[str, float]:
    """Multiply-adds, seconds and bytes of memory of one forward pass."""
    image = np.zeros((1, side, side, channels), np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), image)

    def forward(variables, image):
        return model.apply(variables, image, train=False)[0]

    adds, _ = models.count_multiply_adds(forward, variables, image)
    program = jax.jit(forward).lower(variables, image).compile()
    jax.block_until_ready(program(variables, image))
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(program(variables, image))
        seconds.append(time.perf_counter() - start)
    memory = program.memory_analysis().temp_size_in_bytes
    return {"multiply_adds": adds, "seconds": min(seconds), "memory": memory}


def measure(study: str, path: Path) -> dict[str, float]:
    """Exponents of cost over the number of pixels, between the two largest images."""
    if not networks.config_of(path).model.shift:
        return {}
    channels = networks.subject(path, 1).images.shape[-1]
    found = {}
    for name, build in rivals(path).items():
        small, large = (costs(build(side), side, channels) for side in SIDES[-2:])
        for what in small:
            exponent = np.log2(large[what] / max(small[what], 1e-9)) / 2
            found[f"{name.lower()}_{what}_exponent"] = float(exponent)
    return found


def verdict(trials: list[Trial]) -> Verdict:
    """Exponents of cost, and accuracy with shifted windows."""

    def of(metric, windows="shifted"):
        return by_seed(trials, metric, windows=windows)

    checks = []
    for what, name in (("multiply_adds", "work"), ("seconds", "time"), ("memory", "memory")):
        sides = f"from {SIDES[-2]} to {SIDES[-1]} pixels a side"
        statistic = f"exponent of {what.replace('_', '-')} over pixels, {sides}"
        swin, vit = (of(f"{net}_{what}_exponent") for net in ("swin", "vit"))
        checks += [
            less(f"the {name} of a Swin grows about linearly", statistic, swin, LINEAR),
            more(f"the {name} of a ViT grows faster", statistic, vit, LINEAR),
        ]
    lead = difference(of("test_accuracy"), of("test_accuracy", "fixed"))
    metric = "difference of the test accuracies"
    checks.append(more("shifted windows are better than fixed ones", metric, lead, 0.0, "points"))
    return Verdict(tuple(checks))


def draw_maps(runs: Runs) -> Picture:
    """Attention inside windows."""
    path = runs.path("windows", windows="shifted")
    return networks.picture(path, "attention", "Attention inside windows", name="attention_maps")


def draw_costs(runs: Runs) -> Picture:
    """Cost over the image size."""
    path = runs.path("windows", windows="shifted")
    channels = networks.subject(path, 1).images.shape[-1]
    labels = {"multiply_adds": "multiply-adds", "seconds": "seconds", "memory": "bytes of memory"}
    title = "Forward pass of one image, Swin and ViT with equal patches and width"
    figure, axes = panels(1, 3, title, width=4.0, height=3.6)
    for i, (name, build) in enumerate(rivals(path).items()):
        found = [costs(build(side), side, channels) for side in SIDES]
        for axis, (what, label) in zip(axes[0], labels.items(), strict=True):
            values = [cost[what] for cost in found]
            axis.plot(SIDES, values, color=COLOURS[i], marker=MARKERS[i], label=name)
            axis.set(xscale="log", yscale="log", xlabel="side of the image, pixels", ylabel=label)
            axis.set_xticks(SIDES, [str(side) for side in SIDES])
            axis.minorticks_off()
            axis.grid(alpha=0.6)
    axes[0, 0].legend(fontsize=10)
    return Picture("Cost over the image size", "Both scales are logarithmic.", figure)


def draw_accuracies(runs: Runs) -> Picture:
    """Accuracies with shifted and with fixed windows."""
    found = {
        name: percent(by_seed(runs.trials, "test_accuracy", windows=name))
        for name in ("shifted", "fixed")
    }
    return Picture(
        "Shifted and fixed windows",
        "Without the shift, tokens of different windows meet only where patches merge.",
        bars("Test accuracy", found, "test accuracy, %"),
    )


SWIN = Chapter(
    name="swin",
    title="Windows",
    claim="Attention inside windows makes cost linear in the number of pixels, and shifting the "
    "windows makes up for their borders.",
    background="Liu et al. (2021): a token reads the tokens of its window only, so the work of a "
    "token does not depend on the size of the image; every second block shifts the windows by half "
    "their side.",
    findings={
        "digits": "Work, time and memory grow as the theory says. Shifted windows are no better "
        "here: the map has 8×8 tokens and the windows 4×4, so four windows see the four quarters "
        "of a digit, and the next stage merges them into one."
    },
    studies=(STUDY,),
    verdict=verdict,
    pictures=(
        draw_maps,
        draw_costs,
        draw_accuracies,
    ),
    columns={
        "test_accuracy": "test",
        "swin_multiply_adds_exponent": "exponent, Swin",
        "vit_multiply_adds_exponent": "exponent, ViT",
    },
    measure=measure,
)
