"""Chapter 2: convolution against full connection."""

from cv_jax.course import networks
from cv_jax.course.chapter import Chapter, Picture, Runs, Study, Trial, by_seed
from cv_jax.course.figures import bars, percent
from cv_jax.course.verdict import Verdict, difference, less, more

STUDY = Study(
    "convolution",
    "convolution.py",
    {"digits": "digits", "cifar10": "cifar10,epochs=10"},
    seeds=5,
)
MARGIN = 0.01  # what counts as no advantage, as a share of the test images
RIVALS = {"mlp_parameters": "parameters", "mlp_multiply_adds": "multiply-adds"}


def verdict(trials: list[Trial]) -> Verdict:
    """LeNet-5 minus a fully connected net, on pixels in order, moved, and in random order."""

    def lead(rival, pixels):
        first, second = (
            by_seed(trials, "test_accuracy", net=net, pixels=pixels) for net in ("lenet5", rival)
        )
        return difference(first, second)

    checks = [
        more(
            f"LeNet-5 is better than a fully connected net of equal {what}",
            "difference of the test accuracies",
            lead(rival, "in_order"),
            0.0,
            "points",
        )
        for rival, what in RIVALS.items()
    ]
    checks += [
        more(
            f"on moved images it is better at equal {what}",
            "difference of the test accuracies on moved images",
            lead(rival, "moved"),
            0.0,
            "points",
        )
        for rival, what in RIVALS.items()
    ]
    checks += [
        less(
            f"on shuffled pixels it is not better at equal {what}",
            "difference of the test accuracies on shuffled pixels",
            lead(rival, "shuffled"),
            MARGIN,
            "points",
        )
        for rival, what in RIVALS.items()
    ]
    return Verdict(tuple(checks))


def draw_filters(runs: Runs) -> Picture:
    """First-layer filters."""
    path = runs.path("convolution", net="lenet5", pixels="in_order")
    return networks.picture(path, "filters", "The first filters of LeNet-5")


def draw_accuracies(runs: Runs) -> Picture:
    """Test accuracies."""
    found = {
        f"{net.replace('_', ' ')}, {pixels.replace('_', ' ')}": percent(
            by_seed(runs.trials, "test_accuracy", net=net, pixels=pixels)
        )
        for pixels in ("in_order", "moved", "shuffled")
        for net in ("lenet5", *RIVALS)
    }
    return Picture(
        "Test accuracy with pixels in order, moved and shuffled",
        "Moved: the objects are at random places. Shuffled: the pixels of all images are moved by "
        "one random permutation.",
        bars("LeNet-5 and fully connected nets", found, "test accuracy, %"),
    )


CONVOLUTION = Chapter(
    name="convolution",
    title="Convolution",
    claim="Convolution beats full connection with a fraction of the weights, because neighbouring "
    "pixels belong together, wherever they are: on pixels in a random order the advantage "
    "vanishes.",
    background="LeCun et al. (1998) share the weights of small filters between all places of the "
    "image. That is a bet on neighbourhoods and on sameness of places. A fixed permutation of the "
    "pixels takes both away and keeps all information.",
    findings={
        "digits": "The digits have 8×8 pixels and are enlarged four times, so a filter of 5×5 sees "
        "little more than one original pixel: there are hardly neighbourhoods to learn from. On "
        "shuffled pixels LeNet-5 loses nothing either. On moved images all nets lose, and the "
        "larger fully connected net loses least. On CIFAR-10 LeNet-5 is ahead of an MLP of thirty "
        "times its parameters (see the page of experiments)."
    },
    studies=(STUDY,),
    verdict=verdict,
    pictures=(
        draw_filters,
        draw_accuracies,
    ),
    columns={"test_accuracy": "test", "train_eval_accuracy": "training images"},
)
