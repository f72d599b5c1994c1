"""Weights of other libraries: single files, folders in the Hub's layout, and the Hugging Face Hub.

A folder in the Hub's layout contains `model.safetensors` (or `pytorch_model.bin`) and
`config.json`, which gives the architecture and the image preprocessing. timm publishes its weights
in this layout and reads it with `timm.create_model("local-dir:FOLDER")`.
"""

import json
import pathlib
from typing import Any, NamedTuple

import numpy as np

from cv_jax.errors import InputError
from cv_jax.interop.disk import INSTALL, read_safetensors, replacing, write_safetensors

HUB = "hf-hub:"
CONFIG, WEIGHTS, PICKLED_WEIGHTS = "config.json", "model.safetensors", "pytorch_model.bin"
PICKLED = (".pth", ".pt", ".bin")
SUFFIXES = (".safetensors", *PICKLED, ".npz")

# Keys under which training scripts store the weights.
_NESTED = ("state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema")


class Foreign(NamedTuple):
    """Weights of another library.

    Attributes:
      state_dict: name → numpy array.
      metadata: of a .safetensors file.
      config: the content of `config.json`; see `hub_config`.
    """

    state_dict: dict[str, np.ndarray]
    metadata: dict[str, str] = {}
    config: dict[str, Any] = {}


def read(place: str) -> Foreign:
    """Read a file, a folder in the Hub's layout, or `hf-hub:OWNER/NAME[@REVISION]`.

    Raises:
      InputError: the place does not exist or cannot be read; one line with the reason and a remedy.
    """
    if place.startswith(HUB):
        return _read_files(*_download(place.removeprefix(HUB)))
    path = pathlib.Path(place)
    if not path.exists():
        raise InputError(f"{place} does not exist; weights on the Hub are named {HUB}OWNER/NAME")
    if not path.is_dir():
        return _read_files(None, path)
    weights = next((path / n for n in (WEIGHTS, PICKLED_WEIGHTS) if (path / n).exists()), None)
    if weights is None:
        raise InputError(f"{place} holds neither {WEIGHTS} nor {PICKLED_WEIGHTS}")
    config = path / CONFIG
    return _read_files(config if config.exists() else None, weights)


def write(path: pathlib.Path, state_dict: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Write a state dict to a file with one of `SUFFIXES`, or else to a folder in the Hub's layout.

    Raises:
      InputError: the file cannot be written, or a required package is not installed.
    """
    if path.suffix in PICKLED:
        torch = _torch(path)
        with replacing(path) as scratch:
            torch.save({key: torch.from_numpy(x) for key, x in state_dict.items()}, scratch)
    elif path.suffix == ".npz":
        with replacing(path) as scratch, open(scratch, "wb") as f:
            np.savez(f, **state_dict)
    elif path.suffix == ".safetensors":
        write_safetensors(path, state_dict, {"format": "pt"})
    else:
        write_safetensors(path / WEIGHTS, state_dict, {"format": "pt"})
        with replacing(path / CONFIG) as scratch:
            scratch.write_text(json.dumps(config, indent=2) + "\n")


def _read_files(config: pathlib.Path | None, weights: pathlib.Path) -> Foreign:
    state_dict, metadata = _read_tensors(weights)
    if config is None:
        return Foreign(state_dict, metadata)
    try:
        facts = json.loads(config.read_text())
        if not isinstance(facts, dict):
            raise ValueError("it holds no JSON object")
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {config}: {error}") from None
    return Foreign(state_dict, metadata, facts)


def _read_tensors(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if path.suffix in PICKLED:
        return _read_pickled(path), {}
    if path.suffix == ".npz":
        try:
            with np.load(path) as file:
                return dict(file), {}
        except Exception as error:  # zipfile, pickle and NumPy raise different types
            raise InputError(f"cannot read {path}: {error}") from None
    raise InputError(f"cannot read {path}: allowed are {', '.join(SUFFIXES)} and folders")


def _read_pickled(path: pathlib.Path) -> dict[str, np.ndarray]:
    torch = _torch(path)
    try:
        # weights_only rejects everything but tensors and containers: a pickle can run any code.
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zipfile and torch raise different types
        raise InputError(f"cannot read {path}: {str(error).partition(chr(10))[0]}") from None
    nested = next((k for k in _NESTED if isinstance(content, dict) and k in content), None)
    tensors = content if nested is None else content[nested]
    named = isinstance(tensors, dict) and all(hasattr(x, "numpy") for x in tensors.values())
    if not named or not tensors:
        raise InputError(
            f"{path} holds no weights, neither at the top level nor in {', '.join(_NESTED)}"
        )
    # torch.nn.DataParallel adds the prefix `module.`.
    wrapped = all(key.startswith("module.") for key in tensors)
    return {
        key.removeprefix("module.") if wrapped else key: (
            x.detach().float() if x.dtype == torch.bfloat16 else x.detach()
        ).numpy()
        for key, x in tensors.items()
    }


def _torch(path: pathlib.Path):
    try:
        import torch
    except ImportError:
        raise InputError(
            f"{path.suffix} files need PyTorch (pip install torch); .safetensors files do not"
        ) from None
    return torch


def _download(repository: str) -> tuple[pathlib.Path, pathlib.Path]:
    """Download `config.json` and the weights, and return their local paths."""
    try:
        import huggingface_hub
    except ImportError:
        raise InputError(f"{HUB}{repository} needs huggingface_hub: {INSTALL}") from None
    name, _, revision = repository.partition("@")

    def fetch(file):
        return pathlib.Path(huggingface_hub.hf_hub_download(name, file, revision=revision or None))

    try:
        config = fetch(CONFIG)
        try:
            return config, fetch(WEIGHTS)
        except huggingface_hub.errors.EntryNotFoundError:
            return config, fetch(PICKLED_WEIGHTS)
    except Exception as error:  # network, Hub and cache errors have different types
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"cannot download {HUB}{repository}: {reason} (a local folder with {CONFIG} and "
            f"{WEIGHTS} works too)"
        ) from None
