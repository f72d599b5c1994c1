"""Every analysis on every kind of network: pictures with numbers, or one reason."""

import functools
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure
from slow import slow_except
from small_nets import with_weights

from cv_jax import models
from cv_jax.inspect.look import ANALYSES, DoesNotApply, Subject

sys.path.append(str(Path(__file__).resolve().parent.parent / "models"))
from small_models import SMALL

IMAGE_MODELS = [key for key, small in SMALL.items() if small.name != "transformer_base"]
CLASSIFIERS = [k for k in IMAGE_MODELS if "num_classes" in models.fields(SMALL[k].name)]
ATTENTION = ("vit", "vit_mean", "vit_map", "deit_distilled", "mae", "image_transformer", "swin")
PATCHES = (*ATTENTION, "swinv2")

# Analysis → networks to which it does not apply; the other networks give pictures.
EXCLUDED = {
    "filters": ("linear", "mlp"),
    "embedding": [k for k in IMAGE_MODELS if k not in PATCHES],
    # The positions of a masked autoencoder and of the small map-pooled ViT are fixed.
    "positions": [k for k in IMAGE_MODELS if k not in ATTENTION or k in ("mae", "vit_map")],
    "attention": [k for k in IMAGE_MODELS if k not in PATCHES],
    "rollout": [k for k in IMAGE_MODELS if k not in PATCHES or k not in CLASSIFIERS],
    "reconstruction": [k for k in IMAGE_MODELS if k != "mae"],
    "receptive-field": ("linear", "mlp"),
    "layers": [k for k in IMAGE_MODELS if k not in CLASSIFIERS],
    "saliency": [k for k in IMAGE_MODELS if k not in CLASSIFIERS],
    "cka": [k for k in IMAGE_MODELS if k not in CLASSIFIERS],
    "neighbours": (),
    "projection": (),
    "errors": [k for k in IMAGE_MODELS if k not in CLASSIFIERS],
}
LIGHT = ("filters", "embedding", "positions", "attention", "reconstruction", "cka", "errors")
# Variants of another network in the list; the slower analyses leave them out.
VARIANTS = (
    *("alexnet_one_stream", "vgg11", "vgg11_lrn", "vgg16_c", "resnet50", "resnet50_v1", "resnext"),
    *("plain18", "plain8_cifar", "lenet5_1998", "vit_mean", "vit_map", "deit_distilled", "swinv2"),
)
QUICK = ("mlp", "lenet5", "alexnet", "resnet18", "vit", "swin")


@functools.cache
def subject_of(key):
    small = SMALL[key]
    model = models.create(small.name, **small.fields)
    # As many images as masks of RISE and squares of occlusion: one program for all.
    count = 4
    inputs = small.inputs(count) if small.inputs else (None,)
    images = jax.random.normal(jax.random.key(1), (count, *small.image))
    others = tuple(inputs[1:])
    if key == "mae":
        others = (jax.random.uniform(jax.random.key(2), (count, 16)),)
    variables = with_weights(model, images[:1], *(x[:1] for x in others))
    pixels = np.uint8(127 + 40 * np.clip(np.asarray(images), -3, 3))
    labels = np.arange(count) % 5

    def split():
        yield {"inputs": (images, *others), "pixels": pixels, "label": labels}

    return Subject(
        model=model,
        variables=variables,
        images=images,
        pixels=pixels,
        names=tuple(f"image {i}" for i in range(count)),
        labels=labels,
        class_names=("a", "b", "c", "d", "<e>"),
        others=others,
        to_pixels=lambda x: 127 + 40 * x,
        initial=lambda: variables,
        checkpoints=lambda: iter([(1, variables), (2, variables)]),
        split=split,
        options={
            "projections": ("pca",),
            "rise": {"masks": count},
            "integrated_gradients": {"steps": 2},
            "smoothgrad": {"samples": 2},
            "occlusion": dict.fromkeys(("window", "stride"), -(-small.image[0] // 2)),
        },
    )


@pytest.mark.parametrize("key", slow_except(IMAGE_MODELS, *QUICK))
@pytest.mark.parametrize("name", LIGHT)
def test_analysis(name, key):
    check(name, key)


@pytest.mark.slow
@pytest.mark.parametrize("key", [key for key in IMAGE_MODELS if key not in VARIANTS])
@pytest.mark.parametrize("name", [name for name in ANALYSES if name not in LIGHT])
def test_slower_analysis(name, key):
    check(name, key)


@pytest.mark.parametrize("name", [name for name in ANALYSES if name not in LIGHT])
def test_one_network_of_each_slower_analysis(name):
    check(name, "vit" if name == "rollout" else "lenet5")


def check(name, key):
    subject = subject_of(key)
    if key in EXCLUDED[name]:
        with pytest.raises(DoesNotApply) as reason:
            ANALYSES[name](subject)
        assert "\n" not in str(reason.value)
        return
    findings = ANALYSES[name](subject)
    assert findings
    for finding in findings:
        assert isinstance(finding.figure, Figure)
        assert "\n" not in finding.text
        assert len({tuple(row) for row in finding.rows}) == 1
        width, height = finding.figure.get_size_inches() * finding.figure.dpi
        panels = len(finding.figure.axes)
        assert width * height / panels >= 300**2 * 0.5
        finding.figure.set_dpi(30)  # drawing at full size takes most of the time
        finding.figure.canvas.draw()


def test_every_analysis_is_in_the_table():
    assert set(EXCLUDED) == set(ANALYSES)
