"""Resampling on the host: uint8 [H, W, C] to another height and width.

The filters are Pillow's: their support grows when an image shrinks (antialiasing). The exception is
"linear": OpenCV's interpolation between the nearest four pixels. It is faster, and aliases when an
image shrinks, like `tf.image.resize`.

Rows are resampled first, then columns, with rounding to integer grey levels in between. Pillow uses
this order up to version 12. Pillow 13 starts with the columns if the height shrinks more, which
rounds and clips differently. Pixels must not depend on Pillow's version, so each axis is a separate
call.
"""

import cv2
import numpy as np
from PIL import Image

try:
    import cykooz_resizer as vectorised
except ImportError:  # no wheel for Linux on ARM
    vectorised = None

cv2.setNumThreads(1)  # the loader has its own threads

METHODS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "linear": None,
}
# Names of the filters in the vectorised resampler.
_FILTERS = {"bilinear": "bilinear", "bicubic": "catmull_rom", "lanczos": "lanczos3"}
_PIXELS = {1: "U8", 3: "U8x3", 4: "U8x4"}


def resample(image, size: tuple[int, int], method: str, *, quick: bool = False) -> np.ndarray:
    """Resize an image.

    Args:
      image: uint8 [H, W, C], any C.
      size: (height, width).
      method: one of `METHODS`.
      quick: use the processor's vector instructions; "bilinear", "bicubic" and "lanczos" are three
        to eight times faster. The arithmetic is integer, with fewer bits than Pillow's, and equal
        on every processor. One level in 200 differs from Pillow by one; with "bicubic" and
        "lanczos", two in a million differ by two.

    Returns:
      uint8 [height, width, C].
    """
    height, width = size
    image = np.asarray(image)
    if image.shape[:2] == (height, width):
        return image
    if method == "linear":
        resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        return resized.reshape(height, width, -1)  # OpenCV drops an axis of length 1
    if quick and vectorised and method in _FILTERS and image.shape[-1] in _PIXELS:
        return _with_vectors(image, height, width, method)
    if image.shape[-1] == 3:
        return _with_pillow(image, height, width, method)
    planes = np.moveaxis(image, -1, 0)
    return np.stack([_with_pillow(plane, height, width, method) for plane in planes], axis=-1)


def _with_pillow(image: np.ndarray, height: int, width: int, method: str) -> np.ndarray:
    """Resize [H, W] or [H, W, 3] with Pillow."""
    across = Image.fromarray(image).resize((width, len(image)), METHODS[method])
    return np.asarray(across.resize((width, height), METHODS[method]))


def _with_vectors(image: np.ndarray, height: int, width: int, method: str) -> np.ndarray:
    """Resize [H, W, 1, 3 or 4] with vector instructions. Releases the GIL, like Pillow."""
    rows, columns, channels = image.shape
    pixel = vectorised.PixelType[_PIXELS[channels]]
    kernel = vectorised.ResizeAlg.convolution(vectorised.FilterType[_FILTERS[method]])
    options = vectorised.ResizeOptions(resize_alg=kernel, use_alpha=False)
    resizer = vectorised.Resizer()
    current = vectorised.ImageData(columns, rows, pixel, image.tobytes())
    for shape in ((width, rows), (width, height)):
        source, current = current, vectorised.ImageData(*shape, pixel)
        resizer.resize(source, current, options)
    return np.frombuffer(current.get_buffer(), np.uint8).reshape(height, width, channels)
