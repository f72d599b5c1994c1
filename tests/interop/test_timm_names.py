"""timm's names, compared with the arguments of timm's own constructors."""

import json
import pathlib

import pytest

from cv_jax import interop, models
from cv_jax.errors import InputError
from cv_jax.interop import timm_arguments, timm_export

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "timm_names.json"
NAMES = json.loads(GOLDEN.read_text())


def known() -> dict[str, tuple[str, dict]]:
    tables = [family.references for family in interop.FAMILIES if family.source == "timm"]
    return {name: entry for table in tables for name, entry in table.items()}


@pytest.mark.parametrize("name", known())
def test_fields_are_the_arguments_of_timm(name):
    model, fields = interop.reference("timm", name)
    golden = NAMES[name]
    arguments = {k: v for k, v in golden["arguments"].items() if k not in ("block", "model_cfg")}
    for unread in ("conv_layer", "norm_layer", "bottle_ratio", "basic"):
        if golden["class"] in ("ResNetV2", "VGG"):
            arguments.pop(unread, None)
    if golden["class"] == "ResNetV2":
        arguments.pop("channels", None)
    keys = ["fc_norm.weight"] if golden.get("fc_norm") else []
    found, notes = timm_arguments.fields(model, fields, arguments, keys, None)
    defaults = models.fields(model)
    assert {**defaults, **found} == {**defaults, **fields}
    assert not notes
    if golden["class"] == "ResNet":
        basic = "BasicBlock" in golden["arguments"]["block"]
        assert basic == ({**defaults, **fields}["block"] == "basic")
    if golden["class"].startswith("VisionTransformer"):
        assert golden["class"].endswith("Distilled") == defaults["distilled"]
        for field, argument in (
            ("width", "embed_dim"),
            ("depth", "depth"),
            ("num_heads", "num_heads"),
            ("patch_size", "patch_size"),
        ):
            assert {**defaults, **fields}[field] == arguments[argument]


def test_every_name_with_known_arguments_is_known():
    """Names that differ in nothing but fields of the models here are all in the tables."""
    vit = {"patch_size", "embed_dim", "depth", "num_heads", "class_token", "global_pool", "fc_norm"}
    vit |= {"init_values", "reg_tokens", "no_embed_class", "mlp_ratio", "act_layer"}
    resnet = {"block", "layers", "cardinality", "base_width"}
    allowed = {"VisionTransformer": vit, "VisionTransformerDistilled": vit, "ResNet": resnet}
    missing = [
        name
        for name, facts in NAMES.items()
        if facts["arguments"].keys() <= allowed.get(facts["class"], set())
        and facts["arguments"].get("act_layer", "gelu") in ("gelu", "gelu_tanh")
        and name not in known()
    ]
    # Attention pooling here reads the registers, too.
    assert missing == ["vit_so150m_patch16_reg4_map_256"]


def test_a_tag_of_the_weights_is_no_part_of_the_name():
    assert interop.reference("timm", "resnet50.fb_ssl_yfcc100m_ft_in1k") == ("resnet50", {})
    with pytest.raises(InputError, match="'convnext_tiny.in12k'; the nearest known are "):
        interop.reference("timm", "convnext_tiny.in12k")


@pytest.mark.parametrize("name", known())
def test_an_export_names_the_same_network(name):
    model, fields = interop.reference("timm", name)
    exported, arguments = timm_export.architecture(model, fields, (224, 224))
    again, known_fields = interop.reference("timm", exported)
    assert again == model
    assert arguments == {}
    defaults = models.fields(model)
    assert {**defaults, **known_fields} == {**defaults, **fields} or "layer_scale" in fields
