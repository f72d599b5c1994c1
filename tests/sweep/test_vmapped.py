"""Trials trained in one program equal their separate runs, also after kills and failures."""

import copy
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from slow import slow_except

from cv_jax.devices import compile_cache
from cv_jax.errors import InputError
from cv_jax.progress import Progress
from cv_jax.run.checkpoint import Checkpoints, finished, read_newest
from cv_jax.sweep import vmapped
from cv_jax.training import experiment, loop
from cv_jax.training.evaluate import evaluate

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import launch  # noqa: E402

# With shuffling, host and device augmentation, mixing, dropout, averages and a probe.
MLP = {
    "model.widths": 16,
    "model.dropout_rate": 0.1,
    "image_size": 16,
    "augment": "resize(20)|random_crop(16)|pad_crop(2)|mixup(0.2)",
    "eval_preprocess": "resize(20)|central_crop(16)",
    "batch_size": 16,
    "total_steps": 12,
    "eval.every_steps": 6,
    "checkpoint.every_steps": 4,
    "log.every_steps": 3,
    "log.norms": True,
    "ema.decay": 0.9,
    "loss.label_smoothing": 0.1,
    "optim.weight_decay": 0.01,
    "eval.extra": "knn(k=3, feature='pre_logits', train_examples=50)",
}
POINTS = [
    {"seed": 0, "optim.learning_rate": 3e-3},
    {"seed": 3, "optim.learning_rate": 1e-3, "model.dropout_rate": 0.3},
    {"seed": 0, "loss.label_smoothing": 0.2, "augment": MLP["augment"].replace("0.2", "0.7")},
]
NO_WARMUP = {"schedule.warmup_epochs": None, "schedule.warmup_steps": 2}


def configs_of(load_config, points, base=MLP, name="mlp", **more):
    return [load_config(name, {**base, **more, **NO_WARMUP, **point}) for point in points]


def run(folder, configs):
    return vmapped.run({folder / f"trial{i}": config for i, config in enumerate(configs)}, print)


def lines(workdir, file="metrics.jsonl"):
    return [json.loads(line) for line in (workdir / file).read_text().splitlines()]


def read(file):
    return json.loads(file.read_text())


def separate(folder, configs):
    for i, config in enumerate(configs):
        config = copy.deepcopy(config)
        config.mesh.devices = 1
        assert loop.train(experiment.build(config), folder / f"trial{i}", "") == 0
    return folder


@pytest.fixture(scope="module")
def reference(tmp_path_factory, load_config):
    """Folder with a separate run of each point."""
    compile_cache.use("auto")
    return separate(tmp_path_factory.mktemp("separate"), configs_of(load_config, POINTS))


def assert_equal_runs(got, expected, tolerance=1e-4):
    """Numbers are equal up to rounding, all other content exactly."""
    ours, theirs = lines(got), lines(expected)
    assert [(x["step"], x["split"], [*x]) for x in ours] == [
        (x["step"], x["split"], [*x]) for x in theirs
    ]
    for a, b in zip(ours, theirs, strict=True):
        values = [[x[k] for k in x if k != "split"] for x in (a, b)]
        np.testing.assert_allclose(*values, rtol=tolerance, atol=tolerance, err_msg=str((a, b)))
    assert read(got / "config.json")["seed"] == read(expected / "config.json")["seed"]
    summaries = [read(folder / "summary.json") for folder in (got, expected)]
    assert summaries[0].keys() == summaries[1].keys()
    assert summaries[0]["digest"] == summaries[1]["digest"]
    (a, step), (b, last) = (read_newest(w / "checkpoints", lambda n: True) for w in (got, expected))
    assert step == last
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_allclose(a[name], b[name], rtol=1e-3, atol=tolerance, err_msg=name)


@pytest.mark.slow
def test_every_trial_has_the_digests_of_the_shared_examples(tmp_path, load_config, reference):
    more = {"data.hash": "full", "data.cache": "none"}
    assert run(tmp_path, configs_of(load_config, POINTS[:2], **more)) == [0, 0]
    for i in range(2):
        assert_equal_runs(tmp_path / f"trial{i}", reference / f"trial{i}")
        content = (tmp_path / f"trial{i}/digests/train-0.bin").read_bytes()
        # Two seeds choose 12 batches of 16 examples each, and 50 for the probe.
        count = np.count_nonzero(np.frombuffer(content[32:], "<u8"))
        assert 12 * 16 + 50 < count <= 2 * 12 * 16 + 50
        assert content == (tmp_path / "trial0/digests/train-0.bin").read_bytes()


@pytest.mark.parametrize("devices", slow_except([1, 2], "2"))
def test_each_trial_equals_its_separate_run(tmp_path, load_config, reference, devices):
    """On two devices a copy of the third trial is padding."""
    configs = configs_of(load_config, POINTS, **{"mesh.devices": devices})
    assert run(tmp_path, configs) == [0, 0, 0]
    for i in range(3):
        assert_equal_runs(tmp_path / f"trial{i}", reference / f"trial{i}")
        for folder, count in ((tmp_path, 3), (reference, 1)):
            (start,) = read(folder / f"trial{i}" / "run.json")
            assert start["trials_in_one_program"] == count


def exact_content(workdir):
    state, step = read_newest(workdir / "checkpoints", lambda name: True)
    texts = [(workdir / file).read_text() for file in ("metrics.jsonl", "summary.json")]
    return step, {name: value.tobytes() for name, value in state.items()}, texts


@pytest.fixture(scope="module")
def together(tmp_path_factory, load_config):
    """Folder with the points trained in one program, without interruption."""
    folder = tmp_path_factory.mktemp("together")
    assert run(folder, configs_of(load_config, POINTS)) == [0, 0, 0]
    return folder


@pytest.mark.slow
def test_a_kill_between_the_saves_of_a_step_changes_nothing(
    tmp_path, load_config, together, monkeypatch
):
    save = Checkpoints.save

    def killed(self, step, *arguments):
        if step == 8 and "trial1" in str(self.folder):
            raise KeyboardInterrupt
        save(self, step, *arguments)
        self.wait()

    monkeypatch.setattr(Checkpoints, "save", killed)
    configs = configs_of(load_config, POINTS)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, configs)
    monkeypatch.undo()
    saved = [finished(tmp_path / f"trial{i}" / "checkpoints") for i in range(3)]
    assert saved == [[4, 8], [4], [4]]
    assert run(tmp_path, configs) == [0, 0, 0]
    for i in range(3):
        name = f"trial{i}"
        assert [start["step"] for start in read(tmp_path / name / "run.json")] == [0, 4]
        assert exact_content(tmp_path / name) == exact_content(together / name)


@pytest.mark.slow
def test_a_signal_saves_all_trials_and_the_next_start_continues(
    tmp_path, load_config, together, monkeypatch
):
    update = Progress.update

    def signalled(self, step):
        update(self, step)
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Progress, "update", signalled)
    configs = configs_of(load_config, POINTS)
    assert run(tmp_path, configs) == [75, 75, 75]
    assert not list(tmp_path.rglob("summary.json"))
    monkeypatch.undo()
    # The first trial continues as a plain run, then the others in one program.
    separate(tmp_path, configs[:1])
    assert_equal_runs(tmp_path / "trial0", together / "trial0")
    before = exact_content(tmp_path / "trial0")
    assert run(tmp_path, configs) == [0, 0, 0]
    assert exact_content(tmp_path / "trial0") == before
    steps = [start["step"] for start in read(tmp_path / "trial1" / "run.json")]
    assert steps[0] == 0
    assert 5 <= steps[1] < 12  # the signal reaches the loop through a thread
    for i in (1, 2):  # two trials compile to another program than three
        assert_equal_runs(tmp_path / f"trial{i}", together / f"trial{i}")
    assert run(tmp_path, configs) == [0, 0, 0]
    assert evaluate(experiment.build(configs[1]), tmp_path / "trial1") == 0


def test_a_loss_that_is_not_finite_ends_only_its_trial(tmp_path, load_config, reference):
    points = [POINTS[0], {**POINTS[1], "optim.learning_rate": 1e38}, POINTS[2]]
    assert run(tmp_path, configs_of(load_config, points)) == [0, 3, 0]
    assert not (tmp_path / "trial1" / "summary.json").exists()
    for i in (0, 2):
        assert_equal_runs(tmp_path / f"trial{i}", reference / f"trial{i}")


VIT = {
    "model.width": 24,
    "model.depth": 2,
    "model.drop_path_rate": 0.1,
    "batch_size": 8,
    "total_steps": 6,
    "eval.every_steps": 3,
    "eval.batch_size": 120,
    "log.every_steps": 2,
    "optim.layer_decay": 0.8,
    "optim.accumulate_steps": 2,
}


@pytest.mark.slow
def test_a_transformer(tmp_path, load_config):
    """Eight trials on eight devices."""
    points = [{"seed": i, "optim.weight_decay": 0.1 * (i % 3 + 1)} for i in range(8)]
    points[5] = {"seed": 5, "model.drop_path_rate": 0.4, "optim.layer_decay": 0.7}
    configs = configs_of(load_config, points, VIT, "vit_ti16")
    assert run(tmp_path / "together", configs) == [0] * 8
    separate(tmp_path, configs_of(load_config, points[5:6], VIT, "vit_ti16"))
    assert_equal_runs(tmp_path / "together" / "trial5", tmp_path / "trial0")


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (
            {"batch_size": 32},
            {},
            "must share config.batch_size, which is 32 in trial0 and 16",
        ),
        ({"total_steps": 9}, {}, "config.total_steps"),
        ({}, {"data.fraction": 0.5}, "config.data.fraction"),
        ({}, {"eval.every_steps": 5}, "config.eval.every_steps"),
        (
            {},
            {"model.widths": 8},
            "config.model.widths=(16,) in trial0 and (8,) in trial1 make",
        ),
        ({}, {"optim.name": "sgd"}, "config.optim.name='adamw' in trial0 and 'sgd' in trial1"),
        (
            {"seed": 4},
            {"loss.label_smoothing": 0.0},
            "config.loss.label_smoothing=0.1 in trial0",
        ),
        ({}, {"augment": "resize(16)|flip"}, "config.augment="),
        ({}, {"distill.teacher": "somewhere"}, "config.distill.teacher, which is None in"),
        ({"dropout_rng": "rbg"}, {"dropout_rng": "rbg"}, "config.dropout_rng=rbg draws other"),
        (
            {"eval.pictures": 2},
            {"eval.pictures": 2},
            "config.eval.pictures is not supported; set 0",
        ),
        (
            {"steps_per_program": 4, "data.cache": "device", "augment": ""},
            {"steps_per_program": 4, "data.cache": "device", "augment": ""},
            "config.steps_per_program is not supported; set 1",
        ),
        ({"log.writers": "wandb"}, {"log.writers": "wandb"}, "wandb supports one run per process"),
    ],
)
def test_trials_of_different_programs_are_errors_with_the_field(
    tmp_path, load_config, a, b, message
):
    with pytest.raises(InputError) as caught:
        run(tmp_path, configs_of(load_config, [a, b]))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("config.json"))


@pytest.mark.slow
def test_the_command_line(tmp_path, data_dir, capsys):
    sweep = ["--config", f"{ROOT}/configs/mlp.py", "--sweep=rate", "--seeds", "2"]
    sweep += ["--sweep_dir", str(tmp_path / "sweep"), "--config.model.widths=8"]
    sweep += [f"--config.data.dir={data_dir}", "--config.total_steps=3"]
    vmap = [*sweep, "--sweep_executor=vmap"]
    assert launch.main(vmap) == 0
    assert "6 of 6 trials done" in capsys.readouterr().out
    folders = sorted(path.parent for path in (tmp_path / "sweep").rglob("summary.json"))
    assert len({read(folder / "config.json")["seed"] for folder in folders}) == 2
    before = [exact_content(folder) for folder in folders]
    assert launch.main(vmap) == 0
    printed = capsys.readouterr()
    assert "0 of 6 trials to train in one program" in printed.err
    assert "6 of 6 trials done" in printed.out
    assert [exact_content(folder) for folder in folders] == before

    differing = ["--sweep=width", *[flag for flag in vmap if flag != "--sweep=rate"]]
    differing[differing.index(str(tmp_path / "sweep"))] = str(tmp_path / "other")
    differing.remove("--config.model.widths=8")
    with pytest.raises(InputError, match="config.model.widths=.* make different programs"):
        launch.main(differing)
    with pytest.raises(InputError, match="--slots and --sweep_executor=vmap do not go together"):
        launch.main([*vmap, "--slots", "2"])
    with pytest.raises(InputError, match="--sweep_executor needs --sweep"):
        launch.main(["--config", f"{ROOT}/configs/mlp.py", "--sweep_executor=vmap"])
