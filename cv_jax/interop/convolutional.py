"""Mapping tables for AlexNet, VGG and ResNet of torchvision and timm.

torchvision, timm and the models here number the entries of `features` alike. torchvision's VGG ends
in linear layers on the flattened map, timm's VGG in convolutions as large as the map. timm's
pre-activation ResNet numbers the stages from 0 and has a 1×1 convolution as classifier.
"""

from cv_jax.interop.tables import Family, batch_norm, conv, linear
from cv_jax.interop.transforms import linear_after_flatten, linear_from_conv

_FEATURES = conv("features.{}", "features_{}", bias=True)

_ALEXNET = [
    *_FEATURES,
    *linear("classifier.1", "classifier_1", linear_after_flatten(6, 6)),
    *linear("classifier.4", "classifier_4"),
    *linear("classifier.6", "head"),
]

# Convolutions and batch norms share one numbering; `fill_in` selects the rules that fit the model.
_VGG_FEATURES = [*_FEATURES, *batch_norm("features.{}", "features_{}")]
_VGG = [
    *_VGG_FEATURES,
    *linear("classifier.0", "classifier_0", linear_after_flatten(7, 7)),
    *linear("classifier.3", "classifier_3"),
    *linear("classifier.6", "head"),
]
_TIMM_VGG = [
    *_VGG_FEATURES,
    *linear("pre_logits.fc1", "classifier_0", linear_from_conv(7, 7)),
    *linear("pre_logits.fc2", "classifier_3", linear_from_conv(1, 1)),
    *linear("head.fc", "head"),
]

_RESNET = [
    *conv("conv1", "conv1", bias=False),
    *batch_norm("bn1", "bn1"),
    *conv("layer{}.{}.conv{}", "layer{}_{}/conv{}", bias=False),
    *batch_norm("layer{}.{}.bn{}", "layer{}_{}/bn{}"),
    *conv("layer{}.{}.downsample.0", "layer{}_{}/downsample_0", bias=False),
    *batch_norm("layer{}.{}.downsample.1", "layer{}_{}/downsample_1"),
    *linear("fc", "head"),
]

_TIMM_PREACT = [
    *conv("stem.conv", "conv1", bias=False),
    *batch_norm("norm", "norm"),
    *linear("head.fc", "head", linear_from_conv(1, 1)),
]
for _stage in range(4):
    _theirs, _ours = f"stages.{_stage}.blocks.{{}}", f"layer{_stage + 1}_{{}}"
    _TIMM_PREACT += batch_norm(f"{_theirs}.norm{{}}", f"{_ours}/bn{{}}")
    _TIMM_PREACT += conv(f"{_theirs}.conv{{}}", f"{_ours}/conv{{}}", bias=False)
    _TIMM_PREACT += conv(f"{_theirs}.downsample.conv", f"{_ours}/downsample_0", bias=False)

_VGGS = {
    name: (name, {}) for depth in (11, 13, 16, 19) for name in (f"vgg{depth}", f"vgg{depth}_bn")
}
_RESNETS = {
    **{name: (name, {}) for name in (f"resnet{depth}" for depth in (18, 34, 50, 101, 152))},
    "resnext50_32x4d": ("resnet50", dict(groups=32, width_per_group=4)),
    "resnext101_32x8d": ("resnet101", dict(groups=32, width_per_group=8)),
    "resnext101_64x4d": ("resnet101", dict(groups=64, width_per_group=4)),
    "wide_resnet50_2": ("resnet50", dict(width_per_group=128)),
    "wide_resnet101_2": ("resnet101", dict(width_per_group=128)),
}
_TIMM_RESNETS = {
    **_RESNETS,
    "resnet26": ("resnet50", dict(stage_sizes=(2, 2, 2, 2))),
    "resnet200": ("resnet50", dict(stage_sizes=(3, 24, 36, 3))),
    "resnext101_32x4d": ("resnet101", dict(groups=32, width_per_group=4)),
    "resnext101_32x16d": ("resnet101", dict(groups=32, width_per_group=16)),
    "resnext101_32x32d": ("resnet101", dict(groups=32, width_per_group=32)),
}
_PREACTS = {
    "resnetv2_50": ("resnet50_preact", {}),
    "resnetv2_101": ("resnet50_preact", dict(stage_sizes=(3, 4, 23, 3))),
    "resnetv2_152": ("resnet50_preact", dict(stage_sizes=(3, 8, 36, 3))),
    "resnetv2_18": ("resnet50_preact", dict(block="basic", stage_sizes=(2, 2, 2, 2))),
    "resnetv2_34": ("resnet50_preact", dict(block="basic")),
}

FAMILIES = (
    Family("torchvision", {"alexnet": ("alexnet_one_stream", {})}, _ALEXNET),
    Family("torchvision", _VGGS, _VGG),
    Family("timm", _VGGS, _TIMM_VGG),
    Family("torchvision", _RESNETS, _RESNET),
    Family("timm", _TIMM_RESNETS, _RESNET),
    Family("timm", _PREACTS, _TIMM_PREACT),
)
