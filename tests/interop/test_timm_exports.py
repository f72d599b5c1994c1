"""Folders for timm, loaded by timm's documented calls: logits of an image file, transform included.

Needs `pip install -e ".[parity]"`; test_hub_folder.py checks the written values without timm.
"""

import sys
import types

import jax
import numpy as np
import pytest

# As in tests/golden/make.py: torchvision does not load with a CPU build of torch.
sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("unused"))
timm = pytest.importorskip("timm", reason='needs timm: pip install -e ".[parity]"')
torch = pytest.importorskip("torch")

from PIL import Image  # noqa: E402

from cv_jax import models  # noqa: E402
from cv_jax.augment import apply_host  # noqa: E402
from cv_jax.evaluation import plan  # noqa: E402
from cv_jax.interop import hub_folder, place, saved  # noqa: E402

pytestmark = pytest.mark.slow

SMALL_VIT = dict(width=32, depth=2, num_heads=2)
SMALL_SWIN = dict(width=16, depths=(1, 2), num_heads=(1, 2))
CENTRE = "resize_small(72, 'bicubic')|central_crop(64)"
CASES = {
    "vgg": ("vgg11_bn", {}, (64, 64), 3, CENTRE),
    "resnet18": ("resnet18", {}, (64, 64), 3, CENTRE),
    "resnet18-grey": ("resnet18", dict(pool="max"), (64, 64), 1, CENTRE),
    "resnext": ("resnet50", dict(groups=32, width_per_group=4), (64, 96), 3, "resize((64, 96))"),
    "resnet-variant": ("resnet18", dict(stage_sizes=(1, 1, 1, 2)), (64, 64), 3, CENTRE),
    "preact": ("resnet50_preact", {}, (64, 64), 3, "resize_small(64, 'lanczos')|central_crop(64)"),
    "preact-basic": ("resnet50_preact", dict(block="basic"), (64, 64), 3, CENTRE),
    "vit": ("vit_ti16", {}, (48, 80), 3, "resize((54, 90), 'bicubic')|central_crop((48, 80))"),
    "vit-default": ("vit_ti16", dict(drop_path_rate=0.1), (64, 64), 3, ""),
    "vit-small": ("vit_ti16", dict(**SMALL_VIT, patch_size=8), (64, 64), 3, CENTRE),
    "vit-scan": ("vit_ti16", dict(**SMALL_VIT, scan_layers=True), (64, 64), 3, CENTRE),
    "vit-mean": ("vit_ti16", dict(**SMALL_VIT, pool="mean"), (64, 64), 1, CENTRE),
    "vit-mean-norm": ("vit_s16", dict(depth=1, pool="mean", fc_norm=True), (64, 64), 3, CENTRE),
    "vit-mean-token": ("vit_s16", dict(depth=1, pool="mean", class_token=True), (64,) * 2, 3, ""),
    "vit-map": ("vit_ti16", dict(**SMALL_VIT, pool="map", registers=2), (64, 64), 3, CENTRE),
    "vit-registers": ("vit_s16", dict(depth=2, registers=3, qk_norm=True), (64, 64), 3, CENTRE),
    "dinov2": (
        "vit_s14",
        dict(depth=2, layer_scale=0.3, registers=4, pos_embed_prefix=False),
        (56, 56),
        3,
        "resize_small(64, 'bicubic')|central_crop(56)",
    ),
    "deit": ("deit_ti16", {}, (64, 64), 3, CENTRE),
    "deit-distilled": ("deit_ti16_distilled", {}, (64, 64), 3, CENTRE),
    "swin": ("swin_t", {}, (64, 64), 3, CENTRE),
    "swin-variant": ("swin_t", dict(**SMALL_SWIN, window_size=4), (72, 88), 3, "resize((72, 88))"),
    "swin-pad": ("swin_t", dict(**SMALL_SWIN, window_size=4, window_rule="pad"), (64,) * 2, 3, ""),
    "swinv2": ("swinv2_t", {}, (64, 64), 3, CENTRE),
    "swinv2-pretrained": (
        "swinv2_t",
        dict(**SMALL_SWIN, window_size=4, pretrained_windows=(6, 3)),
        (64, 64),
        3,
        CENTRE,
    ),
}


def random_weights(name, fields, size, channels, text, classes=5):
    """Return weights in which every array is random."""
    fields = {**fields, "num_classes": classes}
    sized = {"image_size": size} if "image_size" in models.fields(name) else {}
    model = models.create(name, **sized, **fields)
    image = np.zeros((1, *size, channels), np.float32)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)

    def draw(path, x):
        last = path[-1].key
        if last in ("scale", "var"):
            return rng.uniform(0.8, 1.2, x.shape).astype(np.float32)
        deviation = 0.1 if x.ndim < 2 else (2 / np.prod(x.shape[:-1])) ** 0.5
        return rng.normal(0, deviation, x.shape).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    facts = {"mean": [0.4] if channels == 1 else [0.4, 0.5, 0.6], "std": [0.25]}
    names = tuple(f"class {i}" for i in range(classes))
    evaluation = {"eval_preprocess": text}
    return saved.Saved(
        variables, name, fields, size, channels, "", "", facts, "0", names, evaluation
    ), model


@pytest.fixture(scope="module")
def image_file(tmp_path_factory):
    """A photograph-like image: smooth, with noise."""
    rng = np.random.default_rng(1)
    rough = Image.fromarray(rng.integers(0, 256, (9, 11, 3), np.uint8))
    image = np.asarray(rough.resize((131, 97), Image.Resampling.BICUBIC)).astype(int)
    image = (image + rng.integers(-9, 10, image.shape)).clip(0, 255).astype(np.uint8)
    path = tmp_path_factory.mktemp("image") / "image.png"
    Image.fromarray(image).save(path)
    return path


@pytest.mark.parametrize("case", CASES)
def test_timm_gives_the_same_logits_for_an_image_file(case, image_file, tmp_path):
    name, fields, size, channels, text = CASES[case]
    weights, model = random_weights(name, fields, size, channels, text)
    notes = []
    hub_folder.write(tmp_path / "f", weights, "timm", notes.append)
    assert not notes

    network = timm.create_model(f"local-dir:{tmp_path / 'f'}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(network)
    transform = timm.data.create_transform(**config)
    assert tuple(network.pretrained_cfg["label_names"]) == weights.class_names
    image = Image.open(image_file).convert("RGB" if channels == 3 else "L")
    with torch.inference_mode():
        theirs = network(transform(image)[None]).numpy()

    operations = plan.preprocessing(text, size, "config.eval_preprocess")
    pixels = np.asarray(image).reshape(*image.size[::-1], channels)
    pixels = np.asarray(apply_host(operations.fixed, None, pixels)) / np.float32(255)
    pixels = (pixels - np.float32(weights.preprocessing["mean"])) / np.float32(0.25)
    ours = np.asarray(model.apply(weights.variables, pixels[None], train=False)[0])
    assert theirs.shape == ours.shape == (1, 5)
    # Pillow 13 resizes the axes in another order, which moves a few pixels by one level.
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=0.02 * np.abs(ours).max())

    exact = torch.from_numpy(np.moveaxis(pixels, -1, 0)[None])
    with torch.inference_mode():
        theirs = network(exact).numpy()
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=2e-5 * np.abs(ours).max())

    back = place.read(str(tmp_path / "f"), notes.append)
    assert (back.image_size, back.channels) == (weights.image_size, weights.channels)
    assert back.class_names == weights.class_names
    sized = {"image_size": size} if "image_size" in models.fields(back.model) else {}
    again = models.create(back.model, **{**back.fields, **sized})
    np.testing.assert_allclose(
        again.apply(back.variables, pixels[None])[0], ours, rtol=0, atol=1e-5 * np.abs(ours).max()
    )
