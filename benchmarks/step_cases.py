"""The networks of `benchmarks.step`, with the sizes, batches and peers that they are measured with.

Only the standard library is imported, because the processes of the peers use this module.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Case:
    """One network.

    Attributes:
      model: its name in the registry.
      batch: examples in a step on a GPU.
      cpu_batch: examples in a step on a CPU.
      peer: library and name of the peer's network; see `peers.NETWORKS`.
      size: side of the images in pixels.
      classes: number of classes.
      fields: config fields that differ from their defaults.
      variants: name → config fields that are measured on a GPU in half precision, the most
        important first, instead of the defaults.
    """

    model: str
    batch: int
    cpu_batch: int
    peer: tuple[str, str]
    size: int = 224
    classes: int = 1000
    fields: dict = dataclasses.field(default_factory=dict)
    variants: dict = dataclasses.field(default_factory=dict)

    @property
    def sgd(self) -> bool:
        """Whether the network is trained with SGD and momentum instead of AdamW."""
        return self.model.startswith("resnet")

    @property
    def masked(self) -> bool:
        """Whether the network is a masked autoencoder."""
        return self.model.startswith("mae")


LEAN = {"model.remat_policy": "mlp"}
FUSED = {"model.attention_implementation": "cudnn"}
CUDNN = {"cudnn": FUSED}
BOTH = {**CUDNN, "cudnn, lean MLPs": {**FUSED, **LEAN}}
_VIT = "vit_{}_patch16_224"

# In the order of their importance on a GPU.
CASES = {
    "vit_b16": Case("vit_b16", 256, 8, ("timm", _VIT.format("base")), variants={**BOTH, "xla": {}}),
    "mae_vit_l16": Case("mae_vit_l16", 256, 4, ("transformers", "large"), variants=BOTH),
    "swin_t": Case(
        "swin_t",
        256,
        8,
        ("timm", "swin_tiny_patch4_window7_224"),
        variants={"": {}, "lean MLPs": LEAN},
    ),
    "resnet50": Case("resnet50", 256, 8, ("timm", "resnet50")),
    "vit_l16": Case("vit_l16", 128, 4, ("timm", _VIT.format("large")), variants=BOTH),
    "vit_ti16": Case("vit_ti16", 512, 32, ("timm", _VIT.format("tiny")), variants=CUDNN),
    "vit_b16_32px": Case("vit_b16", 32, 32, ("timm", _VIT.format("base")), 32, 10),
    "resnet18": Case("resnet18", 512, 16, ("timm", "resnet18")),
    "resnet20_cifar": Case("resnet20_cifar", 1024, 128, ("torch", "resnet20_cifar"), 32, 10),
    "mae_vit_b16": Case("mae_vit_b16", 256, 8, ("transformers", "base"), variants=CUDNN),
    "vit_s16": Case("vit_s16", 256, 16, ("timm", _VIT.format("small")), variants=CUDNN),
    "lenet5": Case("lenet5", 4096, 512, ("torch", "lenet5"), 32, 10),
}
# Measured first on a CPU.
CPU_FIRST = ("vit_b16_32px", "vit_ti16", "resnet18", "resnet20_cifar", "swin_t", "lenet5")
# For tests: seconds instead of minutes.
TINY = {
    "vit_b16": Case(
        "vit_b16",
        4,
        4,
        ("timm", "vit_tiny_patch16_224"),
        32,
        3,
        {"model.width": 32, "model.depth": 1, "model.num_heads": 2},
    ),
    "mae_vit_l16": Case(
        "mae_vit_l16",
        4,
        4,
        ("transformers", "tiny"),
        32,
        3,
        {
            **{"model.width": 32, "model.depth": 1, "model.num_heads": 2},
            **{"model.decoder_width": 32, "model.decoder_depth": 1, "model.decoder_num_heads": 2},
        },
    ),
    "lenet5": Case("lenet5", 4, 4, ("torch", "lenet5"), 32, 3),
}


def order(device: str) -> list[str]:
    """Return the names of all cases, the most important first.

    Args:
      device: "cpu" or "gpu".
    """
    if device == "gpu":
        return list(CASES)
    return [*CPU_FIRST, *(name for name in CASES if name not in CPU_FIRST)]
