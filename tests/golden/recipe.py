"""Reproducible weights and images, so that golden files store only results.

The keys and shapes of a network determine its weights bit for bit, with any CPU and any NumPy: the
recipe uses only raw words of PCG64 (NumPy guarantees this stream), shifts and single float32
multiplications.

  * Every array has its own generator: PCG64 seeded by the first 16 bytes of SHA-256 of its key.
    Each 64-bit word gives two values u in [0, 1) of 24 bits, and `draw` maps u to √3·(2u − 1),
    which has mean 0 and variance 1.
  * A matrix or kernel has standard deviation √(2 / fan-in), which keeps the activations of ReLU
    networks near 1 at any depth; tokens and positions 0.5; biases and running means 0.2.
  * Scales of norms are in 1 ± 0.5 and running variances in 1.25 ± 0.75, so each of them matters.
"""

import hashlib
import math
import re

import numpy as np

# Constants in a reference's state dict.
CONSTANTS = re.compile(r".*\.(relative_position_index|relative_coords_table)")

Shapes = dict[str, tuple[int, ...]]


def draw(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return float32 values of `shape`, uniform in ±√3, determined by `key`."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "little")
    size = math.prod(shape)
    words = np.random.PCG64(seed).random_raw((size + 1) // 2).astype("<u8", copy=False)
    u = (words.view("<u4")[:size] >> 8).astype(np.float32)
    # u·2⁻²³ − 1 is exact: both terms are multiples of 2⁻²³ in ±1.
    return ((u * np.float32(2.0**-23) - np.float32(1)) * np.float32(math.sqrt(3))).reshape(shape)


def weight(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return an array of a PyTorch state dict: float32, or int64 zero for a batch counter."""
    name = key.rpartition(".")[2]
    if name == "num_batches_tracked":
        return np.zeros((), np.int64)
    x = draw(key, shape)
    unit = x / np.float32(math.sqrt(3))
    if name == "running_var":
        return np.float32(1.25) + np.float32(0.75) * unit
    if name == "weight" and len(shape) == 1:
        return np.float32(1) + np.float32(0.5) * unit
    if name == "running_mean" or len(shape) == 1:
        return x * np.float32(0.2)
    if name.endswith(("_token", "pos_embed", "pos_embedding")):
        return x * np.float32(0.5)
    return x * np.float32(math.sqrt(2 / math.prod(shape[1:])))


def state_dict(shapes: Shapes) -> dict[str, np.ndarray]:
    """Return the weights of a network from its keys and shapes."""
    weights = {key: weight(key, tuple(shape)) for key, shape in shapes.items()}
    for key, bias in weights.items():
        # torchvision's Swin v2 keeps the third of the keys in this bias at zero.
        if key.endswith("qkv.bias") and key.replace("qkv.bias", "logit_scale") in shapes:
            bias[len(bias) // 3 : 2 * len(bias) // 3] = 0
    return weights


def images(batch: int, size: tuple[int, int], channels: int = 3, key: str = "") -> np.ndarray:
    """Return float32 images [batch, height, width, channels] of mean 0 and variance 1."""
    shape = (batch, *size, channels)
    return draw(f"images {key} {shape}", shape)


def summary(key: str, array: np.ndarray) -> np.ndarray:
    """Return the norm of an array and its products with three random tensors: [4], float64.

    Each random tensor is the outer product of one unit vector per axis, drawn by `key`. A reversed
    axis, two exchanged axes or a single wrong value change the products. A summary has four numbers
    in place of millions.
    """
    array = np.asarray(array, np.float64)
    products = []
    for i in range(3):
        product = array
        for axis in reversed(range(array.ndim)):
            vector = draw(f"{key} {i} {axis}", (array.shape[axis],)).astype(np.float64)
            product = product @ (vector / np.linalg.norm(vector))
        products.append(float(product))
    return np.array([np.linalg.norm(array.ravel()), *products])
