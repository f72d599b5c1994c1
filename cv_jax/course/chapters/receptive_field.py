"""Chapter 4: receptive fields, and three 3×3 filters against one of 7×7."""

from pathlib import Path

from cv_jax.course import networks
from cv_jax.course.chapter import Chapter, Picture, Runs, Study, Trial, by_seed
from cv_jax.course.figures import bars, percent
from cv_jax.course.verdict import Verdict, difference, less, more
from cv_jax.inspect import effective_field, receptive_field

LENGTH = {"digits": "digits", "cifar10": "cifar10,epochs=6"}
FILTERS = Study("filters", "receptive_field.py", LENGTH)
FIELD = Study("field", "receptive_field.py", LENGTH, sweep="field")
ORDER = ("one_1x1", "one_3x3", "two_3x3", "three_3x3")


def measure(study: str, path: Path) -> dict[str, float]:
    """Side of the field of the last convolution: in theory, before and after the training."""
    net = networks.opened(path)
    images = networks.subject(path, networks.IMAGES).images
    name = f"conv{len(net.model.depths)}_{net.model.depths[-1]}"
    size = images.shape[1:3]
    theory = {x.name: x for x in receptive_field.layers(net.model, (images[:1],), size)}[name]
    sides = [
        effective_field.effective_fields(net.model, variables, images, names=(name,))[0].size[0]
        for variables in (networks.initial_variables(path), net.weights.variables)
    ]
    return {
        "theoretical_field": float((theory.size or size)[0]),
        "initial_field": sides[0],
        "effective_field": sides[1],
    }


def verdict(trials: list[Trial]) -> Verdict:
    """Fields over depth and training; equal field and equal parameters."""

    def of(metric, net, study="field"):
        return by_seed(trials, metric, study, net=net)

    deep = "three_3x3"
    seven, narrow = (of("test_accuracy", n, "filters") for n in ("one_7x7", "one_7x7_narrow"))
    three = of("test_accuracy", deep, "filters")
    effective = of("effective_field", deep)
    checks = (
        more(
            "the effective field grows with depth",
            "side for three minus side for one 3×3 filter, trained",
            difference(effective, of("effective_field", "one_3x3")),
            0.0,
            "pixels",
        ),
        more(
            "the effective field grows with training",
            "side after minus before the training, three 3×3 filters",
            difference(effective, of("initial_field", deep)),
            0.0,
            "pixels",
        ),
        less(
            "the effective field is smaller than the theoretical one",
            "effective minus theoretical side, three 3×3 filters",
            difference(effective, of("theoretical_field", deep)),
            0.0,
            "pixels",
        ),
        more(
            "a net that sees more is better",
            "test accuracy of three 3×3 filters minus one 1×1 filter",
            difference(of("test_accuracy", deep), of("test_accuracy", "one_1x1")),
            0.0,
            "points",
        ),
        more(
            "three 3×3 filters are better than one 7×7 filter at equal field",
            "difference of the test accuracies at equal width, 1.8 times the weights for 7×7",
            difference(three, seven),
            0.0,
            "points",
        ),
        more(
            "three 3×3 filters are better at equal parameters",
            "difference of the test accuracies",
            difference(three, narrow),
            0.0,
            "points",
        ),
    )
    return Verdict(checks)


def draw_fields(runs: Runs) -> Picture:
    """Effective fields beside the theoretical ones."""
    path = runs.path("field", net="three_3x3")
    return networks.picture(path, "receptive-field", "What a unit sees")


def draw_growth(runs: Runs) -> Picture:
    """Effective fields before and after the training."""
    path, title = runs.path("field", net="three_3x3"), "What a unit sees before and after training"
    name = "effective_field_growth"
    return networks.picture(path, "receptive-field", title, name=name, initial=True)


def draw_accuracies(runs: Runs) -> Picture:
    """Accuracy over fields."""
    found = {
        net.replace("_", " "): percent(by_seed(runs.trials, "test_accuracy", "field", net=net))
        for net in ORDER
    }
    return Picture(
        "Accuracy over the receptive field",
        "Filters of the second stage, from the smallest field to the largest.",
        bars("Test accuracy", found, "test accuracy, %"),
    )


RECEPTIVE_FIELD = Chapter(
    name="receptive_field",
    title="Receptive fields",
    claim="The receptive field grows with depth and, in effect, with training; three 3×3 filters "
    "see as far as one of 7×7 and are better with fewer weights.",
    background="Simonyan and Zisserman (2014): three filters of 3×3 have 27 weights for each pair "
    "of channels, one of 7×7 has 49, and three activations in place of one. Luo et al. (2016): "
    "the pixels that matter are fewer than those that could.",
    findings={
        "digits": "The images have 16 pixels, and their edges clip the fields: before the training "
        "the effective field of the deepest feature already has three quarters of the side, and "
        "the training changes it by less than a pixel. Three filters of 3×3 and one of 7×7 all fit "
        "their 200 training images, and they differ by less than the seeds do; 7×7 needs 1.7 times "
        "the parameters for that."
    },
    studies=(FILTERS, FIELD),
    verdict=verdict,
    pictures=(
        draw_fields,
        draw_growth,
        draw_accuracies,
    ),
    columns={
        "test_accuracy": "test",
        "train_eval_accuracy": "training images",
        "theoretical_field": "field, pixels",
        "initial_field": "effective, initial",
        "effective_field": "effective, trained",
    },
    measure=measure,
)
