"""Chapter 3: what AlexNet added, taken away one at a time."""

from pathlib import Path

from cv_jax.course import networks
from cv_jax.course.chapter import Chapter, Picture, Runs, Study, Trial, by_seed, select
from cv_jax.course.figures import bars, percent
from cv_jax.course.verdict import Verdict, difference, less, more
from cv_jax.inspect.look.figures import COLOURS, panels

STUDY = Study("alexnet", "alexnet.py", {"digits": "digits", "cifar10": "cifar10,epochs=15"})
REACHED = 0.75  # accuracy on training batches: the 25 % error of the paper's figure 1
CHANGES = {
    "no_dropout": "dropout",
    "no_lrn": "response normalisation",
    "no_overlap": "overlap of the pooling windows",
    "no_augmentation": "augmentation",
    "no_lighting": "PCA lighting",
}
SAME = 0.01


def measure(study: str, path: Path) -> dict[str, float]:
    """Steps until a quarter of a training batch is wrong."""
    return {"steps_to_25": networks.first_step(path, "train", "accuracy", REACHED)}


def verdict(trials: list[Trial]) -> Verdict:
    """Time of tanh and ReLU; test accuracy lost by each change."""

    def of(metric, change):
        return by_seed(trials, metric, change=change)

    base = of("test_accuracy", "none")
    checks = [
        more(
            "ReLU learns faster than tanh",
            "steps to 25 % training error with tanh minus with ReLU",
            difference(of("steps_to_25", "tanh"), of("steps_to_25", "none")),
            0.0,
            "steps",
        )
    ]
    for change, name in CHANGES.items():
        lost = difference(base, of("test_accuracy", change))
        if change == "no_lighting" and not lost:
            continue  # images with one channel have no colour
        checks.append(
            more(f"{name} helps", "test accuracy with minus without it", lost, 0.0, "points")
        )
    checks.append(
        less(
            "two towers cost little",
            "test accuracy of one tower minus two towers",
            difference(of("test_accuracy", "one_tower"), base),
            SAME,
            "points",
        )
    )
    return Verdict(tuple(checks))


def draw_filters(runs: Runs) -> Picture:
    """First-layer filters."""
    path = runs.path("alexnet", change="none")
    return networks.picture(path, "filters", "First filters of the two towers")


def draw_training(runs: Runs) -> Picture:
    """Training with ReLU and with tanh."""
    figure, axes = panels(1, 1, "Accuracy on training batches", width=5.5, height=3.8)
    for i, (change, name) in enumerate((("none", "ReLU"), ("tanh", "tanh"))):
        for k, trial in enumerate(select(runs.trials, change=change)):
            own = [x for x in networks.lines(runs.folder(trial)) if x["split"] == "train"]
            axes[0, 0].plot(
                [line["step"] for line in own],
                [100 * line["accuracy"] for line in own],
                color=COLOURS[i],
                alpha=0.7,
                label=None if k else name,
            )
    axes[0, 0].axhline(100 * REACHED, linestyle=":", color=COLOURS[2])
    axes[0, 0].set(xlabel="steps", ylabel="accuracy, %")
    axes[0, 0].legend(fontsize=10)
    return Picture("ReLU against tanh", "Each line is a seed; dotted: 25 % error.", figure)


def draw_changes(runs: Runs) -> Picture:
    """Test accuracy after each change."""
    changes = dict.fromkeys(trial.values["change"] for trial in runs.trials)
    found = {
        change.replace("_", " "): percent(by_seed(runs.trials, "test_accuracy", change=change))
        for change in changes
    }
    return Picture(
        "Test accuracy after each change",
        "“none” is the net of the paper.",
        bars("One change at a time", found, "test accuracy, %"),
    )


ALEXNET = Chapter(
    name="alexnet",
    title="What AlexNet added",
    claim="ReLU trains faster than tanh, and dropout, response normalisation, overlapping pooling "
    "and augmentation each make AlexNet better.",
    background="Krizhevsky et al. (2012) report each gain on ImageNet, most of them around one "
    "point. The two towers were a way to use two GPUs: they halve the weights of three layers.",
    findings={
        "digits": "The net is small and trains for 449 steps on 1,438 images. With dropout it does "
        "not fit them, without dropout it does and is better on the test images, too. Without "
        "response normalisation the mean is lowest and the seeds differ most: nothing else bounds "
        "the activations. tanh bounds them as well, which may be why it learns faster here than "
        "ReLU; that has not been tested. Windows of the pooling without overlap, whole images and "
        "one tower are better by five to six points."
    },
    studies=(STUDY,),
    verdict=verdict,
    pictures=(
        draw_filters,
        draw_training,
        draw_changes,
    ),
    columns={
        "test_accuracy": "test",
        "train_eval_accuracy": "training images",
        "steps_to_25": "steps to 25 % error",
    },
    measure=measure,
)
