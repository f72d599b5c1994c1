"""Command line: a mistake gives a message of one line and exit code 2, and changes no file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import launch  # noqa: E402
from cv_jax.errors import InputError  # noqa: E402

FAST = ["--config.total_steps=2", "--config.model.widths=8", "--config.batch_size=32"]


def run(*arguments, data_dir, name="mlp", workdir=None):
    """Run the command in this process, and return its exit code."""
    flags = ["--config", f"{ROOT}/configs/{name}.py", f"--config.data.dir={data_dir}"]
    if workdir is not None:
        flags += ["--workdir", str(workdir)]
    return launch.main([*flags, *arguments])


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("mlp", ["--config.model.width=3"], "did you mean config.model.widths?"),
        ("mlp", ["--config.batch_size=3.5"], "'3.5' is not an integer"),
        ("mlp", ["--config.batch_size"], "needs a value"),
        ("mlp", ["--confg=x"], "unrecognized arguments: --confg=x"),
        ("nothing", [], "does not exist"),
        ("mlp", ["--config.data.name=cifar1"], "unknown dataset 'cifar1'"),
        ("mlp", ["--config.data.name=mnist"], "python -m cv_jax prepare mnist"),
        ("mlp", ["--config.augment=flp"], "unknown augmentation 'flp'; did you mean flip?"),
        ("mlp", ["--config.augment=resize(9)"], "config.image_size is 32x32: make them equal"),
        ("mlp", ["--config.eval_preprocess=flip"], "only deterministic operations"),
        ("mlp", ["--config.optim.name=adamv"], "config.optim.name: 'adamv' is not one of"),
        ("mlp", ["--config.loss.name=hinge"], "config.loss.name: 'hinge' is not one of"),
        ("mlp", ["--config.schedule.name=cosin"], "did you mean cosine?"),
        ("mlp", ["--config.model.act=rellu"], "unknown activation 'rellu'"),
        ("mlp", ["--config.data.mean=0.1,0.2"], "has 2 values; images have 1 channels"),
        ("mlp", ["--config.data.cache=disk"], "is not one of auto, device, memory, none"),
        ("mlp", ["--config.dropout_rng=mt19937"], "is not one of threefry2x32, rbg"),
        ("mlp", ["--config.ema.decay=1.5"], "must be at least 0 and less than 1"),
        ("mlp", ["--config.seed=-1"], "must be at least 0 and at most 4294967295"),
        ("mlp", ["--config.data.train_split=trian"], "available splits: train, test"),
        (
            "mlp",
            ["--config.batch_size=12", "--config.eval.batch_size=64"],
            "does not divide over 8",
        ),
        ("mlp", ["--config.eval.batch_size=12"], "config.eval.batch_size=12 does not divide"),
        ("mlp", ["--config.mesh.devices=9"], "there are 8 devices"),
        ("mlp", ["--config.xla_flags=--xla_no_such_flag=1"], "xla_no_such_flag"),
        ("lenet5", ["--config.image_size=12"], "config.model: "),
        (
            "vit_ti16",
            ["--config.model.patch_size=5"],
            "patch_size 5 does not divide",
        ),
        ("vit_ti16", ["--config.model.num_heads=5"], "num_heads"),
        ("vit_ti16", ["--config.model.pool=median"], "pool"),
        ("mlp", ["--evaluate"], "there is no checkpoint"),
        ("mlp", ["--evaluate", "--dry_run"], "not allowed with"),
    ],
)
def test_a_mistake_is_reported_before_a_file_is_written(
    tmp_path, data_dir, name, arguments, message
):
    workdir = tmp_path / "run"
    environment = dict(os.environ)
    with pytest.raises(InputError) as caught:
        run(*arguments, data_dir=data_dir, name=name, workdir=workdir)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not workdir.exists()
    assert {**os.environ, "PYTEST_CURRENT_TEST": ""} == {**environment, "PYTEST_CURRENT_TEST": ""}


def test_a_mistake_exits_with_2_and_one_line():
    command = [sys.executable, str(ROOT / "launch.py"), "--config", "configs/nothing.py"]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert process.returncode == 2
    assert process.stderr.startswith("error: config file configs/nothing.py does not exist")
    assert process.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data_dir):
    workdir = tmp_path_factory.mktemp("trained") / "run"
    assert run(*FAST, data_dir=data_dir, workdir=workdir) == 0
    return workdir


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def test_a_run_writes_its_records(trained):
    config = json.loads((trained / "config.json").read_text())
    assert (config["total_steps"], config["model.widths"]) == (2, [8])
    (start,) = json.loads((trained / "run.json").read_text())
    assert start["step"] == 0
    assert len(start["devices"]) == 8
    assert start["data"]["train"]["splits"] == {"train": 1438, "test": 359}
    assert {"jax", "flax", "optax", "pillow"} < set(start["versions"])
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["split"]) for line in lines] == [(2, "train"), (2, "test")]
    assert lines[1]["count"] == 359
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["test_accuracy"] == lines[1]["accuracy"]
    assert (summary["parameters"], summary["multiply_adds"]) == (8290, 1024 * 8 + 8 * 10)
    assert [path.name for path in (trained / "checkpoints").iterdir()] == ["2"]


def test_a_finished_run_prints_its_result_and_changes_nothing(trained, data_dir, capsys):
    before = contents(trained)
    assert run(*FAST, data_dir=data_dir, workdir=trained) == 0
    assert "finished already: test accuracy" in capsys.readouterr().out
    assert contents(trained) == before


def test_evaluate_writes_one_file_and_rewrites_it_identically(trained, data_dir, capsys):
    before, file = contents(trained), trained / "evaluation.json"
    flags = [*FAST, "--evaluate"]
    assert run(*flags, data_dir=data_dir, workdir=trained) == 0
    summary = json.loads((trained / "summary.json").read_text())
    output = capsys.readouterr().out
    assert f"({summary['test_correct']} of 359), loss {summary['test_loss']:.6f}, {file}" in output
    text = file.read_text()
    found = json.loads(text)
    assert (found["step"], found["digest"]) == (2, summary["digest"])
    assert found["versions"]["jax"]
    test = found["evaluations"]["test"]
    assert test["data"]["splits"] == {"train": 1438, "test": 359}
    line = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])
    assert line == {"step": 2, "split": "test", **test["metrics"]}
    matrix = test["confusion_matrix"]
    assert sum(map(sum, matrix)) == sum(row["count"] for row in test["reliability"]) == 359
    right = [row["correct"] for row in test["per_class"]]
    assert right == [matrix[k][k] for k in range(10)]
    assert f"{test['per_class'][3]['accuracy']:.4f}" in output
    assert run(*flags, data_dir=data_dir, workdir=trained) == 0
    assert file.read_text() == text

    # Another preprocessing or more evaluations: a new file each.
    shifted = "--config.eval_preprocess=resize(36)|central_crop(32)|flips"
    assert run(*flags, shifted, data_dir=data_dir, workdir=trained) == 0
    probe = "--config.eval.extra=knn(k=3, feature='fc1', train_examples=200)"
    assert run(*flags, probe, data_dir=data_dir, workdir=trained) == 0
    assert file.read_text() == text
    others = sorted(set(trained.glob("evaluation-*.json")))
    assert len(others) == 2
    named = [set(json.loads(other.read_text())["evaluations"]) for other in others]
    assert sorted(named, key=len) == [{"test"}, {"test", "knn"}]
    for path in (file, *others):
        path.unlink()
    assert contents(trained) == before


def test_a_run_continues_with_its_own_evaluation_only(trained, data_dir):
    with pytest.raises(InputError, match="config.eval_preprocess: was '', is now 'resize"):
        run(*FAST, "--config.eval_preprocess=resize(32)", data_dir=data_dir, workdir=trained)


def test_another_config_is_refused_with_its_difference(trained, data_dir):
    before = contents(trained)
    with pytest.raises(InputError) as caught:
        run(*FAST, "--config.seed=5", data_dir=data_dir, workdir=trained)
    output = str(caught.value)
    assert "config.seed: was 0, is now 5" in output
    assert "give another --workdir, or the old values" in output
    assert contents(trained) == before
    # A run field may change.
    assert run(*FAST, "--config.log.every_steps=3", data_dir=data_dir, workdir=trained) == 0


def test_other_data_are_refused(trained, data_dir, tmp_path):
    import shutil

    shutil.copytree(data_dir / "digits", tmp_path / "digits")
    info = tmp_path / "digits" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("carried by", "taken from"))
    with pytest.raises(InputError, match=r"was started with other data.*train.checksum"):
        run(*FAST, data_dir=tmp_path, workdir=trained)


def test_directories_without_a_run_are_refused(tmp_path, data_dir):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file; give a folder"):
        run(*FAST, data_dir=data_dir, workdir=tmp_path / "file")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="holds files but no run"):
        run(*FAST, data_dir=data_dir, workdir=tmp_path / "other")
    with pytest.raises(InputError, match="cannot be written"):
        run(*FAST, data_dir=data_dir, workdir="/proc/run")
    with pytest.raises(InputError, match="object stores are not supported"):
        run(*FAST, data_dir=data_dir, workdir="gs://bucket/run")


def test_the_default_directory_is_named_by_the_config(data_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*FAST, data_dir=data_dir) == 0
    assert run(*FAST, "--config.seed=1", data_dir=data_dir) == 0
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert len(names) == 2
    assert all(name.startswith("mlp-digits-") for name in names)


def test_a_loss_that_is_not_finite_stops_with_code_3(tmp_path, data_dir, capsys):
    steps = ["--config.total_steps=30", "--config.checkpoint.every_steps=1"]
    flags = [*FAST, *steps, "--config.optim.name=sgd", "--config.optim.learning_rate=1e30"]
    flags.append("--config.schedule.warmup_steps=2")  # learning rate 0 at the first update
    assert run(*flags, data_dir=data_dir, workdir=tmp_path / "run") == 3
    output = capsys.readouterr().err
    assert "the loss is not finite at step" in output
    assert "the last good checkpoint is" in output
    assert not (tmp_path / "run" / "summary.json").exists()


def test_parameters_that_are_not_finite_are_never_saved(tmp_path, data_dir, capsys):
    # The loss of step 2 is finite, its update overflows: 1e30 · 1e10.
    flags = [*FAST, "--config.total_steps=9", "--config.checkpoint.every_steps=1"]
    flags += ["--config.optim.name=sgd", "--config.schedule.warmup_steps=1"]
    flags += ["--config.optim.learning_rate=1e30", "--config.optim.weight_decay=1e10"]
    workdir = tmp_path / "run"
    assert run(*flags, data_dir=data_dir, workdir=workdir) == 3
    assert "not finite at step 2; the last good checkpoint is 1" in capsys.readouterr().err
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["1"]


def test_dry_run_describes_and_writes_nothing(tmp_path, data_dir, capsys):
    workdir = tmp_path / "run"
    treated = "--config.optim.rules=fc1/.*: lr=0.5 freeze,.*bias: decay=0"
    assert run(*FAST, treated, "--dry_run", data_dir=data_dir, workdir=workdir) == 0
    output = capsys.readouterr().out
    ends = {line.split()[0]: line.partition("float32")[2].strip() for line in output.splitlines()}
    assert ends["fc1/kernel"] == "lr 0.5, frozen"
    assert ends["fc1/bias"] == "lr 0.5, decay 0, frozen"
    assert ends["head/bias"] == "decay 0"
    assert ends["head/kernel"] == ""
    parameters = 32 * 32 * 8 + 8 + 8 * 10 + 10
    assert f"parameters           {parameters:,}" in output
    assert f"multiply-adds/image  {32 * 32 * 8 + 8 * 10:,}" in output
    assert "fc1/kernel" in output
    assert "memory/device" in output
    assert not workdir.exists()


def test_a_full_disk_stops_the_run_and_leaves_the_previous_checkpoint(tmp_path, data_dir):
    """A file-size limit makes a write fail like a full disk."""
    workdir = tmp_path / "run"
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"sys.path.insert(0, {str(ROOT)!r}); import launch; from cv_jax.run import checkpoint;"
        "save = checkpoint.Checkpoints.save\n"
        "def limited(self, step, *what):\n"
        "    if step == 2:\n"
        "        self.wait()\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "    return save(self, step, *what)\n"
        "checkpoint.Checkpoints.save = limited\n"
        "sys.exit(launch.run(sys.argv[1:]))"
    )
    flags = ["--config", f"{ROOT}/configs/mlp.py", "--workdir", str(workdir)]
    flags += [*FAST, "--config.checkpoint.every_steps=1", f"--config.data.dir={data_dir}"]
    process = subprocess.run(
        [sys.executable, "-c", code, *flags],
        env={**os.environ, "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1, process.stderr
    assert "error: checkpoint 2 could not be written" in process.stderr
    assert "checkpoint 1 is intact" in process.stderr
    assert "Traceback" not in process.stderr
    assert run(*FAST, "--evaluate", data_dir=data_dir, workdir=workdir) == 0


@pytest.mark.parametrize("columns", [40, 100])
def test_the_fields_in_the_help_fit_the_terminal(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = launch._describe_fields().splitlines()
    words = [line.split() for line in lines if len(line) > columns]
    assert all(len(line) == 1 for line in words), words  # one word that is longer than a line
    assert len(lines) > len(launch.FIELDS)


def test_training_does_not_need_its_output(data_dir, tmp_path, monkeypatch):
    needed = []
    monkeypatch.setattr(launch.output, "optional", lambda: needed.append(False))
    run(*FAST, "--dry_run", data_dir=data_dir)
    assert needed == []
    run(*FAST, data_dir=data_dir, workdir=tmp_path / "run")
    assert needed == [False]
