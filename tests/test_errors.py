"""Hints and one-line messages."""

import pytest

from cv_jax.errors import did_you_mean, one_line

FIELDS = ("batch_size", "optim.learning_rate", "optim.momentum", "model.patch_size", "model.depth")


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("optim.momentu", "optim.momentum"),  # spelling
        ("learning_rate", "optim.learning_rate"),  # the last part of a dotted name
        ("optim.lr", "optim.learning_rate"),  # initials
        ("model.patch", "model.patch_size"),  # part of a name in the same group
        ("bach_size", "batch_size"),
    ],
)
def test_the_nearest_name_is_suggested(word, found):
    assert did_you_mean(word, FIELDS, "config.") == f"; did you mean config.{found}?"


def test_without_a_near_name_there_is_no_hint():
    assert did_you_mean("xyzzy", FIELDS) == ""
    assert did_you_mean("depth", []) == ""


def test_several_suggestions():
    hint = did_you_mean("resnet5", ["resnet50", "resnet56_cifar", "vgg16"], count=2)
    assert hint == "; did you mean resnet50 or resnet56_cifar?"


def test_messages_fit_on_one_line():
    assert one_line("a\n  b\tc") == "a b c"
    assert one_line("x" * 20, longest=5) == "xxxxx …"
    assert one_line(ValueError()) == "ValueError"
