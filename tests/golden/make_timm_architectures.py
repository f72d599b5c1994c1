"""Writes timm_architectures.json: python tests/golden/make_timm_architectures.py

Needs torch and timm; the tests do not. For every name of timm's registry in the files of ViT, DeiT,
Swin, ResNet and VGG the file has the class of the network, and the arguments of its constructor
that differ from the defaults of the class. Values without a form in JSON are written by name.
"""

import functools
import inspect
import json
import pathlib
import sys
import types
import warnings

# torchvision's compiled operators do not load with a CPU build of torch; networks need none.
sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("unused"))

import timm  # noqa: E402
from timm.models import _registry  # noqa: E402

FILES = {
    "vision_transformer": ("VisionTransformer",),
    "deit": ("VisionTransformerDistilled",),
    "swin_transformer": ("SwinTransformer",),
    "swin_transformer_v2": ("SwinTransformerV2",),
    "resnet": ("ResNet",),
    "resnetv2": ("ResNetV2",),
    "vgg": ("VGG",),
}


class Stop(Exception):
    """Ends the construction of a network when its arguments are known."""


def plain(value):
    """Return a value in a form of JSON."""
    if isinstance(value, functools.partial):
        return f"{plain(value.func)}({plain(value.keywords)})"
    if callable(value):
        return value.__name__
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return {k: plain(v) for k, v in value.items()} if isinstance(value, dict) else value


def stop_at(network: type):
    """Replace the constructor by one that raises `Stop` with the class and the arguments."""
    defaults = {}
    for base in reversed(network.__mro__):
        if base.__module__.startswith("timm") and "__init__" in vars(base):
            original = getattr(base.__init__, "original", base.__init__)
            parameters = inspect.signature(original).parameters.values()
            defaults.update({p.name: p.default for p in parameters if p.default is not p.empty})

    original = network.__init__

    def constructor(self, *args, **kwargs):
        names = [name for name in inspect.signature(original).parameters if name != "self"]
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        changed = {k: plain(v) for k, v in given.items() if defaults.get(k, Stop) != v}
        raise Stop(type(self).__name__, changed)

    constructor.original = original
    network.__init__ = constructor


def main():
    warnings.simplefilter("ignore")
    for file, classes in FILES.items():
        for name in classes:
            stop_at(getattr(sys.modules[f"timm.models.{file}"], name))
    found = {}
    for file in FILES:
        for name in sorted(_registry._module_to_models[file]):
            if name in _registry._deprecated_models:
                continue
            try:
                timm.create_model(name)
            except Stop as stop:
                network, arguments = stop.args
                for free in ("img_size", "num_classes", "in_chans"):
                    arguments.pop(free, None)
                found[name] = {"class": network, **arguments}
    path = pathlib.Path(__file__).parent / "timm_architectures.json"
    lines = (f"{json.dumps(name)}: {json.dumps(facts)}" for name, facts in found.items())
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(path.name, len(found), "architectures", path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
