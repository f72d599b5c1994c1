"""Weights from and to the PyTorch world and big_vision.

    variables = interop.load("resnet50", "timm", state_dict, num_classes=10)
    state_dict = interop.export("resnet50", "torchvision", variables)

Names and layouts of each source stand in mapping tables (`convolutional.py`), read in both
directions; `weights.py` applies them strictly, `target.py` fits the result to other classes or
input channels. A new source or architecture is one more table in a file of its own, listed in
`weights.FAMILIES`. On disk, weights are ours (`saved.py`) or somebody else's (`foreign.py`).
"""

from cv_jax.interop.target import Target, adapt, flatten, size_of, trained_with, unflatten
from cv_jax.interop.weights import FAMILIES, SOURCES, export, family, load, published, reference

__all__ = [
    "FAMILIES",
    "SOURCES",
    "Target",
    "adapt",
    "export",
    "family",
    "flatten",
    "load",
    "published",
    "reference",
    "size_of",
    "trained_with",
    "unflatten",
]
