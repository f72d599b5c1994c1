"""Reads a page with html.parser: what a browser would load, run and show."""

import base64
import io
from html.parser import HTMLParser

from PIL import Image

ADDRESSES = ("src", "href", "xlink:href", "srcset", "action", "data", "poster", "formaction")


class Page(HTMLParser):
    """Tags, addresses, scripts and text of a page.

    Attributes:
      source: the page.
      tags: (name, attributes) of every start tag, in order.
      words: all text outside of scripts and styles.
      scripts: the text of every script.
      styles: the text of every style sheet.
    """

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.words, self.scripts, self.styles = [], "", [], []
        self._inside = None
        self.source = text
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside == "style":
            self.styles.append(data)
        else:
            self.words += data

    def addresses(self):
        """Every address that an element names, as (tag, address)."""
        return [(t, v) for t, attrs in self.tags for k, v in attrs.items() if k in ADDRESSES]

    def images(self):
        """The decoded picture of every data URI."""
        uris = [v for tag, v in self.addresses() if tag in ("img", "image")]
        assert all(uri.startswith("data:image/") for uri in uris)
        found = [Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) for uri in uris]
        for image in found:
            image.load()
        return found

    def check_alone(self):
        """Assert that the page needs no other file but the pages that it links to."""
        for tag, address in self.addresses():
            inside = address.startswith(("#", "data:image/"))
            linked = tag == "a" and address.endswith("report.html") and "://" not in address
            assert inside or linked, (tag, address[:80])
        assert not {"iframe", "object", "embed", "link", "base", "form"} & {t for t, _ in self.tags}
        assert not any(name.startswith("on") for _, attrs in self.tags for name in attrs)
        for text in self.styles:
            assert "url(" not in text
            assert "@import" not in text
        assert len(self.scripts) == 1
        ids = [attrs["id"] for _, attrs in self.tags if "id" in attrs]
        assert len(ids) == len(set(ids))


def read(file):
    """Return the page of a file, after the checks that hold for every page."""
    page = Page(file.read_text())
    page.check_alone()
    page.images()
    return page
