"""Chapter 8: Vision Transformers need data, and positions."""

from cv_jax.course import networks
from cv_jax.course.chapter import Chapter, Picture, Runs, Study, Trial, by_seed
from cv_jax.course.figures import curves, percent
from cv_jax.course.verdict import Check, Verdict, difference, less, more

STEPS = {"digits": "digits", "cifar10": "cifar10,steps=2000"}
DATA = Study("data", "vit_data.py", STEPS)
PARTS = Study("parts", "vit_data.py", STEPS, sweep="parts")
PATCHES = Study("patches", "vit_data.py", STEPS, sweep="patches")
SHARES = (1.0, 10.0, 100.0)
MARGIN = 0.02  # a difference of test accuracies that counts


def verdict(trials: list[Trial]) -> Verdict:
    """Accuracy over the number of images, positions, pooling, and patch sizes."""
    return Verdict((*_data(trials), *_parts(trials), *_patches(trials)))


def _data(trials: list[Trial]) -> list[Check]:
    def of(net, percent, crops):
        return by_seed(trials, "test_accuracy", "data", net=net, percent=percent, crops=crops)

    def lead(percent):
        return difference(of("resnet", percent, "no"), of("vit", percent, "no"))

    def gain(net):
        return difference(of(net, 10.0, "yes"), of(net, 10.0, "no"))

    return [
        more(
            "with a tenth of the images a ResNet is better than a ViT",
            "ResNet minus ViT, test accuracy",
            lead(10.0),
            MARGIN,
            "points",
        ),
        less(
            "with all images the lead of the ResNet is smaller",
            "lead with all images minus lead with a tenth",
            difference(lead(100.0), lead(10.0)),
            0.0,
            "points",
        ),
        less(
            "with all images the curves have crossed",
            "ResNet minus ViT, test accuracy with all images",
            lead(100.0),
            0.0,
            "points",
        ),
        more(
            "random crops help the ViT more than the ResNet",
            "gain of the ViT minus gain of the ResNet, a tenth of the images",
            difference(gain("vit"), gain("resnet")),
            0.0,
            "points",
        ),
    ]


def _parts(trials: list[Trial]) -> list[Check]:
    def of(positions, pool):
        return by_seed(trials, "test_accuracy", "parts", positions=positions, pool=pool)

    whole = of("learned", "cls")
    return [
        more(
            "position embeddings are needed",
            "test accuracy with learned positions minus without",
            difference(whole, of("none", "cls")),
            MARGIN,
            "points",
        ),
        more(
            "the mean of the patches is no worse than a class token",
            "test accuracy of the mean minus the class token",
            difference(of("learned", "mean"), whole),
            -MARGIN,
            "points",
        ),
    ]


def _patches(trials: list[Trial]) -> list[Check]:
    def of(patch, budget):
        return by_seed(trials, "test_accuracy", "patches", patch=patch, budget=budget)

    small = of(4, "updates")
    return [
        more(
            "with equal updates patches of 4 are better than patches of 8",
            "difference of the test accuracies",
            difference(small, of(8, "updates")),
            0.0,
            "points",
        ),
        more(
            "with equal compute patches of 4 are still better than patches of 8",
            "patches of 4 minus patches of 8 with as many multiply-adds",
            difference(small, of(8, "compute")),
            0.0,
            "points",
        ),
    ]


def draw_positions(runs: Runs) -> Picture:
    """Position embeddings."""
    path = runs.path("parts", positions="learned", pool="cls")
    return networks.picture(path, "positions", "What the position embeddings have learnt")


def draw_data(runs: Runs) -> Picture:
    """Accuracy over the share of the images."""
    lines = {
        f"{name}{', crops' if crops == 'yes' else ''}": [
            percent(
                by_seed(runs.trials, "test_accuracy", "data", net=net, percent=share, crops=crops)
            )
            for share in SHARES
        ]
        for crops in ("no", "yes")
        for net, name in (("vit", "ViT"), ("resnet", "ResNet"))
    }
    drawn = curves(
        "Equal numbers of updates",
        SHARES,
        lines,
        "share of the training images, %",
        "test accuracy, %",
        logarithmic=True,
    )
    return Picture(
        "Accuracy over the number of training images",
        "All nets make the same number of updates; only the number of different images grows.",
        drawn,
    )


VIT = Chapter(
    name="vit",
    title="Vision Transformers need data",
    claim="A ViT needs more images or more augmentation than a ResNet, and catches up with enough "
    "of them; it needs position embeddings, and smaller patches pay for their cost.",
    background="Dosovitskiy et al. (2021): a ViT knows nothing of neighbourhoods before the "
    "training and must learn from data what a convolution has built in. Their curves cross "
    "between one and hundreds of millions of images.",
    findings={
        "digits": "The lead of the ResNet shrinks from 14 points with a tenth of the images to 2 "
        "with all of them; digits are too few for the curves to cross. Random crops bring the ViT "
        "more on average, but its seeds differ. A patch of 8 is a quarter of a digit of 16 pixels "
        "and costs less, so small patches do not pay here; on CIFAR-10 they do (see the page of "
        "experiments). Without positions the ViT still reaches nine tenths: the patches themselves "
        "tell much about the digit."
    },
    studies=(DATA, PARTS, PATCHES),
    verdict=verdict,
    pictures=(
        draw_positions,
        draw_data,
    ),
    columns={"test_accuracy": "test", "train_accuracy": "last training batches"},
)
