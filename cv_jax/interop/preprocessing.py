"""Evaluation preprocessing as `config.eval_preprocess` and in the terms of timm's `config.json`.

timm describes the preprocessing of an image by `crop_pct`, `interpolation` and `crop_mode`
(`timm.data.transforms_factory.transforms_imagenet_eval`): "center" resizes the shorter side to
size / crop_pct and crops the centre; "squash" resizes both sides.
"""

import math
from typing import Any

from cv_jax.config.terms import Term, parse_terms

# Names that mean the same method of Pillow here and in timm.
METHODS = ("nearest", "bilinear", "bicubic", "lanczos")


def published(facts: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """Return `Saved.evaluation` of the facts in a `config.json`; {} without facts."""
    text = from_timm(facts, size) if facts else None
    return {} if text is None else {"eval_preprocess": text}


def from_timm(facts: dict[str, Any], size: tuple[int, int]) -> str | None:
    """Return `config.eval_preprocess` with the pixels of timm's evaluation transform.

    Args:
      facts: `crop_pct`, `interpolation` and `crop_mode`; timm's default replaces a missing one.
      size: (height, width) of the model's input.

    Returns:
      The operations; `None` if no operations here have these pixels.
    """
    share, method = facts.get("crop_pct") or 0.875, facts.get("interpolation") or "bicubic"
    mode = facts.get("crop_mode") or "center"
    resized = tuple(math.floor(side / share) for side in size)
    if method not in METHODS or min(resized) < 1:
        return None
    if mode == "squash":
        crop = "" if resized == size else f"|central_crop({_text(size)})"
        return f"resize({_text(resized)}, {method!r}){crop}"
    if mode == "center":
        return f"resize_small({_text(resized)}, {method!r})|central_crop({_text(size)})"
    return None


def to_timm(text: str, size: tuple[int, int]) -> dict[str, Any] | None:
    """Return `crop_pct`, `interpolation` and `crop_mode` of `config.eval_preprocess`.

    Args:
      text: the operations; "" resizes to `size`.
      size: (height, width) of the model's input.

    Returns:
      The facts; `None` if timm's evaluation transform has other pixels.
    """
    terms = parse_terms(text or f"resize({_text(size)})", "config.eval_preprocess")
    first, rest = terms[0], [(term.name, _pair(_arguments(term)["size"])) for term in terms[1:]]
    if rest not in ([], [("central_crop", size)]):
        return None
    mode = {"resize": "squash", "resize_small": "center"}.get(first.name)
    given, method = _arguments(first)["size"], _arguments(first)["method"]
    resized = _pair(given)
    if mode is None or method not in METHODS:
        return None
    if mode == "center" and given == (resized[0], resized[0]):
        return None  # timm rounds the longer side as `resize_small` of one number does
    if not rest and (mode == "center" or resized != size):
        return None
    pairs = list(zip(size, resized, strict=True))
    largest, bound = min(a / b for a, b in pairs), max(a / (b + 1) for a, b in pairs)
    for share in (largest, (largest + bound) / 2):  # the quotient may be rounded up
        if tuple(math.floor(side / share) for side in size) == resized:
            return {"crop_pct": share, "interpolation": method, "crop_mode": mode}
    return None


def resized(text: str | None, old: tuple[int, int], new: tuple[int, int]) -> str | None:
    """Return `config.eval_preprocess` for another size of the input, with the same `crop_pct`.

    Returns:
      The operations; `None` if they are unknown or not in the form of `from_timm`.
    """
    if not text or old == new:
        return text
    facts = to_timm(text, old)
    return None if facts is None else from_timm(facts, new)


def _arguments(term: Term) -> dict[str, Any]:
    """Return `size` and `method` of `resize`, `resize_small` or `central_crop`."""
    given = dict(zip(("size", "method"), term.args, strict=False))
    return {"size": None, "method": "bilinear", **given, **term.kwargs}


def _pair(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    return (size, size) if isinstance(size, int) else size


def _text(size: tuple[int, int]) -> str:
    return str(size[0]) if size[0] == size[1] else f"({size[0]}, {size[1]})"
