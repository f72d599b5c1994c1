"""Data-efficient image Transformer.

Touvron et al., "Training data-efficient image transformers & distillation through attention",
ICML 2021, arXiv:2012.12877: the ViT of the same size, trained on ImageNet alone by augmentation and
regularisation. The distilled variants have a second token with its own head, which learns the
predictions of a convolutional teacher (section 4). The architecture is `vit.ViT`; see
`ViT.__call__` for the outputs with `distilled=True`.
"""

from cv_jax.models.vit import SIZES, vit_entry

_PAPER = "Touvron et al., Training data-efficient image transformers, arXiv:2012.12877"
MODELS = {
    f"deit_{size}16{suffix}": vit_entry(
        {**SIZES[size], "patch_size": 16, "distilled": distilled}, 2020, _PAPER
    )
    for size in ("ti", "s", "b")
    for suffix, distilled in (("", False), ("_distilled", True))
}
