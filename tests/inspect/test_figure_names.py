"""Names from outside in figures: they are drawn as they are, and never read as formulas."""

import io
import re
from html import unescape

import jax
import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from small_nets import with_weights

from cv_jax import models
from cv_jax.inspect.look import ANALYSES, Subject, figures

NAMES = (r"$\foo$", "_a_b", "x^{2", r"\$1$", "100%", "$a$ $b$")


def texts(figure):
    """All texts of a figure as an SVG shows them, without the space before a name."""
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(stream, format="svg")
    return [
        unescape(t).strip() for t in re.findall(r"<text[^>]*>([^<]*)</text>", stream.getvalue())
    ]


def test_titles_labels_and_legends():
    figure, axes = figures.panels(1, 2, " ".join(NAMES))
    for axis in axes[0]:
        figures.plain(axis, "\n".join(NAMES[:3]))
    figures.lines(axes[0, 1], (0, 1), dict.fromkeys(NAMES, (0, 1)))
    figures.legend_below(figure, axes[0, 1], 3)
    axes[0, 1].set_xticks((0, 1), list(map(figures.text, NAMES[:2])))
    found = texts(figure)
    assert " ".join(NAMES) in " ".join(found)
    for name, count in zip(NAMES, (5, 5, 4, 2, 2, 2), strict=True):
        assert found.count(name) == count, name


@pytest.mark.parametrize("width", range(8, 20))
def test_a_line_break_beside_a_dollar_sign(width):
    title = r"$\frac$" * 8
    figure = Figure()
    figure.text(0, 0.5, "\n".join(figures._wrapped(title, width)))
    assert "".join(texts(figure)) == title


@pytest.mark.parametrize("name", ["errors", "neighbours", "projection"])
def test_classes_and_files(name):
    """`look` draws the names of classes and files."""
    count = 30
    images = jax.random.normal(jax.random.key(0), (count, 8, 8, 3))
    model = models.create("linear", num_classes=len(NAMES))
    pixels, labels = np.zeros((count, 8, 8, 3), np.uint8), np.arange(count) % len(NAMES)
    subject = Subject(
        model=model,
        variables=with_weights(model, images[:1]),
        images=images[:6],
        pixels=pixels[:6],
        names=NAMES,
        labels=labels[:6],
        class_names=NAMES,
        split=lambda: iter([{"inputs": (images,), "pixels": pixels, "label": labels}]),
        options={"projections": ("pca",)},
    )
    found = " ".join(text for x in ANALYSES[name](subject) for text in texts(x.figure))
    assert all(class_name in found for class_name in NAMES)
