"""Arrays of pixels as small pictures inside a page (data URIs)."""

import base64
import io

import numpy as np
from PIL import Image

SIDE = 128  # largest side in pixels; smaller images keep their size


def data_uri(pixels: np.ndarray, side: int = SIDE) -> str:
    """Return an image as `data:image/…;base64,…`: PNG, or JPEG where it was made smaller.

    Args:
      pixels: uint8 [H, W, C], one, three or four channels; the fourth is left out.
      side: largest side of the picture in pixels.
    """
    pixels = np.asarray(pixels, np.uint8)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] < 3 else pixels[..., :3])
    large = max(image.size) > side
    if large:
        image.thumbnail((side, side))
    kind = "jpeg" if large or image.width * image.height > 96 * 96 else "png"
    stream = io.BytesIO()
    image.save(stream, format=kind, **({"quality": 85} if kind == "jpeg" else {"optimize": True}))
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
