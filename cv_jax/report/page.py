"""Pages: templates with data, written as one file that needs no other file and no network.

Every value from outside (names of classes and files, values of configs, messages) is data: Jinja
escapes it, and control characters are shown as text. The policy in the page allows its own script
only.
"""

import base64
import functools
import hashlib
import time
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from cv_jax.errors import InputError, printable
from cv_jax.interop.disk import replacing

FILE = "report.html"
_MARK = '<meta name="generator" content="cv_jax report">'


def render(template: str, title: str, **values: Any) -> str:
    """Return a page.

    Args:
      template: file in `templates`.
      title: of the page.
      **values: variables of the template.
    """
    pages = _environment()
    style, script = (_source(pages, name) for name in ("style.css", "sort.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return pages.get_template(template).render(
        title=title,
        style=style,
        script=script,
        script_digest=Markup(f"sha256-{digest}"),
        written=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        **values,
    )


def write(file: Path, text: str) -> None:
    """Write a page; an earlier page is replaced.

    Raises:
      InputError: the file exists and is no page of this module, or cannot be written.
    """
    require_replaceable(file)
    with replacing(file) as scratch:
        scratch.write_text(text, encoding="utf-8")


def require_replaceable(file: Path) -> None:
    """Raise an `InputError` if a page would replace something that is no page of this module."""
    if not file.exists():
        return
    if file.is_file():
        with file.open("rb") as opened:
            if _MARK.encode() in opened.read(1000):
                return
    raise InputError(f"{file} exists and is not a report; rename it, or give another --out")


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("cv_jax.report"),
        autoescape=True,
        finalize=_shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _shown(value: Any) -> Any:
    """Return a value as it is printed: control characters of names do not act in the page."""
    return value if isinstance(value, Markup) else printable(str(value))


def _source(pages: jinja2.Environment, name: str) -> Markup:
    return Markup(pages.loader.get_source(pages, name)[0])
