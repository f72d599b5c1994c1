"""Chapter 9: what augmentation and a teacher bring to a small ViT."""

from cv_jax.course import networks
from cv_jax.course.chapter import Chapter, Picture, Runs, Study, Trial, by_seed
from cv_jax.course.figures import bars, percent
from cv_jax.course.verdict import Verdict, difference, more

TEACHER = Study(
    "deit_teacher",
    "teachers.py",
    {"digits": "digits,net=teacher", "cifar10": "cifar10,net=teacher"},
    sweep="teacher",
    seeds=1,
)
_TAUGHT = "teacher={out}/deit_teacher/seed=0"
STUDENTS = Study(
    "deit",
    "teachers.py",
    {"digits": f"digits,{_TAUGHT}", "cifar10": f"cifar10,{_TAUGHT},epochs=10"},
    needs=("deit_teacher",),
)
NAMES = {
    "plain": "plain",
    "augmented": "augmentation",
    "taught": "teacher",
    "augmented_and_taught": "both",
}


def verdict(trials: list[Trial]) -> Verdict:
    """Differences of test accuracies between students."""

    def of(net):
        return by_seed(trials, "test_accuracy", "deit", net=net)

    metric = "difference of the test accuracies"
    checks = (
        more(
            "augmentation helps a small ViT",
            metric,
            difference(of("augmented"), of("plain")),
            0.0,
            "points",
        ),
        more(
            "a convolutional teacher helps it",
            metric,
            difference(of("taught"), of("plain")),
            0.0,
            "points",
        ),
        more(
            "a teacher helps beyond augmentation",
            metric,
            difference(of("augmented_and_taught"), of("augmented")),
            0.0,
            "points",
        ),
    )
    return Verdict(checks)


def draw_maps(runs: Runs) -> Picture:
    """Where one of the students looks."""
    path = runs.path("deit", net="augmented_and_taught")
    title = "Where a taught student looks"
    return networks.picture(path, "attention", title, name="attention_maps")


def draw_accuracies(runs: Runs) -> Picture:
    """Accuracies of the students."""
    found = {
        name: percent(by_seed(runs.trials, "test_accuracy", "deit", net=net))
        for net, name in NAMES.items()
    }
    return Picture(
        "Students",
        "The same ViT with and without augmentation, with and without a teacher.",
        bars("Test accuracy of the students", found, "test accuracy, %"),
    )


DEIT = Chapter(
    name="deit",
    title="Augmentation and a teacher",
    claim="With few images, augmentation and a convolutional teacher each make a ViT better, and "
    "they add up.",
    background="Touvron et al. (2021) train a ViT on ImageNet alone. A second token learns the "
    "predictions of a convolutional net and, with them, some of what convolution has built in. The "
    "teacher here has seen all training images.",
    findings={
        "digits": "The plain student fits its 200 images, whose labels it knows: there the teacher "
        "tells it nothing new. Random crops bring seven points. Together with them the teacher "
        "also labels the crops, and the mean is highest, by less than the seeds differ."
    },
    studies=(TEACHER, STUDENTS),
    verdict=verdict,
    pictures=(
        draw_maps,
        draw_accuracies,
    ),
    columns={"test_accuracy": "test"},
)
