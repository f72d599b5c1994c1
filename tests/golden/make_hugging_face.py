"""Writes hugging_face.json: python tests/golden/make_hugging_face.py

Needs torch and transformers (`pip install "cv_jax[parity]"`); the tests do not. For each case the
script saves a small network of transformers by `save_pretrained` with the weights of `recipe.py`,
and stores its `config.json`, the keys and shapes of the saved file, the names of the arrays in
memory, and the logits or features of the recipe's images, computed in float64.
"""

import json
import pathlib
import sys
import tempfile
import types

# As in make.py: torchvision, which transformers imports, does not load with a CPU build of torch.
sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("unused"))

import numpy as np  # noqa: E402
import recipe  # noqa: E402
import torch  # noqa: E402
import transformers as hf  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from transformers.models.vit_mae import modeling_vit_mae  # noqa: E402

FILE = pathlib.Path(__file__).parent / "hugging_face.json"
SIZE = 32
ENCODER = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
VIT = dict(image_size=SIZE, patch_size=8, intermediate_size=40, **ENCODER)
DINO = dict(image_size=SIZE, patch_size=8, **ENCODER)
DECODER = dict(
    decoder_hidden_size=24,
    decoder_num_hidden_layers=1,
    decoder_num_attention_heads=3,
    decoder_intermediate_size=60,
)
SWIN = dict(image_size=SIZE, embed_dim=8, depths=[1, 2], num_heads=[1, 2], window_size=4)
RESNET = dict(embedding_size=64, hidden_sizes=[16, 32], depths=[1, 2])
CLASSES = dict(id2label={0: "cat", 1: "dog", 2: "eel"})
CASES = {
    "vit": (hf.ViTForImageClassification, hf.ViTConfig(**VIT, **CLASSES)),
    "vit-gelu_new": (
        hf.ViTForImageClassification,
        hf.ViTConfig(**VIT, **CLASSES, hidden_act="gelu_new", layer_norm_eps=0.03),
    ),
    "vit-base": (hf.ViTModel, hf.ViTConfig(**VIT)),
    "deit": (hf.DeiTForImageClassification, hf.DeiTConfig(**VIT, num_labels=3)),
    "deit-teacher": (
        hf.DeiTForImageClassificationWithTeacher,
        hf.DeiTConfig(**VIT, **CLASSES),
    ),
    "mae": (hf.ViTMAEForPreTraining, hf.ViTMAEConfig(**VIT, **DECODER)),
    "mae-base": (hf.ViTMAEModel, hf.ViTMAEConfig(**VIT, mask_ratio=0.0)),
    "dinov2": (hf.Dinov2ForImageClassification, hf.Dinov2Config(**DINO, **CLASSES)),
    "dinov2-base": (hf.Dinov2Model, hf.Dinov2Config(**DINO)),
    "dinov2-registers": (
        hf.Dinov2WithRegistersForImageClassification,
        hf.Dinov2WithRegistersConfig(**DINO, **CLASSES, num_register_tokens=2),
    ),
    "swin": (hf.SwinForImageClassification, hf.SwinConfig(**SWIN, **CLASSES)),
    "swin-padded": (
        hf.SwinForImageClassification,
        hf.SwinConfig(**{**SWIN, "image_size": 56}, **CLASSES),
    ),
    "swinv2": (
        hf.Swinv2ForImageClassification,
        hf.Swinv2Config(**SWIN, **CLASSES, pretrained_window_sizes=[6, 3, 0, 0]),
    ),
    "resnet": (
        hf.ResNetForImageClassification,
        hf.ResNetConfig(**RESNET, **CLASSES, layer_type="basic"),
    ),
    "resnet-bottleneck": (hf.ResNetForImageClassification, hf.ResNetConfig(**RESNET, **CLASSES)),
    "resnet-v1": (
        hf.ResNetForImageClassification,
        hf.ResNetConfig(**RESNET, **CLASSES, downsample_in_bottleneck=True),
    ),
}


def mae_positions(width: int) -> torch.Tensor:
    """Return the positions of the published weights: columns first."""
    side = SIZE // VIT["patch_size"]
    table = modeling_vit_mae.build_2d_sinusoidal_position_embedding(
        height=side, width=side, embed_dim=width, cls_token=True
    )
    rows, columns = table.chunk(2, dim=1)
    return torch.cat([columns, rows], dim=1)[None]


def features(network, name: str, image: torch.Tensor) -> torch.Tensor:
    """Return the logits, a base model's class token, or four patches of a masked autoencoder."""
    if name == "mae":
        patches = (SIZE // VIT["patch_size"]) ** 2
        noise = torch.from_numpy(recipe.draw("noise", (len(image), patches)))
        return network(image, noise=noise).logits[:, :4]
    if name == "mae-base":  # keeps all patches, in the order of the noise
        return network(image, noise=torch.arange(16.0)[None]).last_hidden_state[:, 0]
    output = network(image)
    return output.last_hidden_state[:, 0] if name.endswith("base") else output.logits


def make(name: str, kind, config) -> dict:
    network = kind(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(folder)
        with safe_open(f"{folder}/model.safetensors", "numpy") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        weights = {key: torch.from_numpy(x) for key, x in recipe.state_dict(shapes).items()}
        if name == "mae":
            for key in ("vit.embeddings.position_embeddings", "decoder.decoder_pos_embed"):
                weights[key] = mae_positions(shapes[key][-1])
        save_file(weights, f"{folder}/model.safetensors", {"format": "pt"})
        network = kind.from_pretrained(folder).double().eval()
        facts = json.loads(pathlib.Path(folder, "config.json").read_text())
    side = getattr(config, "image_size", SIZE)
    image = recipe.images(1, (side, side))
    image = torch.from_numpy(np.moveaxis(image, -1, 1).astype(np.float64))
    with torch.inference_mode():
        output = features(network, name, image).numpy().astype(np.float32)
    print(name, output.shape, flush=True)
    return {
        "config": facts,
        "shapes": shapes,
        "in_memory": list(network.state_dict()),
        "output": output.tolist(),
    }


if __name__ == "__main__":
    cases = {name: make(name, *case) for name, case in CASES.items()}
    lines = (f"{json.dumps(name)}: {json.dumps(case)}" for name, case in cases.items())
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(FILE.name, FILE.stat().st_size, "bytes")
