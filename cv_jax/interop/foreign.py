"""Weights of other libraries: single files, folders in the Hub's layout, and the Hugging Face Hub.

A folder in the Hub's layout contains the weights, in one file or in several with an index, and
`config.json`, which gives the architecture and, for timm, the image preprocessing. transformers
has a further file for the preprocessing.
"""

import pathlib
from typing import Any, NamedTuple

import numpy as np

from cv_jax.errors import InputError, one_line
from cv_jax.interop import tensors
from cv_jax.interop.disk import INSTALL
from cv_jax.paths import read_json

HUB = "hf-hub:"
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS, PICKLED_WEIGHTS = "model.safetensors", "pytorch_model.bin"
# Names of the weights in a folder; the first that exists is read.
_WEIGHTS = (WEIGHTS, WEIGHTS + tensors.INDEX, PICKLED_WEIGHTS, PICKLED_WEIGHTS + tensors.INDEX)


class Foreign(NamedTuple):
    """Weights of another library.

    Attributes:
      state_dict: name → numpy array.
      metadata: of a .safetensors file.
      config: the content of `config.json`; see `hub_config`.
      preprocessor: the content of `preprocessor_config.json`; see `hugging_face_config`.
    """

    state_dict: dict[str, np.ndarray]
    metadata: dict[str, str] = {}
    config: dict[str, Any] = {}
    preprocessor: dict[str, Any] = {}


def read(place: str) -> Foreign:
    """Read a file, a folder in the Hub's layout, or `hf-hub:OWNER/NAME[@REVISION]`.

    Args:
      place: with `#ENTRY` at its end only the arrays in this dictionary or under this prefix, such
        as `state_dict_ema` or `teacher.backbone`.

    Raises:
      InputError: the place does not exist or cannot be read; one line with the reason and a remedy.
    """
    whole, entry = place, ""
    if not pathlib.Path(place).exists():
        whole, _, entry = place.partition("#")
    found = _read(whole)
    if not entry:
        return found
    arrays = {
        key[len(entry) + 1 :]: x
        for key, x in found.state_dict.items()
        if key.startswith((f"{entry}/", f"{entry}."))
    }
    if not arrays:
        entries = dict.fromkeys(key.partition("/")[0].partition(".")[0] for key in found.state_dict)
        raise InputError(f"{whole} has no entry {entry!r}; it has {', '.join(entries)}")
    return found._replace(state_dict=arrays)


def _read(place: str) -> Foreign:
    if place.startswith(HUB):
        return _read_folder(_download(place.removeprefix(HUB)))
    path = pathlib.Path(place)
    if not path.exists():
        raise InputError(f"{place} does not exist; weights on the Hub are named {HUB}OWNER/NAME")
    if path.is_dir():
        return _read_folder(path)
    return Foreign(*tensors.read(path))


def _read_folder(path: pathlib.Path) -> Foreign:
    weights = next((path / name for name in _WEIGHTS if (path / name).exists()), None)
    if weights is None:
        raise InputError(
            f"{path} holds neither {WEIGHTS} nor {PICKLED_WEIGHTS}, nor checkpoints of a run"
        )
    arrays, metadata = tensors.read(weights)
    return Foreign(arrays, metadata, _facts(path / CONFIG), _facts(path / PREPROCESSOR))


def _facts(path: pathlib.Path) -> dict[str, Any]:
    """Return the content of a JSON file; {} if it does not exist."""
    try:
        facts = read_json(path)
        if not isinstance(facts, dict):
            raise ValueError("it holds no JSON object")
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InputError(f"cannot read {path}: {one_line(error)}") from None
    return facts


def _download(repository: str) -> pathlib.Path:
    """Download the files of a repository that `_read_folder` reads, and return their folder."""
    try:
        import huggingface_hub
    except ImportError:
        raise InputError(f"{HUB}{repository} needs huggingface_hub: {INSTALL}") from None
    name, _, revision = repository.partition("@")
    absent = huggingface_hub.errors.EntryNotFoundError

    def fetch(file):
        return pathlib.Path(huggingface_hub.hf_hub_download(name, file, revision=revision or None))

    def fetch_if_present(file):
        try:
            return fetch(file)
        except absent:
            return None

    try:
        config = fetch(CONFIG)
        if "model_type" in _facts(config):
            fetch_if_present(PREPROCESSOR)
        weights = next(filter(None, map(fetch_if_present, _WEIGHTS)), None) or fetch(WEIGHTS)
        if weights.name.endswith(tensors.INDEX):
            for file in tensors.shards(weights):
                fetch(file)
    except InputError:
        raise
    except Exception as error:  # network, Hub and cache errors have different types
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"cannot download {HUB}{repository}: {reason} (a local folder with {CONFIG} and "
            f"{WEIGHTS} works too)"
        ) from None
    return config.parent
