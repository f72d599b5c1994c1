"""The chapters of the course, in order."""

from cv_jax.course.chapter import Chapter
from cv_jax.course.chapters.alexnet import ALEXNET
from cv_jax.course.chapters.attention import ATTENTION
from cv_jax.course.chapters.convolution import CONVOLUTION
from cv_jax.course.chapters.degradation import DEGRADATION
from cv_jax.course.chapters.deit import DEIT
from cv_jax.course.chapters.line import LINE
from cv_jax.course.chapters.linear import LINEAR
from cv_jax.course.chapters.masking import MASKING
from cv_jax.course.chapters.receptive_field import RECEPTIVE_FIELD
from cv_jax.course.chapters.swin import SWIN
from cv_jax.course.chapters.vgg import VGG
from cv_jax.course.chapters.vit import VIT

CHAPTERS: tuple[Chapter, ...] = (
    LINEAR,
    CONVOLUTION,
    ALEXNET,
    RECEPTIVE_FIELD,
    VGG,
    DEGRADATION,
    ATTENTION,
    VIT,
    DEIT,
    MASKING,
    SWIN,
    LINE,
)
DATASETS = ("digits", "cifar10")
