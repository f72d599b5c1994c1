"""`python -m cv_jax receptive-field`."""

import json

import jax
import pytest

from cv_jax.__main__ import main
from cv_jax.inspect import receptive_field
from cv_jax.inspect.primitives import RULES


def test_table(capsys):
    assert main(["receptive-field", "lenet5"]) == 0
    head, *rows = (line.split() for line in capsys.readouterr().out.splitlines())
    assert head == ["layer", "shape", "size", "stride", "seen"]
    assert rows[0] == ["c1", "28x28x6", "5", "1", "2.4%"]
    assert rows[-1] == ["output", "10", "image", "-", "100.0%"]


def test_json_and_fields(capsys):
    arguments = ["vit_ti16", "--image-size", "8x16", "--fields", "patch_size=4,depth=1", "--json"]
    assert main(["receptive-field", *arguments]) == 0
    embed, *_, output = json.loads(capsys.readouterr().out)
    assert embed["shape"] == [9, 192]
    assert embed["size"] == [4, 4]
    assert output["size"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet19"], "did you mean resnet18"),
        (["transformer_base"], "takes tokens, not an image"),
        (["lenet5", "--image-size", "8"], "at least 16x16"),
        (["vit_ti16", "--image-size", "33"], "does not divide"),
        (["lenet5", "--fields", "width=3"], "has no field 'width'"),
    ],
)
def test_mistakes(arguments, message, capsys):
    assert main(["receptive-field", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_primitive_without_a_rule(monkeypatch, capsys):
    monkeypatch.delitem(RULES, "conv_general_dilated")
    receptive_field._traced.cache_clear()  # a test before may have traced the network
    assert main(["receptive-field", "lenet5"]) == 2
    message = "error: lenet5: no dependence rule for the primitive 'conv_general_dilated' of jax "
    assert capsys.readouterr().err == f"{message}{jax.__version__}\n"
