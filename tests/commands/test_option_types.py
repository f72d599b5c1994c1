"""Options of the commands: types, ranges, and values at the edge."""

import argparse
import sys
from pathlib import Path

import pytest

from cv_jax.__main__ import COMMANDS, main
from cv_jax.commands import option_types
from cv_jax.errors import InputError
from cv_jax.interop import saved
from cv_jax.interop.target import Target, unflatten

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import launch  # noqa: E402


@pytest.mark.parametrize(
    ("text", "size"),
    [("224", (224, 224)), ("64x256", (64, 256)), ("64,256", (64, 256)), ("(64, 256)", (64, 256))],
)
def test_a_size_has_the_same_forms_as_in_a_config(text, size):
    assert option_types.image_size(text) == size


@pytest.mark.parametrize(
    "text", ["0", "-1", "", "0x10", "64x", "64x-1", "1,2,3", "1.5", "nan", "99999", "9" * 5000, "a"]
)
def test_another_size_is_an_error(text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected 224, 64x256 or 64,256"):
        option_types.image_size(text)


EDGES = ("0", "-1", "", " ", "1e30", str(10**30), str(2**31), "nan", "1,2", "٣")
# Command and its other arguments → flags whose values are tried.
FLAGS = {
    ("augment", "flip", "--out", "no_folder/x.png"): ("--rows", "--columns", "--seed"),
    ("augment", "flip", "--data", "folder:no_folder"): ("--out", "--dir"),
    ("convert", "no_file", "no_folder/x"): ("--num-classes", "--channels", "--image-size"),
    ("convert", "no_file"): ("DEST",),
    ("predict", "no_run", "no_image"): ("--top", "--max-pixels", "--dir"),
    ("prepare", "folder:no_folder", "--to", "x"): (
        *("--quality", "--shard-examples", "--workers", "--short-side", "--method", "--splits"),
        *("--max-pixels", "--data-dir"),
    ),
    ("prepare", "no_dataset"): ("--to",),
    ("receptive-field", "no_model"): ("--image-size", "--fields"),
    ("report", "no_sweep"): ("--out", "--metric"),
    ("templates", "no_run"): ("--out", "--dir"),
    ("verify",): ("WORKDIR",),
}


@pytest.mark.parametrize("value", EDGES)
@pytest.mark.parametrize(
    ("command", "flag"), [(command, flag) for command, flags in FLAGS.items() for flag in flags]
)
def test_a_value_at_the_edge_ends_with_one_line(
    tmp_path, monkeypatch, capsys, command, flag, value
):
    """The other arguments name files that do not exist: no command does any work."""
    assert command[0] in COMMANDS
    monkeypatch.chdir(tmp_path)
    words = [value] if flag.isupper() else [f"{flag}={value}"]
    if flag.isupper() and value.startswith("-"):
        words = ["--", value]
    assert main([*command, *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["augment", "flip", "--rows=0"], "--rows=0 must be at least 1 and at most 100"),
        (["augment", "flip", "--columns=101"], "--columns=101 must be at least 1 and at most 100"),
        (["augment", "flip", "--seed=-1"], "--seed=-1 must be at least 0 and at most 4294967295"),
        (["augment", "flip", "--out="], "argument --out: expected a path, got ''"),
        (["augment", "flip", "--dir="], "folder of prepared datasets '': the name is empty"),
        (["convert", "a", ""], "argument DEST: expected a path, got ''"),
        (["convert", "a", "b", "--num-classes=-1"], "--num-classes=-1 must be at least 0"),
        (["convert", "a", "b", "--channels=0"], "--channels=0 must be at least 1"),
        (["predict", "a", "b", f"--top={2**31}"], "must be at least 1 and at most 2147483647"),
        (["prepare", "folder:a", "--to=b", "--workers=1025"], "at least 1 and at most 1024"),
        (["verify", ""], "argument workdir: expected a path, got ''"),
    ],
)
def test_a_message_names_flag_value_and_range(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_new_arrays_larger_than_the_memory_are_refused():
    target = Target("linear", image_size=32, in_channels=1, num_classes=2**31 - 1)
    with pytest.raises(InputError, match=r"part of the model that the weights lack takes at least"):
        target.initial(list(target.shapes), seed=0)


def test_weights_without_parameters_are_refused(tmp_path, capsys):
    """A linear classifier without its classifier is nothing."""
    source, dest = tmp_path / "linear.safetensors", tmp_path / "nothing.safetensors"
    target = Target("linear", image_size=8, in_channels=1, num_classes=3)
    variables = unflatten(target.initial(list(target.shapes), seed=0))
    saved.write(source, saved.Saved(variables, "linear", {"num_classes": 3}, (8, 8), 1))
    assert main(["convert", str(source), str(dest), "--num-classes=0"]) == 2
    message = "--num-classes=0: linear has no parameters but its classifier"
    assert message in capsys.readouterr().err
    assert not dest.exists()


@pytest.mark.parametrize("flag", ["--workdir", "--sweep_dir"])
def test_an_empty_directory_of_a_run_is_an_error(flag):
    with pytest.raises(InputError, match=f"argument {flag}: expected a path, got ''"):
        launch.parse_arguments(["--config", "x.py", f"{flag}="])
