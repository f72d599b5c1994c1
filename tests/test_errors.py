"""Hints and one-line messages."""

import errno
import os
import subprocess

import pytest

from cv_jax.errors import (
    InputError,
    RunError,
    did_you_mean,
    exit_code,
    one_line,
    printable,
    shell_line,
)

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


NAME = "a\nb\x1b[31m\x07\u202e'\\c"


def test_a_name_with_control_characters_is_printed_escaped():
    shown = r"a\nb\x1b[31m\x07\u202e'\c"
    assert printable(NAME) == shown
    assert one_line(InputError(f"{NAME} is missing")) == f"{shown} is missing"
    assert one_line(ValueError("of a library\n  in two lines")) == "of a library in two lines"
    assert one_line(OSError(13, "Permission denied", NAME)) == f"{shown}: Permission denied"


def test_a_printed_command_has_the_same_words():
    words = ["plain", "two words", NAME, "\udce9", "ü", ""]
    line = shell_line(words)
    assert line.isprintable()
    command = ["bash", "-c", f"printf '%s\\0' {line}"]
    out = subprocess.run(command, capture_output=True, check=True).stdout
    assert [os.fsdecode(word) for word in out.split(b"\0")[:-1]] == words


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("x"), 2),
        (RunError("x"), 1),
        (PermissionError(errno.EACCES, "x", "file"), 2),
        (OSError(errno.ENAMETOOLONG, "x", "file"), 2),
        (OSError(errno.ENOSPC, "x", "file"), 1),
        (MemoryError(), 1),
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), 1),
        (ValueError("x"), None),
    ],
)
def test_exit_codes_of_errors(error, code):
    assert exit_code(error) == code


def test_the_line_of_a_lack_of_memory():
    assert one_line(MemoryError()) == "out of memory"
    assert one_line(MemoryError("Unable to allocate 9 TiB")) == (
        "out of memory; Unable to allocate 9 TiB"
    )
