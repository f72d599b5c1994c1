"""Reference implementation of a plan's operations in Pillow, as in timm and torchvision."""

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

METHODS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def to_pillow(array: np.ndarray) -> Image.Image:
    """Convert grey levels [H, W, 1 or 3] of any dtype."""
    array = np.asarray(array).astype(np.uint8)
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def to_array(image: Image.Image) -> np.ndarray:
    """Convert to int64 [H, W, C]."""
    array = np.asarray(image).astype(int)
    return array if array.ndim == 3 else array[..., None]


def affine(image, matrix, method, fill):
    """Apply an affine map; `matrix` in Pillow's convention."""
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, METHODS[method], fillcolor=fill
    )


def operate(image: Image.Image, name: str, argument: float, method: str, fill: int) -> Image.Image:
    """Apply one operation of `plan.OPERATIONS`."""
    filled = fill if image.mode == "L" else (fill,) * 3
    enhancers = {
        "brightness": ImageEnhance.Brightness,
        "contrast": ImageEnhance.Contrast,
        "saturation": ImageEnhance.Color,
        "sharpness": ImageEnhance.Sharpness,
    }
    matrices = {
        "shear_x": (1, argument, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, argument, 1, 0),
        "translate_x": (1, 0, argument, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, argument),
    }
    if name in enhancers:
        return enhancers[name](image).enhance(argument)
    if name in matrices:
        return affine(image, matrices[name], method, filled)
    if name == "rotate":
        return image.rotate(argument, METHODS[method], fillcolor=filled)
    if name == "posterise":
        # Pillow does not accept 0 bits.
        return ImageOps.posterize(image, int(argument)) if argument else image.point(lambda v: 0)
    if name == "solarise":
        return ImageOps.solarize(image, argument)
    if name == "solarise_add":
        return image.point(lambda v: min(255, v + int(argument)) if v < 128 else v)
    whole = {
        "identity": lambda image: image,
        "autocontrast": ImageOps.autocontrast,
        "equalise": ImageOps.equalize,
        "invert": ImageOps.invert,
    }
    return whole[name](image)
