"""Exceptions whose message is one line for the user."""


class InputError(Exception):
    """A mistake in the input: its message is one line that names what is wrong and what is allowed.

    The command line prints the message and exits with code 2; nothing has been overwritten.
    """


class RunError(Exception):
    """Something outside the input failed, such as a full disk; exit code 1."""


def one_line(error: object, longest: int = 1000) -> str:
    """A message without line ends, not too long."""
    text = " ".join(str(error).split())
    return text if len(text) <= longest else f"{text[:longest]} …"
