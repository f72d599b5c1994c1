"""Names of classes: of older runs, and the order of a classifier that another dataset continues."""

import json
import re

import numpy as np
import pytest

from cv_jax.data import class_order
from cv_jax.interop import classes, pretrained, saved
from cv_jax.run import json_files
from cv_jax.training import experiment, loop
from cv_jax.training.teacher import read_teacher

KERNEL = np.arange(12.0, dtype=np.float32).reshape(4, 3)
NAMES = ("1", "10", "2")  # the order of the folders


def weights(names, source="timm"):
    head = {"kernel": KERNEL, "bias": np.arange(3.0, dtype=np.float32)}
    variables = {"params": {"head": head}}
    fields = {"num_classes": 3}
    return saved.Saved(variables, "linear", fields, (2, 2), 1, source, class_names=names)


def ordered(*arguments):
    notes = []
    found = classes.ordered(*arguments, notes.append)
    head = found.variables["params"]["head"]
    return head["kernel"], head["bias"], notes


def test_the_same_names_in_another_order_are_reordered():
    kernel, bias, notes = ordered(weights(("1", "2", "10")), NAMES)
    np.testing.assert_array_equal(kernel, KERNEL[:, [0, 2, 1]])
    np.testing.assert_array_equal(bias, [0, 2, 1])
    assert notes == ["classes of the classifier reordered by name: '1', '2', '10' → '1', '10', '2'"]


@pytest.mark.parametrize(
    ("theirs", "ours", "source", "note"),
    [
        (NAMES, NAMES, "timm", None),
        ((), ("a", "b", "c"), "timm", None),  # one order, in timm too
        ((), NAMES, "", None),  # trained here, in the order of the folders
        (NAMES, (), "timm", None),
        (("a", "b"), ("a", "c"), "timm", None),  # the classifier is dropped
        (
            (),
            NAMES,
            "timm",
            "the classifier is kept, its class names are unknown: its classes must be in the order "
            "of the dataset, '1', '10', '2'; timm sorts a folder's classes as '1', '2', '10'",
        ),
        (
            ("a", "b", "1"),
            NAMES,
            "",
            "the classifier is kept although its classes, 'a', 'b', '1', have other names than "
            "those of the dataset, '1', '10', '2'",
        ),
    ],
)
def test_everything_else_is_kept_with_a_note(theirs, ours, source, note):
    kernel, _, notes = ordered(weights(theirs, source), ours)
    np.testing.assert_array_equal(kernel, KERNEL)
    assert notes == ([] if note is None else [note])


def test_timms_natural_order():
    """The documented example of timm's `natural_key`, and numbers, letters and case."""
    names = ["string10", "String2", "2", "10", "b", "A", "", "1a10", "1a9"]
    expected = ["", "1a9", "1a10", "2", "10", "A", "b", "String2", "string10"]
    assert class_order.natural(names) == tuple(expected)


def test_a_run_and_a_teacher_take_the_classes_by_name(load_config, tmp_path, capsys):
    config = {"total_steps": 2, "batch_size": 8, "mesh.devices": 1, "schedule.warmup_epochs": 0}
    assert loop.train(experiment.build(load_config("linear", config)), tmp_path / "run", "") == 0
    trained = pretrained.read_run(tmp_path / "run").weights
    assert trained.class_names == tuple("0123456789")
    head = trained.variables["params"]["head"]
    other = {"params": {"head": {key: x[..., ::-1] for key, x in head.items()}}}
    path = tmp_path / "reversed.safetensors"
    saved.write(path, trained._replace(variables=other, class_names=tuple("9876543210")))
    capsys.readouterr()
    parts = experiment.build(load_config("linear", {**config, "init_from": path}))
    for found in (
        parts.pretrained(),
        read_teacher(
            load_config("linear", {**config, "distill.teacher": path}),
            10,
            (32, 32, 1),
            parts.classes,
        ).variables,
    ):
        for key, x in head.items():
            np.testing.assert_array_equal(found["params"]["head"][key], x)
    note = (
        "classes of the classifier reordered by name: '9', '8', '7', '6', … → '0', '1', '2', '3', …"
    )
    assert capsys.readouterr().out.count(f"{path}: {note}\n") == 2


def test_the_names_of_an_older_run_need_its_own_data(load_config, tmp_path, data_dir):
    config = {"total_steps": 2, "batch_size": 8, "mesh.devices": 1, "schedule.warmup_epochs": 0}
    run, notes = tmp_path / "run", []
    assert loop.train(experiment.build(load_config("linear", config)), run, "") == 0
    (run / "classes.json").unlink()
    found = pretrained.read_run(run)
    assert found.weights.class_names == ()

    def names(**changes):
        config = {**found.config, **changes}
        return classes.named(found.weights, config, None, notes.append).class_names

    assert (names(), notes) == (tuple("0123456789"), [])
    assert names(**{"data.dir": str(tmp_path), "data.name": "folder:nowhere"}) == ()
    starts = json.loads((run / "run.json").read_text())
    starts[-1]["data"]["train"]["checksum"] = "0"
    sealed = {key: value for key, value in starts[-1].items() if key != "sha256"}
    json_files.write_json(run / "run.json", [json_files.sealed(sealed)])
    assert names() == ()
    (run / "run.json").write_text("")
    assert names() == ()
    start = re.escape(f"classes are numbers, because {run} does not record their names and ")
    for note, reason in zip(
        notes,
        (
            "its dataset cannot be opened: config.data.name: 'folder:nowhere': nowhere does not "
            "exist; give a folder",
            "digits is not the data of its training .train.checksum differ.",
            f"{re.escape(str(run))}/run.json does not identify its data",
        ),
        strict=True,
    ):
        assert re.fullmatch(start + reason, note)
