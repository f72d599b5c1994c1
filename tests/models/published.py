"""Published sizes of the registry's models, for test_published.

A number is text with the digits of its source: "25557032", "0.85 M", "4.089 G". A count agrees if
it rounds to the number. A row can set fields of its model.
"""

from decimal import Decimal
from typing import Any, NamedTuple


class Published(NamedTuple):
    """One row: registry name, published numbers (`None` without a number), source."""

    name: str
    parameters: str | None
    multiply_adds: str | None
    source: str
    fields: dict[str, Any] = {}


def agrees(count: int, published: str) -> bool:
    """Whether `count` rounds to the published number."""
    number, _, unit = published.partition(" ")
    scale = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}[unit]
    number = Decimal(number)
    half_digit = Decimal(1).scaleb(number.as_tuple().exponent) / 2
    return abs(Decimal(count) / scale - number) <= (0 if unit == "" else half_digit)


TORCHVISION = "torchvision's weights' metadata: num_params, _ops"
MAE = "transformers' ViTMAE without its fixed positions"
SWIN_V2 = "torchvision's weights' metadata, {} − {} biases of keys that it holds at zero"
TIMM = "timm's results tables"
RESNET = "He et al., arXiv:1512.03385, Table 1 and Figure 3 (FLOPs), Table 6 (CIFAR parameters)"
VGG = "Simonyan and Zisserman, arXiv:1409.1556, Table 2"
WIDE = "Zagoruyko and Komodakis, arXiv:1605.07146, Table 5"

_CIFAR_WIDE = dict(stem="cifar", stem_width=16, block="basic", preact=True, num_classes=10)
_CIFAR_PREACT = dict(stem="cifar", stem_width=16, widths=(16, 32, 64), num_classes=10)

PUBLISHED = [
    Published("linear", "30730", None, "3072·10 weights and 10 biases"),
    Published("mlp", "1841162", None, "3073·512 + 513·512 + 513·10"),
    Published("lenet5_1998", "60000", None, "LeCun et al., 1998, section II.B"),
    Published("lenet5", "61706", None, "156 + 2,416 + 48,120 + 10,164 + 850, layer by layer"),
    Published(
        "airbench94",
        "1971640",
        "118 M",
        "312 + 13,824 + 36,864 + 147,456 + 3·589,824 + 2,560 and 1,152 shifts; 0.29 PFLOPs of its "
        "README are 6 · 118 M · 50,000 · 8 and the evaluations",
    ),
    Published(
        "alexnet",
        "60965224",
        "724 M",
        "34,944 + 307,456 + 885,120 + 663,936 + 442,624 + 37,752,832 + 16,781,312 + 4,097,000, "
        "Krizhevsky et al., 2012, section 3.5; 666 M in convolutions, 58.6 M in full ones",
    ),
    Published("alexnet_one_stream", "61100840", "0.714 G", TORCHVISION),
    Published("vgg11", "132863336", "7.609 G", TORCHVISION),
    Published("vgg11_bn", "132868840", "7.609 G", TORCHVISION),
    Published("vgg13", "133047848", "11.308 G", TORCHVISION),
    Published("vgg13_bn", "133053736", "11.308 G", TORCHVISION),
    Published("vgg16", "138357544", "15.470 G", TORCHVISION),
    Published("vgg16_bn", "138365992", "15.470 G", TORCHVISION),
    Published("vgg19", "143667240", "19.632 G", TORCHVISION),
    Published("vgg19_bn", "143678248", "19.632 G", TORCHVISION),
    Published("vgg11_lrn", "133 M", None, VGG),
    Published("vgg16_c", "134 M", None, VGG),
    Published("resnet18", "11689512", "1.814 G", TORCHVISION),
    Published("resnet34", "21797672", "3.664 G", TORCHVISION),
    Published("resnet50", "25557032", "4.089 G", TORCHVISION),
    Published("resnet101", "44549160", "7.801 G", TORCHVISION),
    Published("resnet152", "60192808", "11.514 G", TORCHVISION),
    Published(
        "resnet50",
        "25028904",
        "4.230 G",
        f"{TORCHVISION}, resnext50_32x4d",
        dict(groups=32, width_per_group=4),
    ),
    Published(
        "resnet50",
        "68883240",
        "11.398 G",
        f"{TORCHVISION}, wide_resnet50_2",
        dict(width_per_group=128),
    ),
    Published("resnet50_v1", "25557032", None, "that of resnet50: strides have no weights"),
    Published("resnet50_preact", "25.55 M", None, f"{TIMM}, resnetv2_50"),
    Published("plain18", None, "1.8 G", RESNET),
    Published("plain34", None, "3.6 G", RESNET),
    Published("resnet20_cifar", "0.27 M", None, RESNET),
    Published("resnet32_cifar", "0.46 M", None, RESNET),
    Published("resnet44_cifar", "0.66 M", None, RESNET),
    Published("resnet56_cifar", "0.85 M", None, RESNET),
    Published("resnet110_cifar", "1.7 M", None, RESNET),
    Published("resnet1202_cifar", "19.4 M", None, RESNET),
    Published(
        "resnet50",
        "1.7 M",
        None,
        f"{WIDE}, pre-act-ResNet-164",
        dict(_CIFAR_PREACT, preact=True, stage_sizes=(18, 18, 18)),
    ),
    Published(
        "resnet50",
        "36.5 M",
        None,
        f"{WIDE}, WRN-28-10",
        dict(_CIFAR_WIDE, stage_sizes=(4, 4, 4), widths=(160, 320, 640)),
    ),
    Published(
        "resnet50",
        "8.9 M",
        None,
        f"{WIDE}, WRN-40-4",
        dict(_CIFAR_WIDE, stage_sizes=(6, 6, 6), widths=(64, 128, 256)),
    ),
    Published("vit_ti16", "5717416", None, f"{TIMM}, vit_tiny_patch16_224"),
    Published("vit_s16", "22050664", None, f"{TIMM}, vit_small_patch16_224"),
    Published("vit_b16", "86567656", "17.564 G", TORCHVISION),
    Published("vit_b32", "88224232", "4.409 G", TORCHVISION),
    Published("vit_l16", "304326632", "61.555 G", TORCHVISION),
    Published("vit_l32", "306535400", "15.378 G", TORCHVISION),
    Published("vit_h14", "632045800", None, f"{TIMM}, vit_huge_patch14_224"),
    Published("deit_ti16", "5.72 M", None, f"{TIMM}, deit_tiny_patch16_224"),
    Published("deit_ti16_distilled", "5.91 M", None, f"{TIMM}, deit_tiny_distilled_patch16_224"),
    Published("deit_s16_distilled", "22.44 M", None, f"{TIMM}, deit_small_distilled_patch16_224"),
    Published("deit_b16_distilled", "87.34 M", None, f"{TIMM}, deit_base_distilled_patch16_224"),
    Published("mae_vit_b16", "111655680", None, f"{MAE}, 111,907,840 − (768 + 512)·197"),
    Published("mae_vit_l16", "329239296", None, f"{MAE}, 329,541,888 − (1024 + 512)·197"),
    Published("mae_vit_h14", "656613964", None, f"{MAE}, 657,074,508 − (1280 + 512)·257"),
    Published("swin_t", "28288354", "4.491 G", TORCHVISION),
    Published("swin_s", "49606258", "8.741 G", TORCHVISION),
    Published("swin_b", "87768224", "15.431 G", TORCHVISION),
    Published("swin_l", "196.53 M", None, f"{TIMM}, swin_large_patch4_window7_224"),
    Published("swinv2_t", "28347154", "5.940 G", SWIN_V2.format("28,351,570", "4,416")),
    Published("swinv2_s", "49728418", "11.546 G", SWIN_V2.format("49,737,442", "9,024")),
    Published("swinv2_b", "87918816", "20.325 G", SWIN_V2.format("87,930,848", "12,032")),
    Published(
        "transformer_base",
        "63084544",
        None,
        "torch.nn.Transformer(), 44,140,544, and an embedding of 37,000·512",
        dict(final_norm=True),
    ),
    Published(
        "transformer_big",
        "214249472",
        None,
        "torch.nn.Transformer(1024, 16, 6, 6, 4096), 176,361,472, and an embedding of 37,000·1024",
        dict(final_norm=True),
    ),
]
