"""Chapter 10: masked pre-training when labels are few."""

from cv_jax.course import networks
from cv_jax.course.chapter import Chapter, Picture, Runs, Study, Trial, by_seed
from cv_jax.course.figures import curves, percent
from cv_jax.course.verdict import Check, Verdict, difference, more

PRETRAIN = Study(
    "mae_pretrain",
    "masking.py",
    {"digits": "digits", "cifar10": "cifar10"},
    sweep="pretrain",
)
_FROM = "pretrained={out}/mae_pretrain"
CLASSIFY = Study(
    "mae",
    "masking.py",
    {"digits": f"digits,{_FROM}", "cifar10": f"cifar10,{_FROM}"},
    needs=("mae_pretrain",),
)
RATIOS = (0.25, 0.5, 0.75, 0.9)
PAPER = 0.75
HELP = 0.05  # a gain of test accuracy that counts


def verdict(trials: list[Trial]) -> Verdict:
    """Pre-training against its controls, and masking ratios against each other."""
    numbers = sorted({t.values["labels"] for t in trials if "labels" in t.values}) or [None]
    return Verdict(tuple(check for labels in numbers for check in _checks(trials, labels)))


def _checks(trials: list[Trial], labels: int | None) -> list[Check]:
    """The checks of one number of labelled images a class; `None` if all trials have the same."""
    words = "" if labels is None else f" with {labels} labels a class"
    measured = "difference of the test accuracies"

    def of(stage, ratio=0.0, metric="test_accuracy"):
        return _values(trials, stage, ratio, labels, metric)

    paper = of("finetune", PAPER)
    probe = of("probe", PAPER, "mean_accuracy")
    controls = (
        ("fine-tuning beats as many steps from scratch", paper, of("finetune"), HELP),
        ("fine-tuning beats as much computation from scratch", paper, of("longer"), 0.0),
        (
            "the frozen features are better than random ones",
            probe,
            of("probe", metric="mean_accuracy"),
            HELP,
        ),
        (
            "the frozen features are better than the pixels",
            probe,
            of("pixels", metric="pixels_accuracy"),
            0.0,
        ),
        *(
            (
                f"masking three quarters is better than masking {other:.0%}",
                paper,
                of("finetune", other),
                0.0,
            )
            for other in (0.25, 0.5, 0.9)
        ),
    )
    return [
        more(statement + words, measured, difference(own, control), threshold, "points")
        for statement, own, control, threshold in controls
    ]


def _values(trials, stage, ratio, labels, metric="test_accuracy"):
    own = {} if labels is None else {"labels": labels}
    return by_seed(trials, metric, "mae", stage=stage, ratio=ratio, **own)


def draw_reconstructions(runs: Runs) -> Picture:
    """Masked images and what the net makes of them."""
    path = runs.path("mae_pretrain", ratio=PAPER)
    return networks.picture(path, "reconstruction", "What the net makes of a quarter of an image")


def draw_ratios(runs: Runs) -> Picture:
    """Accuracy over the masking ratio, and the controls as level lines."""
    numbers = {t.values.get("labels") for t in runs.trials if t.study == "mae"}
    labels = min(numbers - {None}, default=None)

    def line(stage, metric="test_accuracy", ratios=RATIOS):
        return [percent(_values(runs.trials, stage, r, labels, metric)) for r in ratios]

    level = (0.0,) * len(RATIOS)
    drawn = curves(
        "Few labels",
        RATIOS,
        {
            "fine-tuned": line("finetune"),
            "probe, mean of the tokens": line("probe", "mean_accuracy"),
            "from scratch, as many steps": line("finetune", ratios=level),
            "from scratch, as much computation": line("longer", ratios=level),
            "probe of the pixels": line("pixels", "pixels_accuracy", level),
        },
        "share of masked patches",
        "test accuracy, %",
    )
    few = "" if labels is None else f", with {labels} labelled images of each class"
    text = f"Each seed has its own pre-trained net and labelled images{few}."
    return Picture("Accuracy over the masking ratio", text, drawn)


MASKING = Chapter(
    name="masking",
    title="Masked pre-training",
    claim="When labels are few, pre-training on masked images without labels helps, most of all "
    "with three quarters of the patches masked.",
    background="He et al. (2022): images are redundant, so a task that cannot be solved by copying "
    "neighbours needs a high masking ratio. The controls are training from scratch with as many "
    "steps and with as many multiply-adds, and logistic regression on random features and on "
    "pixels.",
    findings={
        "digits": "Pre-training is worth more than the computation that it costs. The frozen "
        "features are far better than random ones, but worse than the pixels: the digits are "
        "centred, so a pixel means much the same in every image. Fine-tuning uses what the "
        "features do not show in a linear form. The ratios differ by less than the seeds do; a "
        "higher ratio is cheaper, because the encoder reads the remaining patches only."
    },
    studies=(PRETRAIN, CLASSIFY),
    verdict=verdict,
    pictures=(
        draw_reconstructions,
        draw_ratios,
    ),
    columns={
        "test_accuracy": "test",
        "token_accuracy": "probe, class token",
        "mean_accuracy": "probe, mean",
        "pixels_accuracy": "probe, pixels",
        "test_loss": "loss",
    },
)
