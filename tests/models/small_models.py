"""Small networks of every kind in the registry, for test_every_model and test_entry.

A kind is a module class, or a field value that uses other code of the module.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cv_jax.models import mae


def classify(output, inputs) -> jax.Array:
    """Softmax cross-entropy of logits against the labels 0, 1, 2, …"""
    logits, _ = output
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(len(logits))).mean()


def reconstruct(output, inputs) -> jax.Array:
    """MAE's loss on the removed patches of 8×8 pixels."""
    prediction, features = output
    return mae.reconstruction_loss(inputs[0], prediction, features["mask"], 8).mean()


def teach(output, inputs) -> jax.Array:
    """Cross-entropies of DeiT's pair of logits: labels 0, 1, 2, …, and the reverse as teacher."""
    (logits, distilled), features = output
    return classify((logits, features), inputs) + classify((distilled[::-1], features), inputs)


def predict_next(output, inputs) -> jax.Array:
    """Cross-entropy of every target token given the tokens before it."""
    logits, _ = output
    losses = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], inputs[1][:, 1:])
    return losses.mean()


def pixels(batch: int) -> jax.Array:
    """Images of 32×32 pixels."""
    return jax.random.normal(jax.random.key(1), (batch, 32, 32, 3))


def tokens(batch: int, length: int) -> jax.Array:
    """Sequences of the tokens 1 (begin) to 10."""
    return 1 + jnp.arange(batch)[:, None] * 3 % 7 + jnp.arange(length)


class Small(NamedTuple):
    """A small network.

    Attributes:
      name: registry name.
      fields: field values of the small size.
      image: height, width and channels of its input.
      smallest: shortest valid side, or `None` if every side is valid or `image_size` sets it.
      inputs: for a model with other inputs than one image: batch size → its inputs.
      loss: (output of the model, its inputs) → scalar.
      unreached: path of a parameter with zero gradient → the reason.
    """

    name: str
    fields: dict[str, Any] = {}
    image: tuple[int, int, int] = (32, 32, 3)
    smallest: int | None = None
    inputs: Callable[[int], tuple[jax.Array, ...]] | None = None
    loss: Callable[..., jax.Array] = classify
    unreached: dict[str, str] = {}


_ALEXNET = dict(channels=(8, 16, 12, 12, 8), fc_width=16, pool_size=2, num_classes=5)
_VGG = dict(widths=(4, 8, 8, 8, 8), fc_width=16, pool_size=1, num_classes=5)
_RESNET = dict(stage_sizes=(2, 1), widths=(8, 16), stem_width=8, num_classes=5)
_VIT = dict(image_size=32, patch_size=8, width=24, depth=2, num_heads=3, num_classes=5)
_SWIN = dict(
    width=8,
    depths=(2, 2),
    num_heads=(2, 4),
    window_size=2,
    pretrained_windows=(0, 0),
    num_classes=5,
)
_MAE = dict(
    image_size=32,
    patch_size=8,
    width=24,
    depth=1,
    num_heads=3,
    decoder_width=16,
    decoder_depth=1,
    decoder_num_heads=2,
)
_TRANSFORMER = dict(vocab_size=16, width=16, depth=1, num_heads=2, hidden_dim=24)
_IMAGE_TRANSFORMER = dict(
    vocab_size=16, image_size=32, patch_size=8, width=16, depth=1, num_heads=2, decoder_depth=1
)
_KEY_BIAS = "adds the same value to all scores of a query, which the softmax ignores"

SMALL = {
    "linear": Small("linear", image=(8, 8, 3)),
    "mlp": Small("mlp", dict(widths=(16, 16), dropout_rate=0.2), image=(8, 8, 3)),
    "lenet5": Small("lenet5", smallest=16),
    "lenet5_1998": Small("lenet5_1998", smallest=16),
    "alexnet": Small("alexnet", _ALEXNET, image=(63, 63, 3), smallest=63),
    "alexnet_one_stream": Small(
        "alexnet_one_stream",
        dict(_ALEXNET, channels=(4, 8, 12, 8, 8)),
        image=(63, 63, 3),
        smallest=63,
    ),
    "vgg11": Small("vgg11", _VGG, smallest=32),
    "vgg11_lrn": Small("vgg11_lrn", _VGG, smallest=32),
    "vgg16_c": Small("vgg16_c", dict(_VGG, kernel_init="glorot"), smallest=32),
    "vgg11_bn": Small(
        "vgg11_bn",
        _VGG,
        image=(64, 64, 3),
        smallest=32,
        unreached={
            f"features_{i}/bias": "batch normalisation subtracts it"
            for i in (0, 4, 8, 11, 15, 18, 22, 25)
        },
    ),
    "resnet18": Small("resnet18", _RESNET),
    "resnet50": Small("resnet50", dict(_RESNET, zero_init_residual=True, drop_path_rate=0.2)),
    "resnet50_v1": Small("resnet50_v1", dict(_RESNET, shortcut="C")),
    "resnet50_preact": Small("resnet50_preact", _RESNET),
    "resnext": Small("resnet50", dict(_RESNET, groups=2, width_per_group=32)),
    "plain18": Small("plain18", _RESNET),
    "resnet8_cifar": Small("resnet8_cifar", dict(_RESNET, stem_width=4)),
    "plain8_cifar": Small("plain8_cifar", _RESNET),
    "transformer": Small(
        "transformer_base",
        _TRANSFORMER,
        inputs=lambda batch: (tokens(batch, 6), tokens(batch, 5)),
        loss=predict_next,
        unreached={
            f"{layer}/k_proj/bias": _KEY_BIAS
            for layer in (
                "encoder_layers_0/self_attn",
                "decoder/layers_0/self_attn",
                "decoder/layers_0/multihead_attn",
            )
        },
    ),
    "vit": Small("vit_ti16", _VIT),
    "vit_mean": Small(
        "vit_ti16",
        dict(_VIT, pool="mean", class_token=True, fc_norm=True, registers=2, layer_scale=0.1),
    ),
    "vit_map": Small("vit_ti16", dict(_VIT, pool="map", pos_embed="sincos", scan_layers=True)),
    "deit_distilled": Small(
        "deit_ti16_distilled", _VIT, inputs=lambda batch: (pixels(batch),), loss=teach
    ),
    "image_transformer": Small(
        "image_transformer_ti",
        _IMAGE_TRANSFORMER,
        inputs=lambda batch: (pixels(batch), tokens(batch, 5)),
        loss=predict_next,
        unreached={
            f"decoder/layers_0/{layer}/k_proj/bias": _KEY_BIAS
            for layer in ("self_attn", "multihead_attn")
        },
    ),
    "mae": Small("mae_vit_b16", _MAE, loss=reconstruct),
    "swin": Small("swin_t", _SWIN),
    "swinv2": Small("swinv2_t", _SWIN),
    "airbench94": Small("airbench94", dict(widths=(8, 12), num_classes=5), smallest=13),
}
