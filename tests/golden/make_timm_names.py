"""Writes timm_names.json: python tests/golden/make_timm_names.py

Needs torch and timm (`pip install "cv_jax[parity]"`); the tests do not. For each name in timm's
modules of ViT, DeiT, ResNet, VGG and Swin the script stores the class of the network, the arguments
of its constructor, and whether a norm follows the pooling. Arguments that are no JSON values are
stored as text.
"""

import json
import pathlib
import sys
import types
import unittest.mock

# As in make.py: torchvision does not load with a CPU build of torch.
sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("unused"))

import timm  # noqa: E402
import torch  # noqa: E402

FILE = pathlib.Path(__file__).parent / "timm_names.json"
MODULES = ("vision_transformer", "deit", "resnet", "resnetv2", "vgg")
MODULES += ("swin_transformer", "swin_transformer_v2")
UNUSED = ("pretrained_filter_fn", "feature_cfg", "pretrained_strict", "img_size")


def plain(value):
    """Return a JSON value, or the text of another object."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, int | float | str | None) else str(value)


def describe(name: str, module) -> dict:
    calls = []

    def build(kind, variant, pretrained, **arguments):
        calls.append((kind, arguments))

    with unittest.mock.patch.object(module, "build_model_with_cfg", build):
        timm.models.model_entrypoint(name)()
    kind, arguments = calls[0]
    facts = {"class": kind.__name__}
    facts["arguments"] = {k: plain(v) for k, v in arguments.items() if k not in UNUSED}
    if kind.__name__ == "VisionTransformer":
        with torch.device("meta"):
            facts["fc_norm"] = "fc_norm.weight" in timm.create_model(name).state_dict()
    return facts


if __name__ == "__main__":
    names = {
        name: describe(name, sys.modules[f"timm.models.{module}"])
        for module in MODULES
        for name in timm.list_models(module=module)
    }
    lines = (f"{json.dumps(name)}: {json.dumps(facts)}" for name, facts in names.items())
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(FILE.name, len(names), "names", FILE.stat().st_size, "bytes")
