"""Checkpoints that PyTorch wrote. test_tensors.py checks their reading without it."""

import argparse
import collections
import enum
import os
import pathlib

import numpy as np
import pytest

from cv_jax.errors import InputError
from cv_jax.interop import foreign

torch = pytest.importorskip("torch", reason="needs torch: pip install torch")


class Colour(enum.Enum):
    RED = 1


class CfgNode(dict):
    """As in yacs: a dictionary with attributes."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.__dict__["_immutable"] = True


class Marks:
    """Leaves a file behind if it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return eval, (f"open({self.path!r}, 'w')",)


class Runs(Marks):
    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


WEIGHTS = {"a": torch.ones(2), "b": torch.ones(1, dtype=torch.bfloat16)}


@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_of_a_training_script(tmp_path, legacy):
    content = {
        "state_dict": WEIGHTS,
        "state_dict_ema": {f"module.{k}": 2 * x for k, x in WEIGHTS.items()},
        "args": argparse.Namespace(lr=np.float64(0.1), output=pathlib.Path("x"), mode=Colour.RED),
        "best": np.float32(3.0),
        "config": CfgNode(model=CfgNode(depth=2)),
        "history": collections.defaultdict(list, loss=[1.0]),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1}]},
        "ids": {1, 2},
    }
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    found = foreign.read(str(path)).state_dict
    assert set(found) == {
        *("state_dict/a", "state_dict/b", "optimizer/state/0/exp_avg"),
        *("state_dict_ema/module.a", "state_dict_ema/module.b"),
    }
    assert found["state_dict_ema/module.b"].dtype == np.float32
    assert found["state_dict_ema/module.a"].tolist() == [2.0, 2.0]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", [Marks, Runs])
def test_no_code_of_a_file_runs(tmp_path, kind, legacy):
    path, mark = tmp_path / "x.pth", tmp_path / "mark"
    content = {"state_dict": WEIGHTS, "x": kind(mark)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    if kind is Marks:
        assert len(foreign.read(str(path)).state_dict) == 2
    else:
        with pytest.raises(InputError) as error:
            foreign.read(str(path))
        assert "unsupported GLOBAL posix.system whose module posix is blocked" in str(error.value)
        assert "\n" not in str(error.value)
    assert not mark.exists()


def test_a_whole_network_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 3), tmp_path / "x.pth")
    with pytest.raises(InputError, match="save the state_dict of a network, not the network"):
        foreign.read(str(tmp_path / "x.pth"))
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 3)), tmp_path / "y.pt")
    with pytest.raises(InputError, match="is a TorchScript program; save the state_dict"):
        foreign.read(str(tmp_path / "y.pt"))
    (tmp_path / "z.pth").write_bytes(b"no pickle")
    with pytest.raises(InputError, match="z.pth: .*; a file with nothing but the state_dict"):
        foreign.read(str(tmp_path / "z.pth"))
