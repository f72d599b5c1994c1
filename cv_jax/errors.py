"""The one exception for mistakes that a user can mend."""


class InputError(Exception):
    """A mistake in the input: its message is one line that names what is wrong and what is allowed.

    The command line prints the message and exits with code 2; nothing has been overwritten.
    """
