"""Atomic writes of weight files, and .safetensors input and output."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping

import numpy as np

from cv_jax.errors import InputError

INSTALL = 'pip install "cv_jax[weights]"'


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a new empty file beside `path`, which replaces `path` if the block succeeds.

    Raises:
      InputError: the folder or the file cannot be written.
    """
    scratch = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        os.close(handle)
        yield pathlib.Path(scratch)
        # mkstemp and safetensors ignore the umask; set the default permissions.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(scratch, 0o666 & ~mask)
        with open(scratch, "rb") as f:
            os.fsync(f.fileno())
        os.replace(scratch, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        if scratch is not None:
            pathlib.Path(scratch).unlink(missing_ok=True)


def read_safetensors(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return `(arrays by name, metadata)` of a .safetensors file.

    Raises:
      InputError: safetensors is not installed, or the file cannot be read.
    """
    safetensors = _safetensors()
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return arrays, file.metadata() or {}
    except Exception as error:  # types of numbers that NumPy does not have raise AttributeError
        raise InputError(f"cannot read {path}: {_line(error)}") from None


def write_safetensors(
    path: pathlib.Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Write a .safetensors file.

    Raises:
      InputError: safetensors is not installed, or the file cannot be written.
    """
    safetensors = _safetensors()
    # safetensors ignores strides: arrays must be contiguous.
    arrays = {name: np.asarray(x, order="C") for name, x in arrays.items()}
    with replacing(path) as scratch:
        try:
            safetensors.numpy.save_file(arrays, scratch, dict(metadata))
        except safetensors.SafetensorError as error:
            raise OSError(_line(error)) from None


def _safetensors():
    try:
        import ml_dtypes  # noqa: F401  # registers bfloat16 with NumPy
        import safetensors.numpy
    except ImportError:
        raise InputError(f".safetensors files need the safetensors package: {INSTALL}") from None
    return safetensors


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
