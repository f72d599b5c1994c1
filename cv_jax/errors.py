"""Errors whose message is one line for the user, hints inside these messages, and exit codes."""

import argparse
import difflib
import enum
import errno
import os
import shlex
from collections.abc import Iterable


class ExitCode(enum.IntEnum):
    """Exit codes of every command."""

    DONE = 0
    FAILED = 1  # a failure outside the input, such as a full disk
    MISTAKE = 2  # a mistake in the input
    NOT_FINITE = 3  # the loss is NaN or infinite
    STOPPED = 75  # stopped by a signal with everything saved: run again to continue
    # Besides: 128 + the number of a signal that ended the process when there was nothing to save.


class InputError(Exception):
    """A mistake in the input.

    The message is one line: what is wrong, where, and what is allowed. The command line prints the
    message and exits with code 2. No file has been overwritten.
    """


class RunError(Exception):
    """A failure outside the input, such as a full disk. The exit code is 1."""


class Parser(argparse.ArgumentParser):
    """Parser of a command line that raises an `InputError` for a mistake."""

    def error(self, message):
        raise InputError(f"{message}; see {self.prog} --help")


# Errors of the system about a path that cannot be what the command needs.
_OF_PATHS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.EEXIST, errno.ENOTDIR)
_OF_PATHS += (errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO)


def exit_code(error: Exception) -> ExitCode | None:
    """Return the code of an error: 2 for a mistake, 1 for a failed system, `None` for a bug."""
    if isinstance(error, InputError):
        return ExitCode.MISTAKE
    if isinstance(error, OSError) and error.filename is not None and error.errno in _OF_PATHS:
        return ExitCode.MISTAKE
    if isinstance(error, (RunError, OSError, MemoryError)) or getattr(error, "errno", None):
        return ExitCode.FAILED
    return None


def printable(text: str) -> str:
    r"""Replace each character that would move the cursor or change a terminal, such as by `\n`."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def one_line(error: object, longest: int = 1000) -> str:
    """The message as one printable line, cut after `longest` characters; else the error's type.

    Messages of other libraries have several lines, which are joined. A line break in a message of
    this package belongs to a name that the user gave.
    """
    text = str(error).strip()
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    elif isinstance(error, MemoryError):
        text = f"out of memory; {text}".removesuffix("; ")
    elif not isinstance(error, (InputError, RunError)):
        text = " ".join(text.split())
    text = printable(text) or type(error).__name__
    return text if len(text) <= longest else f"{text[:longest]} …"


def shell_line(words: Iterable[str]) -> str:
    """Join words to one line that bash, zsh and ksh read as these words."""

    def quoted(word):
        if word.isprintable():
            return shlex.quote(word)
        text = word.replace("\\", r"\\").replace("'", r"\'")
        return "$'" + "".join(c if c.isprintable() else _octal(c) for c in text) + "'"

    return " ".join(map(quoted, words))


def _octal(character: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(character))


def did_you_mean(word: str, known: Iterable[str], prefix: str = "", count: int = 1) -> str:
    """A hint for the end of an error message: "; did you mean …?", or "" without a close match.

    Close matches are, in this order: the same last part of a dotted name, the initials of the last
    part ("lr" for "learning_rate"), a name of the same group that contains the word, and similar
    spelling.

    Args:
      word: the unknown name.
      known: the known names.
      prefix: text before the suggested name.
      count: the largest number of suggestions.
    """
    group, _, leaf = word.rpartition(".")
    leaves = {name: name.rpartition(".")[2] for name in known}
    same = [name for name in leaves if leaves[name] == leaf]
    initials = [n for n in leaves if leaf == "".join(part[:1] for part in leaves[n].split("_"))]
    inside = [name for name in leaves if name.startswith(f"{group}.") and leaf in leaves[name]]
    near = difflib.get_close_matches(word, leaves, n=count, cutoff=0.5)
    found = list(dict.fromkeys([*same, *initials, *inside, *near]))[:count]
    return f"; did you mean {' or '.join(prefix + name for name in found)}?" if found else ""
