"""Data-efficient image Transformer.

Touvron et al., "Training data-efficient image transformers & distillation through attention",
ICML 2021, arXiv:2012.12877: the ViT of the same size, trained on ImageNet alone by augmentation and
regularisation; and a distillation token beside the class token, whose own head learns a
convolutional teacher's answers (section 4). The architecture is `vit.ViT`, with `distilled=True`
for the second; its docstring says what comes out in training and in evaluation.
"""

from cv_jax.models.entry import Entry
from cv_jax.models.vit import SIZES, ViT

_PAPER = "Touvron et al., Training data-efficient image transformers, arXiv:2012.12877"
MODELS = {
    f"deit_{size}16{suffix}": Entry(
        ViT, {**SIZES[size], "patch_size": 16, "distilled": distilled}, 2020, _PAPER
    )
    for size in ("ti", "s", "b")
    for suffix, distilled in (("", False), ("_distilled", True))
}
