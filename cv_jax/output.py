r"""Standard output and standard error of a command whose reader, terminal or disk may be lost.

Control characters reach the terminal as text, such as `\x1b`, whatever printed them.

Text on standard error is never required: what cannot be written is dropped. Text on standard output
is the result of a command, unless the command calls `optional`: then training, for example, goes on
without its output.
"""

import errno
import io
import logging
import os
import re
import sys

from cv_jax.errors import RunError, one_line, printable

# What a message, a table and a progress bar need: line breaks, and to go up and erase.
_LAYOUT = re.compile(r"([\n\r\t]|\x1b\[\d*[AJK])")


class _Stream(io.FileIO):
    """File that drops what cannot be written.

    Attributes:
      required: whether a failed write ends the command. Later text is dropped.
    """

    required = False

    def write(self, data):
        try:
            written = super().write(data)
            if written is not None:
                return written
            reason = BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        except OSError as error:
            reason = error
        if self.required:
            self.required = False
            if reason.errno == errno.EPIPE:  # the reader (head, less) has ended
                raise SystemExit(0)
            raise RunError(f"standard output cannot be written: {reason.strerror}")
        return len(data)


class _Text(io.TextIOWrapper):
    """Text stream that escapes control characters."""

    def write(self, text):
        if not text.isprintable():
            parts = _LAYOUT.split(text)  # text, separator, text, …
            text = "".join(part if i % 2 else printable(part) for i, part in enumerate(parts))
        return super().write(text)


class _OneLine(logging.Formatter):
    def format(self, record):
        return one_line(super().format(record))


def guard() -> None:
    """Replace `sys.stdout` and `sys.stderr`, and print warnings of the log as lines."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        # Paths may not be valid UTF-8.
        encoding = getattr(getattr(sys, name), "encoding", "utf-8")
        raw = io.BufferedWriter(_Stream(number, "w", closefd=False))
        lines = _Text(raw, encoding, "backslashreplace", line_buffering=True)
        setattr(sys, name, lines)
    sys.stdout.buffer.raw.required = True
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def optional() -> None:
    """Go on without standard output if it cannot be written."""
    stream = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(stream, _Stream):
        stream.required = False
