"""Every comparison with a reference network: which one, under which name here, on which image."""

from typing import Any, NamedTuple


class Case(NamedTuple):
    """A network of the reference and the model here that must equal it.

    Attributes:
      source: "torchvision" or "timm".
      reference: the source's name of the network.
      model: the registry's name.
      fields: fields of the model that differ from the registry's defaults.
      image_size: (height, width); not square where the network allows it, so that exchanged axes
        show.
      batch: images.
    """

    source: str
    reference: str
    model: str
    fields: dict[str, Any] = {}
    image_size: tuple[int, int] = (64, 96)
    batch: int = 2

    @property
    def name(self) -> str:
        """The stem of this case's golden files."""
        return f"{self.source}-{self.reference}"


# AlexNet and VGG see the published 224x224: their classifier reads a map of fixed size.
LOGITS = (
    Case("torchvision", "alexnet", "alexnet_one_stream", image_size=(224, 224)),
    Case("torchvision", "vgg11", "vgg11", image_size=(224, 224)),
    Case("torchvision", "vgg16_bn", "vgg16_bn", image_size=(224, 224)),
    Case("timm", "vgg11_bn", "vgg11_bn", image_size=(224, 224)),
    Case("timm", "vgg16", "vgg16", image_size=(224, 224)),
    Case("torchvision", "resnet18", "resnet18"),
    Case("torchvision", "resnet50", "resnet50"),
    Case("torchvision", "resnext50_32x4d", "resnet50"),
    Case("torchvision", "wide_resnet50_2", "resnet50"),
    Case("timm", "resnet18", "resnet18"),
    Case("timm", "resnet50", "resnet50"),
    Case("timm", "resnetv2_50", "resnet50_preact"),
)

# In training mode (batch statistics) with dropout off, float64 on both sides.
GRADIENTS = (
    Case("torchvision", "alexnet", "alexnet_one_stream", image_size=(224, 224)),
    Case("torchvision", "vgg11_bn", "vgg11_bn", image_size=(224, 224)),
    Case("torchvision", "resnet18", "resnet18"),
)

# Running statistics after STEPS steps of plain gradient descent on the cross-entropy.
STATISTICS = (Case("torchvision", "resnet18", "resnet18", batch=4),)
STEPS = 3
LEARNING_RATE = 0.01
