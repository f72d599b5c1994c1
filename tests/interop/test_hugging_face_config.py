"""Files of transformers: preprocessing, networks without a counterpart, weights under prefixes."""

import json
import pathlib

import numpy as np
import pytest
from safetensors.numpy import save_file

from cv_jax import __main__
from cv_jax.errors import InputError
from cv_jax.interop import hugging_face_config, place, preprocessing, saved
from cv_jax.interop.vision_transformer import mae_positions
from cv_jax.models import create

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "hugging_face.json"
CASES = json.loads(GOLDEN.read_text())
HALF = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)


def write(folder, name, prefix="", processor=None, **more):
    """Write a small folder of transformers with arbitrary weights."""
    case = CASES[name]
    (folder / "config.json").write_text(json.dumps({**case["config"], **more}))
    arrays = {prefix + k: np.ones(shape, np.float32) for k, shape in case["shapes"].items()}
    save_file(arrays, folder / "model.safetensors")
    if processor:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return str(folder)


# Files of published weights, and the transform of their image processor. The transforms were
# compared with the processors of transformers 5: pixels differ by at most one level.
@pytest.mark.parametrize(
    ("facts", "text"),
    [
        # google/vit-base-patch16-224, before and after transformers 4.27.
        (dict(size=224, resample=2, do_resize=True), "resize(224, 'bilinear')"),
        (
            dict(size=dict(height=224, width=224), resample=2, rescale_factor=0.00392156862745098),
            "resize(224, 'bilinear')",
        ),
        (dict(size=dict(height=48, width=64), resample=3), "resize((48, 64), 'bicubic')"),
        # facebook/deit-base-distilled-patch16-224.
        (
            dict(size=256, crop_size=224, do_center_crop=True, resample=3),
            "resize(256, 'bicubic')|central_crop(224)",
        ),
        # facebook/dinov2-base.
        (
            dict(
                image_processor_type="BitImageProcessor",
                size=dict(shortest_edge=256),
                crop_size=dict(height=224, width=224),
                do_center_crop=True,
                resample=3,
            ),
            "resize_small(256, 'bicubic')|central_crop(224)",
        ),
        # microsoft/resnet-50.
        (
            dict(
                feature_extractor_type="ConvNextFeatureExtractor",
                size=224,
                crop_pct=0.875,
                resample=3,
            ),
            "resize_small(256, 'bicubic')|central_crop(224)",
        ),
        (
            dict(
                image_processor_type="ConvNextImageProcessor",
                size=dict(shortest_edge=384),
                resample=3,
            ),
            "resize(384, 'bicubic')",
        ),
        (dict(size=224, do_resize=False), None),
        (dict(size=224, resample=4), None),  # Pillow's box filter
    ],
)
def test_preprocessing(facts, text):
    found, size = hugging_face_config._preprocessing({**HALF, **facts})
    assert (found["mean"], found["std"]) == ([0.5] * 3, [0.5] * 3)
    assert preprocessing.from_timm(found, size) == text


@pytest.mark.parametrize(
    ("facts", "mean", "std"),
    [
        (dict(HALF, do_normalize=False), [0.0], [1.0]),
        (dict(image_mean=[1.0], image_std=[1.0], rescale_factor=1 / 127.5), [0.5], [0.5]),
        (dict(image_mean=[51.0], image_std=[102.0], do_rescale=False), [0.2], [0.4]),
    ],
)
def test_mean_and_std_are_of_pixels_from_0_to_1(facts, mean, std):
    found, _ = hugging_face_config._preprocessing(facts)
    np.testing.assert_allclose([found["mean"], found["std"]], [mean, std], rtol=1e-9)


def test_a_folder_with_its_preprocessing(tmp_path):
    processor = dict(HALF, size=dict(height=40, width=40), resample=3)
    notes = []
    weights = place.read(write(tmp_path, "vit", processor=processor), notes.append)
    assert weights.class_names == ("cat", "dog", "eel")
    assert weights.preprocessing["mean"] == [0.5] * 3
    assert weights.evaluation == {"eval_preprocess": "resize(32, 'bicubic')"}
    assert notes == [
        "preprocessor_config.json prepares images of 40x40, config.json describes a network for "
        "32x32, which is used"
    ]


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("vit", dict(model_type="beit"), "no cv_jax model corresponds to the model_type 'beit'"),
        ("vit", dict(qkv_bias=False), "qkv_bias=False, but models here have True"),
        ("vit", dict(hidden_act="mish"), "hidden_act='mish', which no model here has"),
        ("vit", dict(patch_size=[8, 4]), "patch_size=[8, 4]; patches must be square"),
        ("vit", dict(image_size="large"), "cannot read the config.json"),
        ("vit", dict(num_hidden_layers="2"), "the depth in config.json: "),
        ("vit", dict(hidden_size=0), "cannot read the config.json"),
        ("vit", dict(hidden_size=None), "cannot read the config.json"),
        ("swin", dict(depths=3), "cannot read the config.json"),
        ("resnet", dict(hidden_sizes="wide"), "cannot read the config.json"),
        ("dinov2", dict(use_swiglu_ffn=True), "use_swiglu_ffn=True, but models here have False"),
        ("swin", dict(use_absolute_embeddings=True), "use_absolute_embeddings=True, but models"),
        ("swin", dict(layer_norm_eps=1e-6), "layer_norm_eps=1e-06, but models here have 1e-05"),
        ("resnet", dict(downsample_in_first_stage=True), "downsample_in_first_stage=True, but"),
        ("mae", dict(decoder_intermediate_size=24), "MLPs 1 times as wide as the tokens in the"),
        ("mae", {}, "position_embeddings has other values than the model's fixed table"),
        ("vit", dict(num_hidden_layers=3), "the weights do not fit vit_ti8 in the layout of trans"),
    ],
)
def test_networks_without_a_counterpart(tmp_path, name, more, message):
    with pytest.raises(InputError) as error:
        place.read(write(tmp_path, name, **more), print)
    assert message in str(error.value)
    assert str(tmp_path) in str(error.value).splitlines()[0] or "do not fit" in str(error.value)


def test_a_wrapped_file_is_converted(tmp_path, capsys):
    """The prefixes of a training script come before those of transformers."""
    folder = write(tmp_path, "deit-teacher", prefix="module._orig_mod.model.")
    dest = tmp_path / "ours.safetensors"
    assert __main__.main(["convert", folder, str(dest), "--num-classes", "2"]) == 0
    assert "classifier of 3 classes dropped" in capsys.readouterr().out
    weights = saved.read(dest)
    assert (weights.model, weights.fields["num_classes"]) == ("deit_ti16_distilled", 2)
    # There is no layout of transformers to write; timm's has other norms.
    assert __main__.main(["convert", str(dest), str(tmp_path / "f"), "--to", "transformers"]) == 2
    assert "invalid choice: 'transformers'" in capsys.readouterr().err


def test_the_encoder_alone_keeps_its_positions(tmp_path):
    """A masked autoencoder without decoder is a ViT with the positions of the file."""
    weights = place.read(write(tmp_path, "mae-base"), [].append)
    assert weights.model == "vit_ti8"
    assert weights.variables["params"]["pos_embed"].shape == (1, 17, 16)


def test_positions_of_a_masked_autoencoder(tmp_path):
    """The published table is accepted: columns first."""
    folder = pathlib.Path(write(tmp_path, "mae"))
    fields = dict(width=16, depth=2, num_heads=2, patch_size=8, image_size=32, mlp_ratio=2.5)
    decoder = dict(decoder_width=24, decoder_depth=1, decoder_num_heads=3)
    tables = mae_positions(create("mae_vit_b16", **fields, **decoder))
    arrays = {k: np.ones(shape, np.float32) for k, shape in CASES["mae"]["shapes"].items()}
    names = ("vit.embeddings.position_embeddings", "decoder.decoder_pos_embed")
    arrays.update(zip(names, map(np.float32, tables), strict=True))
    save_file(arrays, folder / "model.safetensors")
    weights = place.read(str(folder), [].append)
    assert weights.model == "mae_vit_b16"
    assert weights.fields["decoder_width"] == 24
