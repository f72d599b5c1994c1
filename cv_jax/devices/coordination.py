"""The end of JAX's coordination service: a function is called, where JAX would abort the process.

JAX ends a process with a C++ stack trace and SIGABRT as soon as the service reports an error or
does not answer: if process 0 was killed, for example. JAX's client takes a Python function for this
case, but a version that cannot convert the argument of the function raises an uncaught C++
exception instead (`std::bad_cast`), and the process aborts all the same. The handler of uncaught
exceptions, `std::set_terminate`, is the last place before that.
"""

import contextlib
import ctypes
import functools
import os
from collections.abc import Callable, Iterator

from jax._src import distributed

_ABOVE_ERRORS = 3  # level of absl
_Handler = ctypes.CFUNCTYPE(None)
_kept = []  # C++ holds no reference to a handler


@contextlib.contextmanager
def on_loss(act: Callable[[], None]) -> Iterator[None]:
    """Let the client that JAX makes in this context call `act` when the service is lost.

    Args:
      act: ends the process; called in a thread of JAX.
    """
    library, make = distributed._jax, distributed._jax.get_distributed_runtime_client
    library.get_distributed_runtime_client = functools.partial(
        make, missed_heartbeat_callback=lambda *status: act()
    )
    try:
        yield
    finally:
        library.get_distributed_runtime_client = make
    _hide_errors()
    _handle_bad_casts(act)


def _hide_errors() -> None:
    """Hide the errors that XLA logs before the call, unless the user has chosen a level."""
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") != "1":  # JAX sets 1 when it is imported
        return
    with contextlib.suppress(ImportError, AttributeError):  # no part of JAX's interface
        from jax._src.lib import utils

        utils.absl_set_min_log_level(_ABOVE_ERRORS)


def _handle_bad_casts(act: Callable[[], None]) -> None:
    """Call `act` for an uncaught `std::bad_cast`, and the handler before for all others."""
    try:
        library = ctypes.CDLL("libstdc++.so.6")
        set_terminate = library._ZSt13set_terminatePFvvE
        current_type = library.__cxa_current_exception_type
        bad_cast = ctypes.addressof(ctypes.c_char.in_dll(library, "_ZTISt8bad_cast"))
    except (OSError, AttributeError, ValueError):  # another C++ library: JAX aborts as ever
        return
    set_terminate.restype = current_type.restype = ctypes.c_void_p

    @_Handler
    def handle():
        if current_type() == bad_cast:
            act()
        before()

    before = _Handler(set_terminate(handle))
    _kept.append(handle)
