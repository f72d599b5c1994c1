"""Host operations: NumPy, on single decoded examples, before batching.

Each factory returns `(generator, image) → image`, uint8 [H, W, C] to uint8 [H', W', C]. Each
position of the run's stream has its own generator, so draws are a function of seed and position.
`method` is one of `resample.METHODS`. Random operations use the quick resampler, deterministic ones
match Pillow exactly; see `resample`.

An image may be a `data.decode.Jpeg`: if it is cropped first, only the window is decoded.
"""

import math

import numpy as np

from cv_jax.augment.boxes import check_area_and_ratio
from cv_jax.augment.resample import METHODS, resample

SIDE = 32767  # largest image side in pixels (OpenCV), and largest number in an augmentation


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"size must be positive, got {size}")
    return height, width


def _method(method: str) -> str:
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; allowed: {', '.join(METHODS)}")
    return method


def resize(size: int | tuple[int, int], method: str = "bilinear"):
    """Resize to a square of side `size`, or to (height, width); the aspect may change."""
    size, method = _pair(size), _method(method)
    return lambda generator, image: resample(image, size, method)


def resize_small(size: int | tuple[int, int], method: str = "bilinear"):
    """Resize the shorter side to `size` and keep the aspect; the longer side is rounded down, as in
    torchvision. With (height, width): to the smallest image that covers them, rounded as in timm's
    `ResizeKeepRatio`."""
    (height, width), method = _pair(size), _method(method)

    def apply(generator, image):
        if isinstance(size, int):
            return resample(image, _small(image, size), method)
        rows, columns = image.shape[:2]
        ratio = min(rows / height, columns / width)
        return resample(image, (round(rows / ratio), round(columns / ratio)), method)

    return apply


def random_resize_small(smallest: int, largest: int, method: str = "bilinear"):
    """`resize_small` to a size uniform in smallest…largest: the scale augmentation of VGG (Simonyan
    and Zisserman, 2014, section 3.1) and of the residual nets."""
    if not 0 < smallest <= largest:
        raise ValueError(f"sizes must be 0 < smallest <= largest, got {smallest}, {largest}")
    _method(method)

    def apply(generator, image):
        size = int(generator.integers(smallest, largest + 1))
        return resample(image, _small(image, size), method, quick=True)

    return apply


def _small(image, size: int) -> tuple[int, int]:
    """Height and width of the image after its shorter side is resized to `size`."""
    height, width = image.shape[:2]
    return height * size // min(height, width), width * size // min(height, width)


def central_crop(size: int | tuple[int, int]):
    """Crop the centre of the image; sides shorter than `size` are padded with zeros."""
    height, width = _pair(size)

    def apply(generator, image):
        image = _pad_to(image, height, width)
        top = round((image.shape[0] - height) / 2)
        left = round((image.shape[1] - width) / 2)
        return image[top : top + height, left : left + width]

    return apply


def mirror():
    """Mirror left and right."""
    return lambda generator, image: np.asarray(image)[:, ::-1]


def shift(down: int, right: int):
    """Shift by whole pixels; negative values shift up and left. New pixels are black."""

    def apply(generator, image):
        image = np.asarray(image)
        moved = np.zeros_like(image)
        height, width = image.shape[:2]
        rows, columns = max(0, height - abs(down)), max(0, width - abs(right))
        top, left = max(0, down), max(0, right)
        moved[top : top + rows, left : left + columns] = image[
            max(0, -down) : max(0, -down) + rows, max(0, -right) : max(0, -right) + columns
        ]
        return moved

    return apply


def shuffle_pixels(seed: int = 0):
    """Move the pixels by a random permutation, the same for all images of one size.

    Each pixel keeps its channels. A network whose layers treat all positions alike, such as a fully
    connected one, loses nothing; neighbours are no longer neighbours for a convolution.
    """
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")

    def apply(generator, image):
        image = np.asarray(image)
        height, width, channels = image.shape
        order = np.random.default_rng(seed).permutation(height * width)
        return image.reshape(height * width, channels)[order].reshape(image.shape)

    return apply


def random_crop(size: int | tuple[int, int]):
    """Crop a window at a uniform position; sides shorter than `size` are padded with zeros."""
    height, width = _pair(size)

    def apply(generator, image):
        image = _pad_to(image, height, width)
        top = generator.integers(image.shape[0] - height + 1)
        left = generator.integers(image.shape[1] - width + 1)
        return image[top : top + height, left : left + width]

    return apply


def inception_crop(
    size: int | tuple[int, int],
    min_area: float = 0.08,
    max_area: float = 1.0,
    min_ratio: float = 3 / 4,
    max_ratio: float = 4 / 3,
    method: str = "bilinear",
):
    """Crop a window of random area and aspect, and resize it to `size` (Szegedy et al., 2015,
    section 6).

    The share of the area is uniform, the aspect is log-uniform. The first of ten draws that fits is
    used; if no draw fits, the largest central window of allowed aspect, as in torchvision.
    """
    size, method = _pair(size), _method(method)
    check_area_and_ratio(min_area, max_area, min_ratio, max_ratio)

    def window(generator, height, width):
        for _ in range(10):
            area = height * width * generator.uniform(min_area, max_area)
            ratio = math.exp(generator.uniform(math.log(min_ratio), math.log(max_ratio)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                top, left = generator.integers(height - h + 1), generator.integers(width - w + 1)
                return top, left, h, w
        ratio = min(max(width / height, min_ratio), max_ratio)
        w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
        return (height - h) // 2, (width - w) // 2, h, w

    def apply(generator, image):
        top, left, h, w = window(generator, *image.shape[:2])
        return resample(image[top : top + h, left : left + w], size, method, quick=True)

    return apply


def _pad_to(image, height, width):
    down, right = max(0, height - image.shape[0]), max(0, width - image.shape[1])
    if not down and not right:
        return image
    return np.pad(
        np.asarray(image), ((down // 2, down - down // 2), (right // 2, right - right // 2), (0, 0))
    )


# The output of deterministic operations can be cached.
DETERMINISTIC = {
    "resize": resize,
    "resize_small": resize_small,
    "central_crop": central_crop,
    "mirror": mirror,
    "shift": shift,
    "shuffle_pixels": shuffle_pixels,
}
RANDOM = {
    "random_resize_small": random_resize_small,
    "random_crop": random_crop,
    "inception_crop": inception_crop,
}
