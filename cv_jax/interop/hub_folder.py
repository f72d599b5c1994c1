"""Writes weights in the layout of another library, and folders in the Hub's layout for timm.

`timm.create_model("local-dir:FOLDER", pretrained=True)` builds the network of a folder at the image
size of the weights, and `timm.data.create_transform(**timm.data.resolve_model_data_config(model))`
prepares images as the evaluation here does.
"""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from cv_jax import models
from cv_jax.errors import InputError
from cv_jax.interop import preprocessing, tensors, timm_export, weights
from cv_jax.interop.disk import replacing, write_safetensors
from cv_jax.interop.foreign import CONFIG, WEIGHTS
from cv_jax.interop.saved import Saved
from cv_jax.interop.target import flatten
from cv_jax.models.encoder import unstack_blocks

_TRANSFORM = ("crop_pct", "interpolation", "crop_mode")


def write(dest: pathlib.Path, saved: Saved, to: str, report: Callable[[str], None]) -> None:
    """Write weights to a file with one of `tensors.SUFFIXES`, or else to a folder for timm.

    Args:
      dest: the file or folder.
      saved: the weights.
      to: layout of the result, one of `interop.TARGETS`.
      report: called with one sentence for what the folder cannot express.

    Raises:
      InputError: the layout has no such model, a folder cannot describe it, or `dest` cannot be
        written.
    """
    saved = _unrolled(saved)
    state_dict = weights.export(
        saved.model, to, saved.variables, image_size=saved.image_size, **saved.fields
    )
    if dest.name.endswith(tensors.SUFFIXES):
        _write_file(dest, state_dict)
        return
    config = _config(saved, to, report)
    _write_file(dest / WEIGHTS, state_dict)
    with replacing(dest / CONFIG) as scratch:
        scratch.write_text(json.dumps(config, indent=2) + "\n")


def _unrolled(saved: Saved) -> Saved:
    """Return weights of a stack of blocks block by block, as other libraries store them."""
    if not saved.fields.get("scan_layers"):
        return saved
    variables = saved.variables
    for name in ("blocks", "decoder_blocks"):
        variables = unstack_blocks(variables, name)
    return saved._replace(variables=variables, fields={**saved.fields, "scan_layers": False})


def _write_file(path: pathlib.Path, state_dict: dict[str, np.ndarray]) -> None:
    if path.name.endswith(".safetensors"):
        write_safetensors(path, state_dict, {"format": "pt"})
        return
    # NumPy's files and `torch.from_numpy` know no bfloat16.
    state_dict = {
        k: x.astype(np.float32) if x.dtype.kind == "V" else x for k, x in state_dict.items()
    }
    if path.name.endswith(tensors.PICKLED):
        torch = tensors.torch_for(path)
        with replacing(path) as scratch:
            torch.save({key: torch.from_numpy(x) for key, x in state_dict.items()}, scratch)
    else:
        with replacing(path) as scratch, open(scratch, "wb") as f:
            np.savez(f, **state_dict)


def _config(saved: Saved, to: str, report: Callable[[str], None]) -> dict[str, Any]:
    """Return `config.json` in timm's format.

    Raises:
      InputError: timm has no name for the model.
    """
    write_a_file = f"write a file ({', '.join(tensors.SUFFIXES)})"
    if to != "timm":
        raise InputError(f"config.json in a folder is timm's; for {to}, {write_a_file}")
    name, arguments = timm_export.architecture(saved.model, saved.fields, saved.image_size)
    if not name:
        fields = ", ".join(f"{field}={value!r}" for field, value in arguments.items())
        raise InputError(
            f"timm has no {saved.model} with {fields}, so config.json in a folder cannot describe "
            f"it; {write_a_file}"
        )
    classes = saved.fields.get("num_classes", 0)
    return {
        "architecture": name,
        "num_classes": classes,
        "model_args": {"in_chans": saved.channels, **arguments},
        "pretrained_cfg": {
            **_preprocessing(saved, report),
            "input_size": [saved.channels, *saved.image_size],
            # timm builds a Transformer for 224 pixels unless this is set.
            "fixed_input_size": "patch_size" in models.fields(saved.model),
            "num_classes": classes,
            **({"label_names": saved.class_names} if saved.class_names else {}),
            **weights.layer_names(saved.model, to, flatten(saved.variables)),
        },
    }


def _preprocessing(saved: Saved, report: Callable[[str], None]) -> dict[str, Any]:
    """Return timm's terms for the preprocessing of an image in evaluation."""
    facts = dict(saved.preprocessing)
    for name in {"mean", "std"} & facts.keys():
        values = list(facts[name])
        facts[name] = values * saved.channels if len(values) == 1 else values
    text = saved.evaluation.get("eval_preprocess")
    if text is None:
        return facts
    if facts.keys() >= {*_TRANSFORM} and preprocessing.from_timm(facts, saved.image_size) == text:
        return facts
    transform = preprocessing.to_timm(text, saved.image_size)
    if transform is None:
        report(
            f"timm has no transform for eval_preprocess={text!r}; its own default replaces it in "
            "timm.data.create_transform"
        )
        transform = {}
    return {k: x for k, x in facts.items() if k not in _TRANSFORM} | transform
