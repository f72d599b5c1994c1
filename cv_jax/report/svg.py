"""Matplotlib figures as SVG inside a page: text stays text, and colours follow the scheme.

Figures are drawn with stand-in colours, which become `currentColor` and the CSS variables of
`templates/style.css`. So one picture is readable on a light and on a dark page.
"""

import contextlib
import hashlib
import io
import re
from collections.abc import Iterator

import matplotlib
from cycler import cycler
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from cv_jax.errors import printable
from cv_jax.inspect.look.figures import COLOURS

INK, RULE = "#0b0c0d", "#c9cacb"  # stand-ins that no colour map contains by chance

SMALLEST = 0.6  # share of the size in which text is still readable; a narrower page scrolls

# Stand-in → value in the page. Lines of `look` have the same colours as curves.
_IN_PAGE = {
    INK: "currentColor",
    RULE: "var(--rule)",
    **{colour.lower(): f"var(--series-{i})" for i, colour in enumerate(COLOURS)},
}

_SETTINGS = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.edgecolor", "grid.color", "legend.edgecolor"), RULE),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.titlesize": 11,
    "font.size": 10,
    "legend.frameon": False,
    "svg.fonttype": "none",
}


@contextlib.contextmanager
def theme() -> Iterator[None]:
    """Draw all figures of the block for `to_svg`."""
    with matplotlib.rc_context(_SETTINGS):
        yield


def to_svg(figure: Figure, label: str) -> Markup:
    """Return a figure that was drawn inside `theme` as an element of a page.

    Args:
      figure: the figure.
      label: description for readers without the picture.
    """
    stream = io.StringIO()
    name = hashlib.sha256(label.encode()).hexdigest()[:8]
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", metadata=nothing)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = _with_own_names(text, name)
    text = re.sub(r'style="[^"]*"', _coloured, text)
    # The size is in the view box; a fixed one would not fit a narrow page.
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', text)[1]) * 4 / 3  # pixels
    head, body = text.split(">", 1)
    head = re.sub(r' (width|height|xmlns|xmlns:xlink|version)="[^"]*"', "", head)
    head += f' role="img" aria-label="{escape(printable(label))}"'
    head += f' style="max-width:{width:.0f}px;min-width:{SMALLEST * width:.0f}px"'
    return Markup(f"{head}>{body}")


def _coloured(style: re.Match) -> str:
    return re.sub(r"#[0-9a-f]{6}", lambda colour: _IN_PAGE.get(colour[0], colour[0]), style[0])


def _with_own_names(text: str, prefix: str) -> str:
    """Remove the ids that nothing refers to, and make the others unique in the page."""
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))

    def named(match):
        return f' id="{prefix}-{match[1]}"' if match[1] in used else ""

    text = re.sub(r' id="([^"]*)"', named, text)
    text = re.sub(r"url\(#", f"url(#{prefix}-", text)
    return re.sub(r'xlink:href="#', f'href="#{prefix}-', text)
