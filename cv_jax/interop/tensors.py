"""Reads the arrays of weight files of other libraries: .safetensors, pickled and .npz files.

Large weights are split into several files; an index, `<file>.index.json`, names the file of each
array. Nested dictionaries of a pickled checkpoint become paths: the array "conv1.weight" of
`{"state_dict": {…}, "epoch": 3}` has the name "state_dict/conv1.weight".
"""

import contextlib
import io
import pathlib
import pickletools
import re
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # names of Python 2, as pickle itself
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from cv_jax.errors import InputError, one_line
from cv_jax.interop.disk import read_safetensors
from cv_jax.paths import read_json, require_file

PICKLED = (".pth", ".pt", ".bin", ".ckpt", ".tar")
INDEX = ".index.json"
SUFFIXES = (".safetensors", *PICKLED, ".npz")
ALLOWED = ", ".join((*SUFFIXES, f"*{INDEX}"))

# A .zip file may be this large when it is unpacked, or this many times its size.
_ARCHIVE_BYTES, _ARCHIVE_RATIO = 2**27, 20

# Names of classes of which the pickle sets items, as of a dictionary.
_DICTIONARIES = re.compile(r".*(?i:dict|cfgnode)")


def read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return `(arrays by name, metadata)`; only .safetensors files have metadata.

    Raises:
      InputError: the file cannot be read, or a required package is not installed; one line.
    """
    require_file(path)
    name = path.name
    if name.endswith(INDEX):
        return _read_shards(path), {}
    if name.endswith(".safetensors"):
        return read_safetensors(path)
    if name.endswith(PICKLED):
        return _read_pickled(path), {}
    if name.endswith(".npz"):
        try:
            _check_archive(path)
            with np.load(path) as file:
                return {name: _plain(name, file[name]) for name in file}, {}
        except Exception as error:  # zipfile, pickle and NumPy raise different types
            raise InputError(f"cannot read {path}: {one_line(error)}") from None
    raise InputError(f"cannot read {path}: allowed are {ALLOWED} and folders")


def shards(index: pathlib.Path) -> dict[str, list[str]]:
    """Return the files that an index names, in its folder, and the arrays that each should hold.

    Raises:
      InputError: the index cannot be read, or names a file of another folder.
    """
    try:
        files = read_json(index)["weight_map"]
        names = {}
        for array, file in files.items():
            names.setdefault(str(file), []).append(array)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"cannot read {index}: {type(error).__name__}: {error}") from None
    for file in names:
        if pathlib.PurePath(file).name != file or "\\" in file or file.endswith(INDEX):
            raise InputError(f"cannot read {index}: {file!r} is not the name of a file beside it")
    return names


def torch_for(path: pathlib.Path):
    """Return the module `torch`, which reads and writes the pickled file `path`.

    Raises:
      InputError: PyTorch is not installed.
    """
    try:
        import torch
    except ImportError:
        raise InputError(
            f"{path.suffix} files need PyTorch (pip install torch); .safetensors files do not"
        ) from None
    return torch


def _check_archive(path: pathlib.Path) -> None:
    """Raise a `ValueError` for a .zip file that is many times larger when it is unpacked.

    Weights can hardly be compressed.
    """
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > max(_ARCHIVE_BYTES, _ARCHIVE_RATIO * path.stat().st_size):
        raise ValueError(f"the arrays of {path.stat().st_size:,} bytes would take {size:,}")


def _plain(name: str, found: Any) -> np.ndarray:
    """Return an array of numbers; an archive may hold other things under the name of one."""
    if not isinstance(found, np.ndarray) or found.dtype.names or found.dtype.kind in "OSUmM":
        raise ValueError(f"{name} is no array of numbers")
    return found


def _read_shards(index: pathlib.Path) -> dict[str, np.ndarray]:
    arrays = {}
    for file, names in shards(index).items():
        part = index.parent / file
        if not part.is_file():
            raise InputError(f"{index} names {file}, which does not exist")
        found, _ = read(part)
        missing = [name for name in names if name not in found]
        if missing:
            raise InputError(f"{part} lacks {missing[0]}, which {index.name} expects there")
        arrays.update((name, found[name]) for name in names)
    return arrays


def _read_pickled(path: pathlib.Path) -> dict[str, np.ndarray]:
    torch = torch_for(path)
    if any("/code/" in name for name in _members(path)):
        raise InputError(f"{path} is a TorchScript program; save the state_dict of its network")
    try:
        if _members(path):
            _check_archive(path)
        # weights_only rejects everything but tensors and containers: a pickle can run any code.
        with _placeholders(torch, path):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zipfile and torch raise different types
        raise InputError(
            f"cannot read {path}: {_reason(error)}; a file with nothing but the state_dict of a "
            "network can be read"
        ) from None
    arrays = dict(_arrays(content, torch))
    if not arrays:
        raise InputError(
            f"{path} holds no arrays with names; save the state_dict of a network, not the network"
        )
    return arrays


def _reason(error: Exception) -> str:
    """Return one line of torch's message without its advice to read the file unprotected."""
    lines = [line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if "weights_only" not in line] or ["not a plain checkpoint"]
    return lines[0].removeprefix("WeightsUnpickler error: ")


def _arrays(content: Any, torch, place: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Yield all tensors in nested dictionaries with their paths."""
    if not isinstance(content, Mapping):
        return
    for key, x in content.items():
        if isinstance(x, Mapping):
            yield from _arrays(x, torch, f"{place}{key}/")
        elif hasattr(x, "numpy"):
            x = x.detach()
            yield f"{place}{key}", (x.float() if x.dtype == torch.bfloat16 else x).numpy()


class _Opaque:
    """Takes the place of an object that is no weight; runs no code of the file."""

    def __new__(cls, *unused, **ignored):
        return super().__new__(cls)

    def __setstate__(self, state):
        pass


class _OpaqueDict:
    """As `_Opaque`, for objects of which the pickle sets items."""

    def __new__(cls, *unused, **ignored):
        return OrderedDict()


def _placeholders(torch, path: pathlib.Path):
    """Return a context in which `torch.load` replaces objects that are no weights.

    Checkpoints hold arguments (`argparse.Namespace`), metrics (NumPy scalars) and configs beside
    the weights. `weights_only` rejects their classes. Here an inert object takes the place of each
    of them: no class and no function that the file names is imported or called.
    """
    names = _named_objects(path)
    if not names or not hasattr(torch, "serialization"):
        return contextlib.nullcontext()
    # torch prefers its own classes, such as those of tensors, to these.
    return torch.serialization.safe_globals(
        [(_OpaqueDict if _DICTIONARIES.fullmatch(name) else _Opaque, name) for name in names]
    )


def _named_objects(path: pathlib.Path) -> set[str]:
    """Return the dotted names of all classes and functions in a pickled file."""
    names = set()
    try:
        for stream in _pickles(path):
            for operation, argument, _ in pickletools.genops(stream):
                if operation.name == "GLOBAL":
                    module, name = argument.split(" ", 1)
                    module, name = NAME_MAPPING.get((module, name), (module, name))
                    names.add(f"{IMPORT_MAPPING.get(module, module)}.{name}")
    except (OSError, ValueError, StopIteration, zipfile.BadZipFile):
        pass  # torch.load reports a damaged file
    return names


def _members(path: pathlib.Path) -> list[str]:
    """Return the names in a .zip file; [] for another file."""
    if not zipfile.is_zipfile(path):
        return []
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def _pickles(path: pathlib.Path) -> Iterator[io.BufferedIOBase]:
    """Yield the pickles of a file of `torch.save`: one in a .zip file, or four in sequence."""
    names = _members(path)
    if names:
        with zipfile.ZipFile(path) as archive:
            yield io.BytesIO(archive.read(next(n for n in names if n.endswith("data.pkl"))))
    else:
        with open(path, "rb") as file:
            for _ in range(4):
                yield file
