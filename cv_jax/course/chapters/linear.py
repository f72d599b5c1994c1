"""Chapter 1: a linear classifier has one template for each class."""

from pathlib import Path

import numpy as np

from cv_jax.course import networks
from cv_jax.course.chapter import Chapter, Picture, Runs, Study, Trial, by_seed
from cv_jax.course.figures import bars, percent
from cv_jax.course.verdict import Verdict, difference, less, more
from cv_jax.inspect import templates

STUDY = Study(
    "crops",
    "augmentation.py",
    {"digits": "digits", "cifar10": "cifar10,epochs=10"},
    sweep="crops",
)
SIMILAR, LOST, HELP = 0.2, 0.2, 0.1  # cosine; shares of the test images


def measure(study: str, path: Path) -> dict[str, float]:
    """Cosine of every template with the average of its own class, and of the other classes."""
    if networks.config_of(path).model.name != "linear":
        return {}
    found, _ = networks.class_templates(path)
    cosines = templates.correlations(found)
    others = ~np.eye(len(cosines), dtype=bool)
    return {
        "own_cosine": float(np.diag(cosines).mean()),
        "other_cosine": float(cosines[others].mean()),
    }


def verdict(trials: list[Trial]) -> Verdict:
    """Templates are like averages; moved images are lost; who can use augmentation."""

    def of(metric, net, policy="none"):
        return by_seed(trials, metric, net=net, policy=policy)

    def gain(net):
        metric = "shifted_accuracy"
        return difference(of(metric, net, "flip_crop"), of(metric, net))

    test = of("test_accuracy", "linear")
    half = {seed: value / 2 for seed, value in gain("resnet").items()}
    checks = [
        more(
            "a template looks like the average image of its own class",
            "cosine with the own average minus mean cosine with the other averages",
            difference(of("own_cosine", "linear"), of("other_cosine", "linear")),
            SIMILAR,
        )
    ]
    checks += [
        more(
            f"the linear classifier fails on {moved} images",
            f"accuracy on the test images minus accuracy on {moved} ones",
            difference(test, of(f"{moved}_accuracy", "linear")),
            LOST,
            "points",
        )
        for moved in ("shifted", "mirrored")
    ]
    checks += [
        more(
            f"random crops help {name} on shifted images",
            "accuracy on shifted images with crops minus without",
            gain(net),
            HELP,
            "points",
        )
        for net, name in (("resnet", "a residual net"), ("vit", "a ViT"))
    ]
    checks.append(
        less(
            "random crops help the linear classifier less than half as much as the residual net",
            "its gain on shifted images minus half the gain of the residual net",
            difference(gain("linear"), half),
            0.0,
            "points",
        )
    )
    return Verdict(tuple(checks))


def draw_templates(runs: Runs) -> Picture:
    """The templates beside the class averages."""
    found, names = networks.class_templates(runs.path("crops", net="linear", policy="none"))
    text = (
        "Above: the average image of each class. Middle: how it differs from the average of all "
        "classes. Below: the weights of the class as an image; red speaks for the class, blue "
        "against it."
    )
    return Picture("What a linear classifier has learnt", text, templates.figure(found, names))


def draw_shifted(runs: Runs) -> Picture:
    """Accuracy on shifted images."""
    shifted = {
        f"{net}, {'crops' if policy == 'flip_crop' else 'none'}": percent(
            by_seed(runs.trials, "shifted_accuracy", net=net, policy=policy)
        )
        for net in ("linear", "resnet", "vit")
        for policy in ("none", "flip_crop")
    }
    return Picture(
        "Accuracy on shifted test images",
        "Trained without augmentation, and on randomly cropped and mirrored images.",
        bars("Shifted by an eighth of the side", shifted, "accuracy, %"),
    )


LINEAR = Chapter(
    name="linear",
    title="One template a class",
    claim="A linear classifier compares an image with one template a class, which looks like the "
    "average of the class; it fails on moved images, and augmentation cannot help it, while it "
    "helps nets with more than one template.",
    background="A score of a linear classifier is the inner product of the image with one image of "
    "weights. Whatever moves the pixels moves them away from the weights. Random crops in the "
    "training ask one template to fit all positions at once, which only blurs it.",
    findings={
        "digits": "Random crops raise the accuracy on shifted images by 9 points for the linear "
        "classifier, and by 53 and 47 for the nets with hidden layers; on the original images they "
        "cost all three something. Mirrored images are two positions instead of all, and one "
        "template serves both."
    },
    studies=(STUDY,),
    verdict=verdict,
    pictures=(
        draw_templates,
        draw_shifted,
    ),
    columns={
        "test_accuracy": "test",
        "shifted_accuracy": "shifted",
        "mirrored_accuracy": "mirrored",
        "own_cosine": "cosine, own average",
        "other_cosine": "other averages",
    },
    measure=measure,
)
