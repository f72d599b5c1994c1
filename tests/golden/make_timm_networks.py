"""Writes timm_networks.json: python tests/golden/make_timm_networks.py

Needs torch and timm; the tests do not. Every case is a small network of timm whose constructor got
arguments. The file has its `config.json` as `save_for_hf` writes it, the shapes of its arrays, and
its logits for the images and weights of `recipe.py`, computed in float64.
"""

import json
import pathlib
import sys
import tempfile
import types
import warnings

# torchvision's compiled operators do not load with a CPU build of torch; networks need none.
sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("unused"))

import numpy as np  # noqa: E402
import recipe  # noqa: E402
import timm  # noqa: E402
import torch  # noqa: E402
from timm.models._hub import save_config_for_hf  # noqa: E402

VIT = (
    "vit_tiny_patch16_224",
    dict(img_size=(16, 32), patch_size=8, embed_dim=12, depth=1, num_heads=3, num_classes=5),
)
SWIN = (
    "swin_tiny_patch4_window7_224",
    dict(img_size=(32, 48), embed_dim=8, depths=(1, 2), num_heads=(2, 4), window_size=4),
)
SWIN_2 = ("swinv2_tiny_window8_256", SWIN[1])
RESNET = ("resnet50", dict(layers=(1, 1, 1, 1), channels=(4, 8, 8, 8), num_classes=5))
PREACT = ("resnetv2_50", dict(layers=(1, 1, 1, 1), num_classes=5))
PLAIN = ("resnet18", RESNET[1])


def case(network, **arguments):
    name, usual = network
    return name, {**usual, **arguments}


CASES = {
    **{
        f"vit-{pool}-fc_norm={norm}": case(VIT, global_pool=pool, fc_norm=norm)
        for pool in ("avg", "max", "avgmax")
        for norm in (False, True)
    },
    "vit-token-fc_norm": case(VIT, fc_norm=True),
    "vit-avg-without-token": case(VIT, global_pool="avg", class_token=False, no_embed_class=True),
    "vit-map": case(VIT, global_pool="map", class_token=False, mlp_ratio=3),
    "vit-map-of-all": case(VIT, global_pool="map", reg_tokens=2, pool_include_prefix=True),
    "vit-registers": case(VIT, reg_tokens=2, qk_norm=True),
    "vit-registers-without-positions": case(VIT, reg_tokens=2, no_embed_class=True),
    "vit-layer-scale": case(VIT, init_values=0.1, act_layer="gelu_tanh"),
    "vit-quick-gelu": case(VIT, act_layer="quick_gelu", norm_layer="layernorm"),
    "vit-silu": case(VIT, act_layer="silu", dynamic_img_size=True),
    "vit-backbone": case(VIT, num_classes=0),
    "vit-one-channel": case(VIT, in_chans=1),
    "deit-distilled": case(("deit_tiny_distilled_patch16_224", VIT[1])),
    "gap": case(("vit_base_patch16_gap_224", VIT[1]), num_heads=2),
    "deit3": case(("deit3_small_patch16_224", VIT[1])),
    **{
        f"resnet-{pool}": case(RESNET, global_pool=pool)
        for pool in ("avg", "max", "avgmax", "catavgmax")
    },
    "resnet-groups": case(RESNET, cardinality=2, base_width=32, drop_path_rate=0.1),
    "resnet18-max": case(PLAIN, global_pool="max", zero_init_last=False, stem_width=32),
    **{f"preact-{pool}": case(PREACT, global_pool=pool) for pool in ("max", "catavgmax")},
    **{
        f"swin-{pool}": case(SWIN, global_pool=pool, num_classes=5)
        for pool in ("max", "avgmax", "catavgmax")
    },
    "swin-windows": case(SWIN, window_size=(3, 3), mlp_ratio=2.0, num_classes=5),
    "swin-patches": case(SWIN, patch_size=8, num_classes=0),
    "swin2-pretrained": case(SWIN_2, pretrained_window_sizes=(6, 3), num_classes=5),
}


def shapes_of(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {
        key: tuple(value.shape)
        for key, value in network.state_dict().items()
        if not recipe.CONSTANTS.fullmatch(key)
    }


def make(name: str, arguments: dict) -> dict:
    network = timm.create_model(name, **arguments).double().eval()
    shapes = shapes_of(network)
    weights = {key: torch.from_numpy(x) for key, x in recipe.state_dict(shapes).items()}
    missing, unexpected = network.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(recipe.CONSTANTS.fullmatch(key) for key in missing)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "config.json"
        save_config_for_hf(network, path, model_args=arguments)
        config = json.loads(path.read_text())
    size = arguments.get("img_size", (64, 96))
    image = recipe.images(2, size, arguments.get("in_chans", 3))
    image = torch.from_numpy(np.moveaxis(image, -1, 1).astype(np.float64))
    with torch.inference_mode():
        logits = network(image).float()
    facts = {"config": config, "image_size": size, "shapes": shapes, "logits": logits.tolist()}
    return json.loads(json.dumps(facts))


def main():
    warnings.simplefilter("ignore")
    path = pathlib.Path(__file__).parent / "timm_networks.json"
    lines = [f"{json.dumps(k)}: {json.dumps(make(*given))}" for k, given in CASES.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(path.name, len(CASES), "cases", path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
