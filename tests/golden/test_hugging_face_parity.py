"""Golden files of transformers: the output of folders as `save_pretrained` writes them."""

import json
import pathlib

import jax
import numpy as np
import pytest
import recipe
from safetensors.numpy import save_file
from slow import slow_except

from cv_jax import models
from cv_jax.interop import hugging_face, place

CASES = json.loads((pathlib.Path(__file__).parent / "hugging_face.json").read_text())
QUICK = ("vit-gelu_new", "deit", "mae", "dinov2-registers", "swin-padded", "swinv2", "resnet-v1")


def weights_of(name: str) -> dict[str, np.ndarray]:
    """Return the arrays of the file; a masked autoencoder's positions are constants."""
    weights = recipe.state_dict({k: tuple(v) for k, v in CASES[name]["shapes"].items()})
    constant = name == "mae"
    return {k: x for k, x in weights.items() if not (constant and "pos" in k)}


def write(folder: pathlib.Path, name: str, **more) -> str:
    (folder / "config.json").write_text(json.dumps({**CASES[name]["config"], **more}))
    save_file(weights_of(name), folder / "model.safetensors")
    return str(folder)


@pytest.mark.parametrize("name", slow_except(CASES, *QUICK, long=True))
def test_output_is_that_of_transformers(name, tmp_path):
    notes = []
    weights = place.read(write(tmp_path, name), notes.append)
    assert notes == (["the weights have no classifier"] if name.endswith("base") else [])
    classes = ("cat", "dog", "eel")
    unnamed = name == "deit" or name.endswith("base") or name == "mae"
    assert weights.class_names == (() if unnamed else classes)
    assert weights.source == "transformers"

    sized = "image_size" in models.fields(weights.model)
    fields = {**weights.fields, **({"image_size": weights.image_size} if sized else {})}
    model = models.create(weights.model, **fields)
    image = recipe.images(1, weights.image_size if "resnet" not in name else (32, 32))
    noise = (recipe.draw("noise", (1, 16)),) if name == "mae" else ()
    output = jax.jit(lambda v, *inputs: model.apply(v, *inputs)[0])(
        weights.variables, image, *noise
    )
    output = output[:, :4] if name == "mae" else output
    golden = np.float32(CASES[name]["output"])
    np.testing.assert_allclose(output, golden, rtol=0, atol=1e-5 * np.abs(golden).max())


@pytest.mark.parametrize("name", CASES)
def test_names_in_memory_are_those_of_the_file(name):
    """`torch.save(model.state_dict())` writes the names that transformers 5 has in memory."""
    case = CASES[name]
    names = hugging_face.plain_names(dict.fromkeys(case["shapes"]))
    assert hugging_face.plain_names(dict.fromkeys(case["in_memory"])).keys() == names.keys()
    assert len(names) == len(case["shapes"])
