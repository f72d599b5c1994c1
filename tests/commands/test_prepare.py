"""`python -m cv_jax prepare NAME`: building datasets, and its mistakes."""

import pytest

from cv_jax import __main__ as program


def test_the_embedded_dataset_needs_no_tensorflow(tmp_path, capsys):
    assert program.main(["prepare", "digits", f"--data-dir={tmp_path}"]) == 0
    said = capsys.readouterr().out
    assert f"digits train: 1,438 examples in {tmp_path}/digits/1.0.0" in said
    assert "digits test: 359 examples" in said


def test_without_tensorflow_the_way_to_it_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert program.main(["prepare", "mnist", f"--data-dir={tmp_path}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: TFDS needs TensorFlow to write a dataset")
    assert said.endswith("pip install tensorflow-cpu\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mnits"], "no dataset is called 'mnits'; did you mean mnist"),
        (["folder:/x"], "is there already; --to DIR re-encodes it"),
        (["digits", "--to=o", "--quality=0"], "--quality=0 is not in 1…100"),
        (["digits", "--to=o", "--short-side=0"], "--short-side=0 must be at least 1"),
        (["digits", "--to=o", "--method=best"], "--method=best is not one of nearest"),
        (["digits", "--to=o", "--splits=train,dev"], "split 'dev' of 'digits'"),
        (["folder:/no/where", "--to=o"], "there is no folder /no/where"),
    ],
)
def test_mistakes_give_one_line_and_write_nothing(
    words, said, data_dir, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert program.main(["prepare", *words, f"--data-dir={data_dir}"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
