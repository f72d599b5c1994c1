"""The names of the classes belong to the run, not to the folder as it is now."""

import json

import numpy as np
import pytest
from PIL import Image

from cv_jax.__main__ import main
from cv_jax.errors import InputError
from cv_jax.run import class_names, json_files, starts
from cv_jax.training import evaluate, experiment, loop

NAMES = ("10", "2", "cat")


def make_folder(root, names=NAMES):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in names:
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(2):
                pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


def make_records(root, source):
    index = root / "index.json"
    if not index.is_file():
        assert main(["prepare", f"folder:{source}", "--to", str(root)]) == 0
    return index


@pytest.fixture
def parts(load_config):
    def build(dataset, **overrides):
        values = {"data.name": dataset, "data.eval_split": "val", "image_size": 8}
        values |= {"total_steps": 2, "batch_size": 4, "data.mean": 0.5, "data.std": 0.5}
        values |= {"mesh.devices": 1, "eval.batch_size": 4, "schedule.warmup_epochs": 0}
        return experiment.build(load_config("linear", {**values, **overrides}))

    return build


def test_the_names_are_written_at_the_start_and_kept(parts, tmp_path):
    folder, run = make_folder(tmp_path / "photos"), tmp_path / "run"
    assert loop.train(parts(f"folder:{folder}"), run, "") == 0
    assert class_names.read(run) == NAMES
    make_folder(folder, ("ant",))
    later = parts(f"folder:{folder}")
    for command in (lambda: loop.train(later, run, ""), lambda: evaluate.evaluate(later, run)):
        with pytest.raises(InputError) as error:
            command()
        assert str(error.value) == (
            f"--workdir={run} was started with other classes; give another --workdir, or the old "
            "values: class 2 was 'cat', is now 'ant'"
        )
    assert class_names.read(run) == NAMES


def test_other_labels_of_the_same_records_are_an_error(parts, tmp_path):
    """The digests of records do not cover the names in their index."""
    folder, run = make_folder(tmp_path / "photos"), tmp_path / "run"
    index = make_records(tmp_path / "records", folder)
    assert loop.train(parts(f"records:{index.parent}"), run, "") == 0
    content = json.loads(index.read_text())
    index.write_text(json.dumps({**content, "classes": ["10", "cat", "2"]}))
    later = parts(f"records:{index.parent}")
    for command in (lambda: loop.train(later, run, ""), lambda: evaluate.evaluate(later, run)):
        with pytest.raises(InputError, match="class 1 was '2', is now 'cat'"):
            command()
    index.write_text(json.dumps({**content, "classes": None}))
    assert loop.train(parts(f"records:{index.parent}"), run, "") == 0


def test_damage_is_found_and_repaired(parts, tmp_path, capsys, caplog):
    folder, run = make_folder(tmp_path / "photos"), tmp_path / "run"
    assert loop.train(parts(f"folder:{folder}"), run, "") == 0
    file = run / "classes.json"
    content = file.read_bytes()
    for damaged in (content.replace(b"cat", b"cut"), b"", b"[]"):
        file.write_bytes(damaged)
        assert main(["verify", str(run)]) != 0
        assert str(file) in capsys.readouterr().out
        caplog.clear()
        assert loop.train(parts(f"folder:{folder}"), run, "") == 0
        assert f"{file} is damaged and written again" in caplog.text
        assert file.read_bytes() == content
    assert main(["verify", str(run)]) == 0


def test_an_older_run_gets_its_names_at_the_next_start(parts, tmp_path):
    folder, run = make_folder(tmp_path / "photos"), tmp_path / "run"
    assert loop.train(parts(f"folder:{folder}"), run, "") == 0
    (run / "classes.json").unlink()
    older = [{k: v for k, v in s.items() if k != "classes"} for s in starts.read_starts(run)]
    json_files.write_json(run / "run.json", [json_files.sealed(start) for start in older])
    assert main(["verify", str(run)]) == 0
    assert loop.train(parts(f"folder:{folder}"), run, "") == 0
    assert class_names.read(run) == NAMES


def test_an_evaluation_prints_names_and_their_order(parts, tmp_path, capsys):
    for names, order in ((NAMES, "'2', '10', 'cat'"), (("1", "2", "cat"), None)):
        folder, run = make_folder(tmp_path / names[0], names), tmp_path / f"run {names[0]}"
        built = parts(f"folder:{folder}")
        assert loop.train(built, run, "") == 0
        capsys.readouterr()
        assert evaluate.evaluate(built, run) == 0
        lines = capsys.readouterr().out.splitlines()
        first = next(i for i, line in enumerate(lines) if line.startswith("name "))
        assert lines[first].split() == ["name", "class", "count", "correct", "accuracy"]
        rows = [line.split()[:3] for line in lines[first + 1 : first + 4]]
        assert rows == [[name, str(k), "2"] for k, name in enumerate(names)]
        note = (
            "classes are numbered in the order of their names as text, as in torchvision; timm "
            f"orders them {order}"
        )
        assert (note in lines) == (order is not None)
        assert ("timm" in "".join(lines)) == (order is not None)
        stored = json.loads((run / "evaluation.json").read_text())["evaluations"]["test"]
        assert [row["name"] for row in stored["per_class"]] == list(names)
