"""Writes the golden files of attention models: python tests/golden/make_attention.py [CASE]

Needs torch and timm and, for MAE, transformers; the tests need none of them. In float64, with the
weights of `recipe.py`:

  transformer-<variant>   `torch.nn.Transformer` on embedded tokens, with causal and padding masks:
                          logits, and the summary of every parameter's gradient
  <size of MAE>           `transformers.ViTMAEForPreTraining` with given noise and weights under
                          the official code's names: prediction, mask, both losses, and the
                          gradients of the normalised loss
  <case of ADAPTED>       weights that timm's own loaders fit to another size or convert from
                          another layout: logits
"""

import json
import math
import pathlib
import sys
import tempfile
import types

# As in make.py: torchvision, which transformers imports, does not load with a CPU build of torch.
sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("unused"))

import numpy as np  # noqa: E402
import recipe  # noqa: E402
import timm  # noqa: E402
import torch  # noqa: E402
from attention_cases import (  # noqa: E402
    ADAPTED,
    MAE,
    PAD,
    SOURCE,
    TARGET,
    TARGET_MASK,
    TRANSFORMER,
    VOCAB,
    Adapted,
    mae_noise,
    npz_weights,
    official_swin,
)

FOLDER = pathlib.Path(__file__).parent


def dump(name: str, value):
    path = FOLDER / name
    lines = (f"{json.dumps(key)}: {json.dumps(entry)}" for key, entry in value.items())
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(name, path.stat().st_size, "bytes", flush=True)


def save(name: str, **arrays):
    np.savez_compressed(FOLDER / name, **arrays)
    print(name, (FOLDER / name).stat().st_size, "bytes", flush=True)


def embed(matrix: torch.Tensor, tokens: np.ndarray) -> torch.Tensor:
    """Return rows times sqrt(width) plus sinusoids, as in the paper."""
    width = matrix.shape[1]
    positions = torch.zeros(tokens.shape[1], width, dtype=torch.float64)
    for position in range(tokens.shape[1]):
        for i in range(0, width, 2):
            angle = position / 10000 ** (i / width)
            positions[position, i] = math.sin(angle)
            positions[position, i + 1] = math.cos(angle)
    return matrix[torch.from_numpy(tokens)] * math.sqrt(width) + positions


def make_transformer(final_norm: bool):
    network = torch.nn.Transformer(**TRANSFORMER, dropout=0.0, batch_first=True).double()
    if not final_norm:
        network.encoder.norm = network.decoder.norm = None
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    weights = recipe.state_dict(shapes)
    network.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    matrix = torch.from_numpy(recipe.draw("embedding", (VOCAB, TRANSFORMER["d_model"])))
    matrix = (matrix.double() * 0.3).float().double().requires_grad_()
    hidden = torch.from_numpy(SOURCE == PAD)
    output = network(
        embed(matrix, SOURCE),
        embed(matrix, TARGET),
        tgt_mask=torch.ones(TARGET.shape[1], TARGET.shape[1], dtype=torch.bool).triu(1),
        src_key_padding_mask=hidden,
        memory_key_padding_mask=hidden,
        tgt_key_padding_mask=torch.from_numpy(~TARGET_MASK),
    )
    logits = output @ matrix.T
    cotangent = recipe.draw("cotangent", tuple(logits.shape)).astype(np.float64)
    (logits * torch.from_numpy(cotangent)).sum().backward()
    gradients = {key: x.grad for key, x in network.named_parameters()}
    gradients["embedding"] = matrix.grad
    variant = "final_norm" if final_norm else "paper"
    dump(f"shapes/transformer-{variant}.json", shapes)
    save(f"logits/transformer-{variant}.npz", logits=logits.detach().numpy().astype(np.float32))
    summaries = {key: recipe.summary(key, g.numpy()).tolist() for key, g in gradients.items()}
    dump(f"gradients/transformer-{variant}.json", summaries)


def official_shapes(sizes: dict) -> recipe.Shapes:
    """Return keys and shapes of the official MAE, without positions."""
    width, patch = sizes["hidden_size"], sizes["patch_size"]
    shapes = {"cls_token": (1, 1, width), "patch_embed.proj.weight": (width, 3, patch, patch)}
    shapes["patch_embed.proj.bias"] = (width,)

    def linear(key, inputs, outputs):
        shapes[f"{key}.weight"], shapes[f"{key}.bias"] = (outputs, inputs), (outputs,)

    def norm(key, width):
        shapes[f"{key}.weight"] = shapes[f"{key}.bias"] = (width,)

    def blocks(key, count, width, hidden):
        for i in range(count):
            norm(f"{key}.{i}.norm1", width)
            linear(f"{key}.{i}.attn.qkv", width, 3 * width)
            linear(f"{key}.{i}.attn.proj", width, width)
            norm(f"{key}.{i}.norm2", width)
            linear(f"{key}.{i}.mlp.fc1", width, hidden)
            linear(f"{key}.{i}.mlp.fc2", hidden, width)

    blocks("blocks", sizes["num_hidden_layers"], width, sizes["intermediate_size"])
    norm("norm", width)
    decoder = sizes["decoder_hidden_size"]
    linear("decoder_embed", width, decoder)
    shapes["mask_token"] = (1, 1, decoder)
    depth, hidden = sizes["decoder_num_hidden_layers"], sizes["decoder_intermediate_size"]
    blocks("decoder_blocks", depth, decoder, hidden)
    norm("decoder_norm", decoder)
    linear("decoder_pred", decoder, 3 * patch**2)
    return shapes


def transformers_names(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename official arrays as in transformers; queries, keys and values are separate."""
    renamed = {}
    for key, x in weights.items():
        for old, new in (
            ("decoder_blocks.", "decoder.decoder_layers."),
            ("decoder_", "decoder.decoder_"),
            ("mask_token", "decoder.mask_token"),
            ("blocks.", "vit.layers."),
            ("norm.", "vit.layernorm."),
            ("cls_token", "vit.embeddings.cls_token"),
            ("patch_embed.proj", "vit.embeddings.patch_embeddings.projection"),
        ):
            if key.startswith(old):
                key = new + key[len(old) :]
                break
        key = key.replace("norm1.", "layernorm_before.").replace("norm2.", "layernorm_after.")
        key = key.replace("attn.proj.", "attention.o_proj.")
        if "attn.qkv." in key:
            for letter, part in zip("qkv", np.split(x, 3), strict=True):
                renamed[key.replace("attn.qkv.", f"attention.{letter}_proj.")] = part
        else:
            renamed[key] = x
    return renamed


def make_mae(name: str, sizes: dict):
    from transformers import ViTMAEConfig, ViTMAEForPreTraining
    from transformers.models.vit_mae import modeling_vit_mae

    def positions(width: str) -> torch.Tensor:
        """Return transformers' table with the halves for rows and columns exchanged."""
        side = sizes["image_size"] // sizes["patch_size"]
        table = modeling_vit_mae.build_2d_sinusoidal_position_embedding(
            height=side, width=side, embed_dim=sizes[width], cls_token=True
        )
        rows, columns = table.chunk(2, dim=1)
        return torch.cat([columns, rows], dim=1)[None]

    shapes, noise = official_shapes(sizes), mae_noise(name)
    arrays = {}
    for normalize in (False, True):
        config = ViTMAEConfig(**sizes, layer_norm_eps=1e-6, norm_pix_loss=normalize)
        network = ViTMAEForPreTraining(config).double().eval()
        weights = transformers_names(recipe.state_dict(shapes))
        weights = {key: torch.from_numpy(value) for key, value in weights.items()}
        weights["vit.embeddings.position_embeddings"] = positions("hidden_size")
        weights["decoder.decoder_pos_embed"] = positions("decoder_hidden_size")
        network.load_state_dict(weights)
        image = recipe.images(len(noise), (sizes["image_size"],) * 2)
        image = torch.from_numpy(np.moveaxis(image, -1, 1).astype(np.float64))
        output = network(image, noise=torch.from_numpy(noise))
        arrays["loss_normalized" if normalize else "loss"] = output.loss.detach().numpy()
    arrays["prediction"] = output.logits.detach().numpy().astype(np.float32)
    arrays["mask"] = output.mask.numpy().astype(np.float32)
    output.loss.backward()
    parameters = dict(network.named_parameters())
    gradients = {}
    for key, shape in shapes.items():
        parts = [parameters[part].grad for part in transformers_names({key: np.empty(shape)})]
        gradients[key] = recipe.summary(key, torch.cat(parts).numpy()).tolist()
    dump(f"shapes/{name}.json", shapes)
    dump(f"gradients/{name}.json", gradients)
    save(f"logits/{name}.npz", **arrays)


def make_adapted(name: str, case: Adapted):
    """Store the logits of weights converted by timm's own loaders."""
    if case.source == "big_vision":
        network = timm.create_model(case.reference, **case.arguments).eval()
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/weights.npz"
            np.savez(path, **npz_weights(**case.trained))
            network.load_pretrained(path)
    else:
        trained = timm.create_model(case.reference, **case.trained)
        shapes = {key: tuple(value.shape) for key, value in trained.state_dict().items()}
        if case.source == "swin":
            shapes = {official_swin(key): shape for key, shape in shapes.items()}
        weights = recipe.state_dict(shapes)
        weights = {key: torch.from_numpy(value) for key, value in weights.items()}
        network = timm.create_model(case.reference, **case.arguments).eval()
        module = sys.modules[type(network).__module__]
        network.load_state_dict(module.checkpoint_filter_fn(weights, network))
    image = recipe.images(2, case.image_size)
    image = torch.from_numpy(np.moveaxis(image, -1, 1).astype(np.float64))
    with torch.inference_mode():
        logits = network.double()(image).numpy().astype(np.float32)
    if case.source != "big_vision":
        dump(f"shapes/{name}.json", shapes)
    save(f"logits/{name}.npz", logits=logits)


def main(names: list[str]):
    jobs = [(name, make_adapted, (name, case)) for name, case in ADAPTED.items()]
    jobs += [("transformer", make_transformer, (final_norm,)) for final_norm in (False, True)]
    jobs += [(name, make_mae, (name, sizes)) for name, sizes in MAE.items()]
    for name, job, arguments in jobs:
        if not names or name in names:
            job(*arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
