"""Images are opened in one place, with its formats and limits."""

import re
from pathlib import Path

from cv_jax.data import decode


def test_images_are_opened_in_one_place():
    """Every other place would have its own formats and limits."""
    readers = r"Image\.open\(|imread|imdecode|decode_jpeg\(|frombuffer\(.*Image|decode_image"
    package = Path(decode.__file__).parent.parent
    files = [f for f in package.rglob("*.py") if re.search(readers, f.read_text())]
    assert files == [Path(decode.__file__)]
    text = Path(decode.__file__).read_text()
    assert re.findall(r"Image\.open\(.*", text) == [
        "Image.open(io.BytesIO(data), formats=FORMATS) as image:"
    ]
