"""Every comparison with a reference network: which one, under which name here, on which image."""

from typing import NamedTuple


class Case(NamedTuple):
    """A network of the reference and the model here that must equal it.

    Attributes:
      source: "torchvision" or "timm".
      reference: the source's name of the network.
      model: the registry's name.
      image_size: (height, width); not square where the network allows it, so that exchanged axes
        show.
      batch: images.
    """

    source: str
    reference: str
    model: str
    image_size: tuple[int, int] = (64, 96)
    batch: int = 2

    @property
    def name(self) -> str:
        """The stem of this case's golden files."""
        return f"{self.source}-{self.reference}"


# On 224x224, AlexNet's and VGG's last map is as large as their classifier wants it; on other sizes
# it is averaged or repeated to that, which timm does for smaller images only.
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
)

# In training mode (batch statistics) with dropout off, float64 on both sides.
GRADIENTS = (
    Case("torchvision", "alexnet", "alexnet_one_stream"),
    Case("torchvision", "vgg11_bn", "vgg11_bn"),
    Case("torchvision", "resnet18", "resnet18"),
)

# Running statistics after STEPS steps of plain gradient descent on the cross-entropy.
STATISTICS = (Case("torchvision", "resnet18", "resnet18", batch=4),)
STEPS = 3
LEARNING_RATE = 0.01
