"""Arrays in the files of other libraries; no torch."""

import argparse
import collections
import io
import json
import os
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from cv_jax.errors import InputError
from cv_jax.interop import foreign, tensors

ARRAYS = {"a.weight": np.arange(6.0).reshape(2, 3), "b": np.ones(2), "c": np.zeros(1)}


def shard(folder, suffix=".safetensors"):
    """Write three arrays to two files with an index, as transformers does."""
    names = {"a.weight": f"model-1-of-2{suffix}", "b": f"model-2-of-2{suffix}"}
    names["c"] = names["b"]
    for file in set(names.values()):
        save_file({k: ARRAYS[k] for k, v in names.items() if v == file}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 9}, "weight_map": names}))
    return index


def test_several_files_with_an_index(tmp_path):
    index = shard(tmp_path)
    for place in (index, tmp_path):
        found = foreign.read(str(place)).state_dict
        assert found.keys() == ARRAYS.keys()
        assert all(np.array_equal(found[name], x) for name, x in ARRAYS.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda index: (index.parent / "model-2-of-2.safetensors").unlink(),
            "model.safetensors.index.json names model-2-of-2.safetensors, which does not exist",
        ),
        (
            lambda index: save_file({"b": ARRAYS["b"]}, index.parent / "model-2-of-2.safetensors"),
            "model-2-of-2.safetensors lacks c, which model.safetensors.index.json expects there",
        ),
        (
            lambda index: index.write_text('{"weight_map": {"a": "../secret.safetensors"}}'),
            "'../secret.safetensors' is not the name of a file beside it",
        ),
        (lambda index: index.write_text("{}"), "index.json: KeyError: 'weight_map'"),
        (lambda index: index.write_text("{"), "cannot read"),
        (lambda index: index.write_text('{"weight_map": 3}'), "cannot read"),
    ],
)
def test_mistakes_in_an_index(tmp_path, change, message):
    index = shard(tmp_path)
    change(index)
    with pytest.raises(InputError) as error:
        foreign.read(str(tmp_path))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


class Tensor:
    """The part of a torch tensor that the reader uses."""

    def __init__(self, array):
        self.array, self.dtype = array, array.dtype

    def detach(self):
        return self

    def numpy(self):
        return self.array


@pytest.fixture
def torch(monkeypatch):
    """A module `torch` that returns `torch.content` and records its arguments."""
    module = types.ModuleType("torch")
    module.bfloat16, module.content, module.allowed = "bfloat16", {}, []

    class Context:
        def __init__(self, pairs):
            module.allowed = pairs

        def __enter__(self):
            return self

        def __exit__(self, *error):
            module.closed = True

    def load(path, map_location, weights_only):
        assert (map_location, weights_only) == ("cpu", True)
        return module.content

    module.load = load
    module.serialization = types.SimpleNamespace(safe_globals=Context)
    monkeypatch.setitem(sys.modules, "torch", module)
    return module


@pytest.mark.parametrize("suffix", ["pth", "pt", "bin", "ckpt", "pth.tar"])
def test_nested_dictionaries_become_paths(tmp_path, torch, suffix):
    path = tmp_path / f"x.{suffix}"
    path.touch()
    weights = collections.OrderedDict({"conv.weight": Tensor(np.ones(2))})
    torch.content = {
        "model": {"state_dict": weights},
        "epoch": 3,
        "args": argparse.Namespace(lr=1),
        "optimizer": {"state": {0: {"step": Tensor(np.zeros(()))}}, "param_groups": [{}]},
    }
    assert set(tensors.read(path)[0]) == {
        "model/state_dict/conv.weight",
        "optimizer/state/0/step",
    }
    torch.content = [1, 2]
    with pytest.raises(InputError, match="holds no arrays with names; save the state_dict"):
        tensors.read(path)


def test_an_entry_of_a_checkpoint(tmp_path, torch):
    path = tmp_path / "x.pth"
    path.touch()
    torch.content = {
        "state_dict": {"module.a": Tensor(np.zeros(1))},
        "state_dict_ema": {"module.a": Tensor(np.ones(1))},
    }
    assert foreign.read(f"{path}#state_dict_ema").state_dict == {"module.a": np.ones(1)}
    assert foreign.read(f"{path}#state_dict/module").state_dict == {"a": np.zeros(1)}
    with pytest.raises(InputError) as error:
        foreign.read(f"{path}#ema")
    assert str(error.value) == f"{path} has no entry 'ema'; it has state_dict, state_dict_ema"
    # A file whose name has the character is itself.
    other = tmp_path / "y#state_dict.pth"
    other.touch()
    assert len(foreign.read(str(other)).state_dict) == 2


class Evil:
    def __reduce__(self):
        return os.system, ("exit 1",)


@pytest.mark.parametrize("form", ["zip", "sequence"])
def test_objects_beside_the_weights_are_replaced_by_inert_ones(tmp_path, torch, form):
    """Only names are read from the pickle; the classes behind them are never used."""
    content = {"args": argparse.Namespace(lr=np.float64(1)), "evil": Evil(), "d": {1}}
    content["config"] = collections.defaultdict(list)
    pickled = pickle.dumps(content, protocol=2)
    path = tmp_path / "x.pth"
    if form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", pickled)
    else:
        path.write_bytes(b"".join(pickle.dumps(x, protocol=2) for x in (1, 2, {})) + pickled)
    torch.content = {"a": Tensor(np.ones(1))}
    tensors.read(path)
    named = {name: kind for kind, name in torch.allowed}
    assert {"argparse.Namespace", "numpy.dtype", "posix.system", "builtins.set"} <= named.keys()
    for name, kind in named.items():
        assert kind.__module__ == "cv_jax.interop.tensors", name
        made = kind(1, key=2)
        assert not getattr(made, "__dict__", {})
    # The pickle sets items of a dictionary.
    made = named["collections.defaultdict"](list)
    assert type(made) is collections.OrderedDict
    assert torch.closed


def test_a_damaged_pickle_is_one_line(tmp_path, torch):
    path = tmp_path / "x.pth"
    path.write_bytes(b"\x80\x02not a pickle")

    def load(*unused, **ignored):
        raise pickle.UnpicklingError(
            "Weights only load failed. Re-running `torch.load` with `weights_only` set to `False` "
            "will likely succeed\n\tWeightsUnpickler error: Unsupported operand 110\n\nmore"
        )

    torch.load = load
    with pytest.raises(InputError) as error:
        tensors.read(path)
    assert str(error.value) == (
        f"cannot read {path}: Unsupported operand 110; a file with nothing but the state_dict of a "
        "network can be read"
    )


def test_other_types_of_files(tmp_path):
    (tmp_path / "x.onnx").write_bytes(io.BytesIO(b"x").read())
    with pytest.raises(InputError, match="allowed are .safetensors, .pth, .pt, .bin, .ckpt, .tar"):
        tensors.read(tmp_path / "x.onnx")


def test_several_files_from_the_hub(tmp_path, monkeypatch):
    """Only what exists and is needed is asked for; the preprocessing only of transformers."""
    shard(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "preprocessor_config.json").write_text('{"size": 32}')
    hub, asked = types.ModuleType("huggingface_hub"), []
    hub.errors = types.SimpleNamespace(EntryNotFoundError=KeyError)

    def download(name, file, revision):
        asked.append(file)
        if not (tmp_path / file).exists():
            raise KeyError(file)
        return str(tmp_path / file)

    hub.hf_hub_download = download
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    found = foreign.read("hf-hub:someone/net")
    assert found.state_dict.keys() == ARRAYS.keys()
    assert found.preprocessor == {"size": 32}
    assert asked == [
        "config.json",
        "preprocessor_config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "model-1-of-2.safetensors",
        "model-2-of-2.safetensors",
    ]
