"""Chapter 12: the whole line at equal compute and equal parameters."""

from pathlib import Path

import numpy as np
from scipy import stats

from cv_jax import models
from cv_jax.course import networks
from cv_jax.course.chapter import Chapter, Picture, Runs, Study, Trial, by_seed, select
from cv_jax.course.verdict import Verdict, difference, more
from cv_jax.inspect.look.figures import COLOURS, MARKERS, panels
from cv_jax.run import json_files

STUDY = Study(
    "equal_compute",
    "equal_compute.py",
    {"digits": "digits", "cifar10": "cifar10"},
)
ORDER = 0.3  # Kendall's tau between year and accuracy that counts as an order


def measure(study: str, path: Path) -> dict[str, float]:
    """Seconds of the training."""
    times = json_files.read_lines(path / "timing.jsonl")
    return {"train_seconds": float(times[-1]["seconds"])} if times else {}


def verdict(trials: list[Trial]) -> Verdict:
    """Rank correlation of year and accuracy, and single steps of the line."""
    seeds = {trial.seed for trial in trials}
    order = {}
    for seed in sorted(seeds):
        own = [t for t in select(trials) if t.seed == seed and "test_accuracy" in t.metrics]
        years = [models.MODELS[t.values["model"]].year for t in own]
        if len(set(years)) > 2:
            found = stats.kendalltau(years, [t.metrics["test_accuracy"] for t in own]).statistic
            order[seed] = 0.0 if np.isnan(found) else float(found)

    def of(model):
        return by_seed(trials, "test_accuracy", model=model)

    checks = [
        more(
            "at equal compute and parameters, later nets are better",
            "Kendall's τ of year and test accuracy over the nets",
            order,
            ORDER,
        )
    ]
    for first, second, text in (
        ("mlp", "linear", "hidden layers are better than none"),
        ("lenet5", "mlp", "convolution is better than full connection"),
        ("resnet8_cifar", "lenet5", "a residual net is better than LeNet-5"),
        ("vit_s16", "resnet8_cifar", "a ViT is better than a residual net"),
        ("swin_t", "vit_s16", "a Swin is better than a ViT"),
    ):
        metric = "difference of the test accuracies"
        checks.append(more(text, metric, difference(of(first), of(second)), 0.0, "points"))
    return Verdict(tuple(checks))


def draw_training(runs: Runs) -> Picture:
    """Test accuracy over multiply-adds and over time, seed 0."""
    title = "Test accuracy while training, seed 0"
    figure, axes = panels(1, 2, title, width=5.2, height=4.2)
    chosen = [trial for trial in runs.trials if trial.seed == 0]
    for i, trial in enumerate(chosen):
        path = runs.folder(trial)
        own = [line for line in networks.lines(path) if line["split"] == "test"]
        steps = np.array([line["step"] for line in own])
        times = json_files.read_lines(path / "timing.jsonl")
        seconds = np.interp(steps, [t["step"] for t in times], [t["seconds"] for t in times])
        batch = networks.config_of(path).batch_size
        adds = steps * batch * trial.metrics["multiply_adds"] / 1e9
        style = dict(color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % 8], markersize=4)
        accuracies = [100 * line["accuracy"] for line in own]
        for axis, places in ((axes[0, 0], adds), (axes[0, 1], seconds)):
            axis.plot(places, accuracies, label=trial.values["model"], **style)
    axes[0, 0].set(xlabel="10⁹ multiply-adds of forward passes", ylabel="test accuracy, %")
    axes[0, 1].set(xlabel="seconds", ylabel="test accuracy, %")
    for axis in axes[0]:
        axis.set_xscale("log")
        axis.grid(alpha=0.6)
    axes[0, 0].legend(fontsize=9)
    text = (
        "Left: over compute. Right: over time, which also counts how well a net uses the machine."
    )
    return Picture("The line at equal compute", text, figure)


def draw_maps(runs: Runs) -> Picture:
    """Where the ViT looks."""
    path = runs.path("equal_compute", model="vit_s16")
    return networks.picture(path, "attention", "Where the ViT looks", name="attention_maps")


LINE = Chapter(
    name="line",
    title="The whole line",
    claim="At equal compute and about equal parameters, each step of the line is better than the "
    "one before.",
    background="Each net was published with more compute and more data than the one before, so the "
    "historical order mixes the idea with its scale. Here every net has about 60 thousand "
    "parameters and the same number of multiply-adds for its training; the schedule of the "
    "learning rate ends for each net at its end.",
    findings={
        "digits": "A net with many multiply-adds for an image makes few updates in this budget, "
        "the residual net 102 and the Swin 174, against 814 to 3,000 of the others. These two do "
        "not even fit their training images. Digits of 8×8 pixels leave little to gain for later "
        "nets. On CIFAR-10 LeNet-5 is ahead of the MLP with less compute (see the page of "
        "experiments)."
    },
    studies=(STUDY,),
    verdict=verdict,
    pictures=(
        draw_training,
        draw_maps,
    ),
    columns={
        "test_accuracy": "test",
        "train_eval_accuracy": "training images",
        "train_seconds": "seconds of training",
    },
    measure=measure,
)
