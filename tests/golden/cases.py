"""Comparisons with reference networks: source, reference, model here, image size and fields."""

from typing import Any, NamedTuple


class Case(NamedTuple):
    """A network of the reference and the equal model here.

    Attributes:
      source: "torchvision" or "timm".
      reference: the source's name of the network.
      model: the registry's name.
      image_size: (height, width); not square if the network allows it, which reveals exchanged
        axes.
      batch: number of images.
      variant: distinguishes the cases of one network.
      arguments: of the reference's constructor.
      fields: of the model here, in addition to the fields in the mapping table.
    """

    source: str
    reference: str
    model: str
    image_size: tuple[int, int] = (64, 96)
    batch: int = 2
    variant: str = ""
    arguments: dict[str, Any] = {}
    fields: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """Stem of the golden files of this case."""
        variant = f"-{self.variant}" if self.variant else ""
        return f"{self.source}-{self.reference}{variant}"


def vit(reference: str, model: str, size: tuple[int, int], arguments=None, fields=None, **more):
    """A case of timm's ViT at another image size."""
    return Case(
        "timm",
        reference,
        model,
        size,
        arguments=dict(img_size=size, **(arguments or {})),
        fields=dict(image_size=size, **(fields or {})),
        **more,
    )


def swin(reference: str, model: str, window: int = 0, arguments=None, fields=None, **more):
    """A case of timm's Swin on images its windows do not divide; `window` sets another size."""
    size = (72, 88)
    changed = dict(window_size=window) if window else {}
    return Case(
        "timm",
        reference,
        model,
        size,
        arguments=dict(img_size=size, **changed, **(arguments or {})),
        fields=dict(**changed, **(fields or {})),
        **more,
    )


# On 224x224, the last map of AlexNet and VGG has the size that their classifier needs. On other
# sizes it is pooled or repeated to this size; timm does so for smaller images only.
LOGITS = (
    Case("torchvision", "alexnet", "alexnet_one_stream", (224, 224)),
    Case("torchvision", "vgg11", "vgg11", (224, 224)),
    Case("torchvision", "vgg16_bn", "vgg16_bn"),
    Case("timm", "vgg11_bn", "vgg11_bn", (224, 224)),
    Case("timm", "vgg16", "vgg16"),
    Case("torchvision", "resnet18", "resnet18"),
    Case("torchvision", "resnet50", "resnet50"),
    Case("torchvision", "resnext50_32x4d", "resnet50"),
    Case("torchvision", "wide_resnet50_2", "resnet50"),
    Case("timm", "resnet18", "resnet18"),
    Case("timm", "resnet50", "resnet50"),
    Case("timm", "resnetv2_50", "resnet50_preact"),
    Case(
        "torchvision",
        "vit_b_32",
        "vit_b32",
        (64, 64),
        arguments=dict(image_size=64),
        fields=dict(image_size=64),
    ),
    Case(
        "torchvision",
        "vit_b_16",
        "vit_b16",
        (32, 32),
        arguments=dict(image_size=32),
        fields=dict(image_size=32),
    ),
    vit("vit_tiny_patch16_224", "vit_ti16", (48, 80)),
    vit("vit_small_patch32_224", "vit_s32", (64, 96)),
    vit(
        "vit_tiny_patch16_224",
        "vit_ti16",
        (48, 80),
        variant="pooled",
        arguments=dict(
            global_pool="avg", qk_norm=True, init_values=0.1, reg_tokens=3, no_embed_class=True
        ),
        fields=dict(
            pool="mean",
            class_token=True,
            fc_norm=True,
            qk_norm=True,
            layer_scale=0.1,
            registers=3,
            pos_embed_prefix=False,
        ),
    ),
    vit(
        "vit_tiny_patch16_224",
        "vit_ti16",
        (48, 80),
        variant="map",
        arguments=dict(global_pool="map", class_token=False),
        fields=dict(pool="map"),
    ),
    vit(
        "vit_small_patch14_reg4_dinov2",
        "vit_s14",
        (42, 70),
        arguments=dict(num_classes=7),
        fields=dict(num_classes=7),
    ),
    vit("deit_tiny_patch16_224", "deit_ti16", (48, 80)),
    vit("deit_tiny_distilled_patch16_224", "deit_ti16_distilled", (48, 80)),
    vit("deit_small_distilled_patch16_224", "deit_s16_distilled", (64, 48)),
    # Maps of 16x24, 8x12, 4x6 and 2x3 tokens: padding, and windows clipped to the map.
    Case("torchvision", "swin_t", "swin_t"),
    Case("torchvision", "swin_s", "swin_s", (64, 64), batch=1),
    Case("torchvision", "swin_v2_t", "swinv2_t"),
    Case("torchvision", "swin_v2_s", "swinv2_s", (64, 64), batch=1),
    swin("swin_tiny_patch4_window7_224", "swin_t"),
    swin("swin_tiny_patch4_window7_224", "swin_t", variant="window5", window=5),
    swin("swin_small_patch4_window7_224", "swin_s", batch=1),
    swin("swinv2_tiny_window8_256", "swinv2_t"),
    swin("swinv2_small_window8_256", "swinv2_s", batch=1),
    swin(
        "swinv2_tiny_window8_256",
        "swinv2_t",
        variant="pretrained",
        window=6,
        arguments=dict(pretrained_window_sizes=(12, 12, 12, 6)),
        fields=dict(pretrained_windows=(12, 12, 12, 6)),
    ),
)

# In training mode (batch statistics) without dropout, float64 on both sides.
GRADIENTS = (
    Case("torchvision", "alexnet", "alexnet_one_stream"),
    Case("torchvision", "vgg11_bn", "vgg11_bn"),
    Case("torchvision", "resnet18", "resnet18"),
    vit("vit_tiny_patch16_224", "vit_ti16", (48, 80)),
    Case("torchvision", "swin_t", "swin_t"),
    Case("torchvision", "swin_v2_t", "swinv2_t"),
)

# Running statistics after STEPS steps of plain gradient descent on the cross-entropy.
STATISTICS = (Case("torchvision", "resnet18", "resnet18", batch=4),)
STEPS = 3
LEARNING_RATE = 0.01
