"""Chapter 10: masked pre-training when labels are few."""

from cv_jax.course import networks
from cv_jax.course.chapter import Chapter, Picture, Runs, Study, Trial, by_seed
from cv_jax.course.figures import curves, percent
from cv_jax.course.verdict import Verdict, difference, more

PRETRAIN = Study(
    "mae_pretrain",
    "masking.py",
    {"digits": "digits,epochs=20", "cifar10": "cifar10,epochs=20"},
    sweep="pretrain",
    seeds=1,
)
_FROM = "pretrained={out}/mae_pretrain"
FINETUNE = Study(
    "mae",
    "masking.py",
    {"digits": f"digits,{_FROM}", "cifar10": f"cifar10,{_FROM}"},
    needs=("mae_pretrain",),
)
RATIOS = (0.0, 0.25, 0.5, 0.75, 0.9)
PAPER = 0.75
HELP = 0.05  # a gain of test accuracy that counts


def verdict(trials: list[Trial]) -> Verdict:
    """Fine-tuning against training from scratch, and masking ratios against each other."""

    def of(ratio):
        return by_seed(trials, "test_accuracy", "mae", ratio=ratio)

    metric = "difference of the test accuracies after fine-tuning"
    checks = [
        more(
            "masked pre-training helps when labels are few",
            "test accuracy after pre-training minus from scratch, equal fine-tuning",
            difference(of(PAPER), of(0.0)),
            HELP,
            "points",
        )
    ]
    for other in (0.25, 0.5, 0.9):
        statement = f"masking three quarters is better than masking {other:.0%}"
        checks.append(more(statement, metric, difference(of(PAPER), of(other)), 0.0, "points"))
    return Verdict(tuple(checks))


def draw_reconstructions(runs: Runs) -> Picture:
    """Masked images and what the net makes of them."""
    path = runs.path("mae_pretrain", ratio=PAPER)
    return networks.picture(path, "reconstruction", "What the net makes of a quarter of an image")


def draw_ratios(runs: Runs) -> Picture:
    """Accuracy over the masking ratio."""
    found = [by_seed(runs.trials, "test_accuracy", "mae", ratio=ratio) for ratio in RATIOS]
    drawn = curves(
        "Few labels",
        RATIOS,
        {"fine-tuned": [percent(own) for own in found]},
        "share of masked patches (0: from scratch)",
        "test accuracy, %",
    )
    text = "All seeds of a ratio start from the same pre-trained net."
    return Picture("Accuracy over the masking ratio", text, drawn)


MASKING = Chapter(
    name="masking",
    title="Masked pre-training",
    claim="When labels are few, pre-training on masked images without labels helps, most of all "
    "with three quarters of the patches masked.",
    background="He et al. (2022): images are redundant, so a task that cannot be solved by copying "
    "neighbours needs a high masking ratio. All fine-tuned nets start from one pre-trained net for "
    "each ratio; the seeds differ in fine-tuning only.",
    findings={
        "digits": "Every ratio is far better than no pre-training, and the mean accuracy rises "
        "with the ratio up to three quarters; from there on three seeds cannot tell the ratios "
        "apart. A higher ratio is also cheaper, because the encoder sees the remaining patches "
        "only."
    },
    studies=(PRETRAIN, FINETUNE),
    verdict=verdict,
    pictures=(
        draw_reconstructions,
        draw_ratios,
    ),
    columns={"test_accuracy": "test", "test_loss": "loss"},
)
