"""`python -m cv_jax models`."""

import json

from cv_jax.__main__ import main


def test_table(capsys):
    assert main(["models", "resnet[25]0*"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "year", "input", "parameters", "mult-adds", "paper"]
    names = [row.split()[0] for row in rows]
    assert names == ["resnet50", "resnet50_v1", "resnet50_preact", "resnet20_cifar"]
    assert rows[0].split()[:6] == ["resnet50", "2015", "224x224x3", "25,557,032", "4.089", "G"]
    assert rows[0].endswith("arXiv:1512.03385")
    assert len({row.index(row.split()[5]) for row in rows}) == 1


def test_json(capsys):
    assert main(["models", "lenet5*", "--json"]) == 0
    original, modern = json.loads(capsys.readouterr().out)
    assert original["name"] == "lenet5_1998"
    assert original["parameters"] == 60_000
    assert original["inputs"] == [[32, 32, 1]]
    assert modern["multiply_adds"] == 416_520


def test_a_pattern_that_matches_nothing(capsys):
    assert main(["models", "resnet5"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: no model matches 'resnet5'; did you mean resnet50")
    assert err.count("\n") == 1
