"""A checkpoint or another file of a run is used only in its own run, and under its own step."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from slow import slow_except

import launch
from cv_jax.__main__ import main
from cv_jax.errors import InputError
from cv_jax.interop import pretrained
from cv_jax.run import checkpoint, checkpoint_files, class_names, json_files, owner, workdir

ROOT = Path(__file__).resolve().parents[2]
OLD_RUN = Path(__file__).parent / "old_runs" / "mlp" / "run"
SMALL = {
    "total_steps": 4,
    "checkpoint.every_steps": 1,
    "checkpoint.keep_last": 9,
    "batch_size": 16,
    "model.widths": "8",
    "image_size": 8,
    "augment": "",
    "mesh.devices": 1,
    "schedule.warmup_epochs": "none",
}


def command(path, data_dir, *flags, **overrides):
    words = ["--config", f"{ROOT}/configs/mlp.py", "--workdir", str(path), *flags]
    values = {**SMALL, "data.dir": data_dir, **overrides}
    return launch.run([*words, *(f"--config.{key}={value}" for key, value in values.items())])


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data_dir):
    """Folder with the finished runs `own`, `twin` (the same run again) and `other` (seed 1)."""
    folder = tmp_path_factory.mktemp("trained")
    for name, seed in (("own", 0), ("twin", 0), ("other", 1)):
        assert command(folder / name, data_dir, seed=seed) == 0
    return folder


@pytest.fixture
def runs(tmp_path, trained):
    """Folder with copies of these runs; `own` was killed after step 3."""
    shutil.copytree(trained, tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs/own/checkpoints/4")
    (tmp_path / "runs/own/summary.json").unlink()
    return tmp_path / "runs"


def saved(path, step):
    return path / "checkpoints" / str(step)


def put(source, goal):
    """Replace a checkpoint by a copy of another."""
    shutil.rmtree(goal, ignore_errors=True)
    shutil.copytree(source, goal)


def rename(runs):
    shutil.rmtree(saved(runs / "own", 3))
    saved(runs / "own", 2).rename(saved(runs / "own", 3))


MISPLACED = {
    "renamed": (rename, "it is the checkpoint of step 2", 1),
    "of another seed": (
        lambda runs: put(saved(runs / "other", 3), saved(runs / "own", 3)),
        "it is of a run with other result fields",
        2,
    ),
    "of the same run again": (
        lambda runs: put(saved(runs / "twin", 3), saved(runs / "own", 3)),
        "it is of another run",
        2,
    ),
    "of an older version": (
        lambda runs: put(saved(OLD_RUN, 4), saved(runs / "own", 4)),
        "it is of a run of an older version",
        3,
    ),
}


def contents(path):
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def arrays(path):
    found, step = checkpoint.read_newest(path / "checkpoints", lambda name: True)
    return step, {name: np.asarray(x).tobytes() for name, x in found.items()}


def assert_like(path, reference):
    for name in ("metrics.jsonl", "summary.json"):
        assert (path / name).read_text() == (reference / name).read_text()
    assert arrays(path) == arrays(reference)


@pytest.mark.parametrize("kind", MISPLACED)
def test_a_restart_sets_a_misplaced_checkpoint_aside(kind, runs, trained, data_dir, caplog):
    misplace, reason, start = MISPLACED[kind]
    misplace(runs)
    place = max(checkpoint.finished(runs / "own/checkpoints"))
    content = sorted(contents(saved(runs / "own", place)).values())
    assert command(runs / "own", data_dir) == 0
    assert f"checkpoints/{place} is moved aside: {reason}" in caplog.text
    assert workdir.read_starts(runs / "own")[-1]["step"] == start
    assert_like(runs / "own", trained / "own")
    aside = runs / "own/checkpoints/damaged" / str(place)
    assert (aside / "REASON.txt").read_text() == f"{place}: {reason}\n"
    (aside / "REASON.txt").unlink()
    assert sorted(contents(aside).values()) == content


READERS = {
    "evaluate": lambda run, folder, data_dir: command(run, data_dir, "--evaluate"),
    "predict": lambda run, folder, data_dir: main(
        ["predict", str(run), str(grey(folder)), "--json"]
    ),
    "convert": lambda run, folder, data_dir: main(
        ["convert", str(run), str(folder / "weights.safetensors")]
    ),
    "init_from": lambda run, folder, data_dir: command(
        folder / "child", data_dir, init_from=run, total_steps=1
    ),
    "teacher": lambda run, folder, data_dir: command(
        folder / "child", data_dir, total_steps=1, **{"distill.teacher": run}
    ),
}


def grey(folder):
    Image.fromarray(np.full((8, 8), 99, np.uint8)).save(folder / "grey.png")
    return folder / "grey.png"


@pytest.mark.parametrize("reader", slow_except(READERS, "evaluate", "predict", "convert"))
@pytest.mark.parametrize("kind", ["renamed", "of another seed"])
def test_a_reader_names_and_skips_a_misplaced_checkpoint(
    reader, kind, runs, tmp_path, data_dir, caplog
):
    misplace, reason, step = MISPLACED[kind]
    misplace(runs)
    before = contents(runs / "own/checkpoints")
    assert READERS[reader](runs / "own", tmp_path, data_dir) == 0
    assert f"checkpoints/3 is skipped: {reason}" in caplog.text
    assert contents(runs / "own/checkpoints") == before
    assert pretrained.read_run(runs / "own").step == step
    assert [step for step, _ in pretrained.read_checkpoints(runs / "own")] == [*range(1, step + 1)]


@pytest.mark.parametrize("kind", MISPLACED)
def test_verify_names_a_misplaced_checkpoint(kind, runs, capsys):
    misplace, reason, _ = MISPLACED[kind]
    misplace(runs)
    assert main(["verify", str(runs / "own")]) == 1
    good = (": sound", ": the data of the training")
    (line,) = [x for x in capsys.readouterr().out.splitlines() if not x.endswith(good)]
    assert reason in line
    assert main(["verify", str(runs / "twin")]) == 0


def test_only_misplaced_checkpoints_are_an_error(runs, data_dir, capsys):
    shutil.rmtree(runs / "own/checkpoints")
    put(saved(runs / "other", 4), saved(runs / "own", 4))
    for flags in ((), ("--evaluate",)):
        put(saved(runs / "other", 4), saved(runs / "own", 4))
        assert command(runs / "own", data_dir, *flags) in (1, 2)
        assert "no checkpoint in" in capsys.readouterr().err
    with pytest.raises(InputError, match="no checkpoint in .* is sound"):
        pretrained.read_run(runs / "own")


def test_a_run_that_lost_its_starts_keeps_its_checkpoints_and_its_name(
    runs, trained, data_dir, caplog
):
    (runs / "own/run.json").unlink()
    put(saved(runs / "other", 3), saved(runs / "own", 3))
    assert main(["verify", str(runs / "own")]) == 1
    assert command(runs / "own", data_dir) == 0
    assert "checkpoints/3 is moved aside: it is of a run with other result fields" in caplog.text
    assert_like(runs / "own", trained / "own")
    names = {owner.of(trained / "own").name, owner.of(runs / "own").name}
    assert len(names) == 1


def test_a_copied_checkpoint_is_neither_deleted_nor_replaced_by_a_save(runs, data_dir, caplog):
    """It may lie at a step that the run saves, or before the ones that are kept."""
    put(saved(runs / "other", 2), saved(runs / "own", 2))
    folder, foreign = runs / "own/checkpoints", contents(saved(runs / "own", 2))
    checkpoints = checkpoint.Checkpoints(folder, keep_last=1)
    checkpoints.mark = owner.read_mark(folder / "3")
    put(saved(runs / "other", 4), folder / "4")
    checkpoints.save(4, {"a": np.zeros(3)}, {})
    checkpoints.close()
    assert contents(folder / "2") == foreign
    assert checkpoint.finished(folder) == [2, 4]  # 1 and 3 are old
    assert checkpoint.damage(folder / "4") is None
    assert "checkpoints/4 is moved aside: it is of a run with other result fields" in caplog.text
    assert checkpoint_files.read_meta(folder / "damaged/4")["step"] == 4


def test_a_checkpoint_of_an_older_version_has_a_step_and_continues(tmp_path, capsys):
    shutil.copytree(OLD_RUN, tmp_path / "run")
    assert main(["verify", str(tmp_path / "run")]) == 0
    saved(tmp_path / "run", 4).rename(saved(tmp_path / "run", 5))
    assert main(["verify", str(tmp_path / "run")]) == 1
    assert "checkpoints/5: it is the checkpoint of step 4" in capsys.readouterr().out


def test_a_checkpoint_with_a_mark_does_not_belong_to_a_run_without(tmp_path, trained, capsys):
    shutil.copytree(OLD_RUN, tmp_path / "run")
    put(saved(trained / "own", 3), saved(tmp_path / "run", 3))
    assert main(["verify", str(tmp_path / "run")]) == 1
    assert "checkpoints/3: it is of another run" in capsys.readouterr().out


def test_data_and_result_fields_decide_and_places_do_not(load_config):
    config, data = load_config("mlp"), {"train": {"sha256": "a"}, "eval": {"sha256": "b"}}
    own = owner.properties(config, data)
    known = owner.Owner((own,), False)
    other = owner.mark(config, {**data, "train": {"sha256": "c"}}, "x")
    assert known.objection(owner.mark(config, data, "x")) is None
    assert known.objection(other) == "it is of a run on other data"
    for name, value in (("seed", 1), ("optim.learning_rate", 0.5), ("model.widths", "3")):
        mark = owner.mark(load_config("mlp", {name: value}), data, "x")
        assert known.objection(mark) == "it is of a run with other result fields"
    for name, value in (("init_from", "a"), ("distill.teacher", "b"), ("data.workers", 1)):
        assert known.objection(owner.mark(load_config("mlp", {name: value}), data, "x")) is None
    folders = [load_config("mlp", argument=f"folder:{place}") for place in ("a", "b")]
    assert owner.properties(folders[0], data) == owner.properties(folders[1], data)


# ---- Other files of two runs


@pytest.mark.parametrize("name", ["config.json", "run.json"])
def test_records_of_two_runs_are_an_error_for_every_reader(name, runs, tmp_path, data_dir, capsys):
    shutil.copy(runs / "other" / name, runs / "own" / name)
    before = contents(runs / "own")
    train = {f"seed {k}": lambda *_, k=k: command(runs / "own", data_dir, seed=k) for k in (0, 1)}
    for read in [*READERS.values(), *train.values()]:
        capsys.readouterr()
        assert read(runs / "own", tmp_path, data_dir) == 2
        assert "config.json and run.json are of two runs (seed: " in capsys.readouterr().err
    assert main(["verify", str(runs / "own")]) == 1
    assert contents(runs / "own") == before


def test_a_summary_of_another_run_is_written_again(runs, trained, data_dir, capsys, caplog):
    path = runs / "twin"
    shutil.copy(runs / "other/summary.json", path)
    assert main(["verify", str(path)]) == 1
    assert f"{path}/summary.json: it is of another run: seed: 1, not 0" in capsys.readouterr().out
    assert command(path, data_dir) == 0
    assert "summary.json is of another run and written again: seed: 1, not 0" in caplog.text
    assert_like(path, trained / "own")


def test_an_evaluation_of_another_run_is_named(runs, data_dir, capsys):
    assert command(runs / "twin", data_dir, "--evaluate") == 0
    assert main(["verify", str(runs / "twin")]) == 0
    assert command(runs / "own", data_dir, "--evaluate") == 0
    shutil.copy(runs / "own/evaluation.json", runs / "twin")
    assert main(["verify", str(runs / "twin")]) == 1
    assert "evaluation.json: it is of another run" in capsys.readouterr().out


def test_classes_of_another_run_are_written_again(runs, data_dir, capsys):
    path, text = runs / "own", (runs / "own" / class_names.FILE).read_text()
    names = list(reversed(json.loads(text)["classes"]))
    class_names.record(runs / "new", ()), (runs / "new").mkdir()
    class_names.record(runs / "new", tuple(names))
    shutil.copy(runs / "new" / class_names.FILE, path)
    assert main(["verify", str(path)]) == 1
    assert f"{class_names.FILE}: it is of another run" in capsys.readouterr().out
    assert pretrained.read_run(path).weights.class_names != tuple(names)
    assert command(path, data_dir) == 0
    assert (path / class_names.FILE).read_text() == text


# ---- Lost and edited records


@pytest.mark.parametrize("name", ["config.json", "run.json", class_names.FILE])
def test_verify_names_a_missing_record_and_a_start_writes_it_again(
    name, runs, trained, data_dir, capsys
):
    """A finished run without starts would no longer know its data and its name."""
    path = runs / "twin"
    (path / name).unlink()
    assert main(["verify", str(path)]) == 1
    assert f"{path / name}: is missing" in capsys.readouterr().out
    assert command(path, data_dir) == 0
    assert main(["verify", str(path)]) == 0
    assert_like(path, trained / "own")
    assert owner.of(path).name == owner.of(trained / "twin").name
    assert command(path, data_dir) == 0
    assert len(workdir.read_starts(path)) == 1


def test_a_summary_without_its_last_checkpoint_is_named(runs, trained, data_dir, capsys):
    """It may be that of another run."""
    path = runs / "own"
    shutil.copy(trained / "other/summary.json", path)
    summary = json_files.read_record(path / "summary.json")
    json_files.write_record(path / "summary.json", {**summary, "seed": 0})
    assert main(["verify", str(path)]) == 1
    assert "its step is 4, that of the newest sound checkpoint 3" in capsys.readouterr().out
    assert command(path, data_dir) == 0
    assert_like(path, trained / "own")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("test_correct", 9999, "test_correct differs from that in the metric lines"),
        ("train_loss", float("nan"), "train_loss differs from that in the metric lines"),
        ("test_loss", None, "test_loss differs from that in the metric lines"),
        ("step", "4", "its step is '4'"),
        ("step", 3, "its step is 3, that of the newest sound checkpoint 4"),
    ],
)
def test_a_summary_is_compared_with_the_metric_lines(
    name, value, reason, runs, trained, data_dir, capsys
):
    path = runs / "twin"
    summary = json_files.read_record(path / "summary.json")
    json_files.write_record(path / "summary.json", {**summary, name: value})
    assert main(["verify", str(path)]) == 1
    assert reason in capsys.readouterr().out
    assert command(path, data_dir) == 0
    assert_like(path, trained / "own")


def test_verify_names_lines_after_the_end_of_a_finished_run(runs, data_dir, capsys):
    path, more = runs / "twin", '{"step": 9, "split": "test", "accuracy": 1.0}\n'
    with (path / "metrics.jsonl").open("a") as file:
        file.write(more)
    assert main(["verify", str(path)]) == 1
    assert "metrics.jsonl: it goes on after the metric lines" in capsys.readouterr().out
    assert command(path, data_dir) == 0
    assert main(["verify", str(path)]) == 0
    with (runs / "own/metrics.jsonl").open("a") as file:  # it was killed after these lines
        file.write(more)
    assert main(["verify", str(runs / "own")]) == 0
