"""Chapter 5: depth pays, up to a point."""

from cv_jax.course import networks
from cv_jax.course.chapter import Chapter, Picture, Runs, Study, Trial, by_seed
from cv_jax.course.figures import curves, error
from cv_jax.course.verdict import Verdict, difference, less, more

STUDY = Study("vgg_depth", "vgg_depth.py", {"digits": "digits", "cifar10": "cifar10,epochs=8"})
FILTERS = (1, 2, 4, 8, 12)
SHALLOW, MIDDLE, DEEP = 1, 4, 12


def verdict(trials: list[Trial]) -> Verdict:
    """Test and training accuracies of three depths."""

    def of(metric, filters):
        return by_seed(trials, metric, filters=filters)

    checks = (
        more(
            "depth pays",
            f"test accuracy of {MIDDLE} filters a stage minus {SHALLOW}",
            difference(of("test_accuracy", MIDDLE), of("test_accuracy", SHALLOW)),
            0.0,
            "points",
        ),
        less(
            "beyond some depth it no longer pays",
            f"test accuracy of {DEEP} filters a stage minus {MIDDLE}",
            difference(of("test_accuracy", DEEP), of("test_accuracy", MIDDLE)),
            0.0,
            "points",
        ),
        less(
            "there the training images are learnt worse as well",
            f"accuracy on the training images of {DEEP} filters a stage minus {MIDDLE}",
            difference(of("train_eval_accuracy", DEEP), of("train_eval_accuracy", MIDDLE)),
            0.0,
            "points",
        ),
    )
    return Verdict(checks)


def draw_fields(runs: Runs) -> Picture:
    """Effective fields of a net of middle depth."""
    path = runs.path("vgg_depth", filters=MIDDLE)
    return networks.picture(path, "receptive-field", "What the units of each layer see")


def draw_errors(runs: Runs) -> Picture:
    """Errors over depth."""
    names = {"test_accuracy": "test images", "train_eval_accuracy": "training images"}
    values = {
        name: [error(by_seed(runs.trials, metric, filters=n)) for n in FILTERS]
        for metric, name in names.items()
    }
    drawn = curves("VGG without shortcuts", FILTERS, values, "filters a stage", "error, %")
    return Picture("Error over depth", "Three stages with as many filters each.", drawn)


VGG = Chapter(
    name="vgg",
    title="Depth pays, up to a point",
    claim="Deeper VGGs are better, up to a depth beyond which they get worse.",
    background="Simonyan and Zisserman (2014) stop at 19 layers, where the error on ImageNet stops "
    "falling. The next chapter asks why.",
    findings={
        "digits": "Up to four filters a stage the nets learn about equally well. With eight and "
        "twelve the seeds differ by tens of points, and most nets fail on their training images as "
        "well: what fails is the optimisation, as in the next chapter. Three seeds are too few for "
        "an interval."
    },
    studies=(STUDY,),
    verdict=verdict,
    pictures=(
        draw_fields,
        draw_errors,
    ),
    columns={"test_accuracy": "test", "train_eval_accuracy": "training images"},
)
