"""Weights from and to the PyTorch world and big_vision.

    variables = interop.load("resnet50", "timm", state_dict, num_classes=10)
    state_dict = interop.export("resnet50", "torchvision", variables)

Names and layouts of each source stand in mapping tables (`convolutional.py`), read in both
directions; `weights.py` applies them strictly, `adapt.py` fits the result to other classes or input
channels. A new source or architecture is one more table in a file of its own, listed in
`weights.FAMILIES`.
"""

from cv_jax.interop.adapt import Target, adapt
from cv_jax.interop.weights import FAMILIES, SOURCES, export, family, load

__all__ = ["FAMILIES", "SOURCES", "Target", "adapt", "export", "family", "load"]
