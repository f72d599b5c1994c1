"""Weight conversion between cv_jax, PyTorch libraries and big_vision.

    variables = interop.load("resnet50", "timm", state_dict, num_classes=10)
    state_dict = interop.export("resnet50", "torchvision", variables)

Mapping tables (such as `convolutional.py`) pair the array names and layouts of a source with the
paths of the models here; each table serves both directions. `weights.py` applies a table strictly,
`target.py` fits the result to other classes or input channels. A new source or architecture is a
new mapping table, listed in `weights.FAMILIES`. `saved.py` reads and writes cv_jax weight files,
`foreign.py` reads the files of other libraries, `hub_folder.py` writes them.
"""

from cv_jax.interop.target import Target, adapt, flatten, size_of, trained_with, unflatten
from cv_jax.interop.weights import (
    FAMILIES,
    SOURCES,
    TARGETS,
    export,
    family,
    load,
    reference,
)

__all__ = [
    "FAMILIES",
    "SOURCES",
    "TARGETS",
    "Target",
    "adapt",
    "export",
    "family",
    "flatten",
    "load",
    "reference",
    "size_of",
    "trained_with",
    "unflatten",
]
