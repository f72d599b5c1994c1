"""Mean and standard deviation of the pixels of a run that starts from weights."""

import copy
import json
import pathlib

import jax
import numpy as np
import pytest

import launch
from cv_jax import config as configs
from cv_jax import models
from cv_jax.interop import saved
from cv_jax.run import json_files
from cv_jax.training import experiment

ROOT = pathlib.Path(launch.__file__).parent
DIGITS = ((0.305,), (0.376,))  # the usual values
TRAINED = {"mean": [0.25, 0.5, 0.75], "std": [0.5, 0.5, 0.5]}
ADOPTED = ((0.5,), (0.5,))  # digits have one channel
FEW = {"total_steps": 2, "batch_size": 8, "schedule.warmup_epochs": "none", "mesh.devices": 1}


def write(path, preprocessing=TRAINED):
    """Write weights of a linear classifier for the digits."""
    model = models.create("linear", num_classes=10)
    image = np.zeros((1, 32, 32, 1), np.float32)
    variables = jax.tree.map(np.asarray, model.init(jax.random.key(0), image))
    fields = {"num_classes": 10}
    described = saved.Saved(variables, "linear", fields, (32, 32), 1, preprocessing=preprocessing)
    saved.write(path, described)
    return path


def flags(data_dir, *arguments, config=ROOT / "configs" / "linear.py", **overrides):
    overrides = {**FEW, "data.dir": data_dir, **overrides}
    return [
        *("--config", str(config)),
        *(f"--config.{name}={value}" for name, value in overrides.items()),
        *map(str, arguments),
    ]


def of(config) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return config.data.mean, config.data.std


def recorded(workdir):
    values = json_files.read_record(workdir / "config.json")
    return tuple(values["data.mean"]), tuple(values["data.std"])


def test_without_weights_a_dataset_has_its_usual_values(load_config):
    assert of(load_config("linear")) == DIGITS
    assert of(load_config("linear", {"data.mean": 0.1})) == ((0.1,), DIGITS[1])
    assert of(configs.restore(configs.flatten(load_config("linear")))) == DIGITS
    assert of(configs.with_normalisation(configs.default("elsewhere", "linear")))[0] == (0.5,)
    # The usual values and none give a run directory the same name.
    config = load_config("linear")
    unstated = copy.deepcopy(config)
    unstated.data.mean = unstated.data.std = None
    assert configs.digest(unstated) == configs.digest(config)
    assert configs.digest(load_config("linear", {"data.mean": 0.1})) != configs.digest(config)


def test_the_values_of_the_weights_are_used_and_named(tmp_path, load_config, capsys):
    path = write(tmp_path / "weights.safetensors")
    parts = experiment.build(load_config("linear", {**FEW, "init_from": path}))
    assert of(parts.config) == ADOPTED
    assert capsys.readouterr().out == (
        f"{path}: data.mean=(0.5,) and data.std=(0.5,) as in the training of these weights, "
        "instead of data.mean=(0.305,) and data.std=(0.376,); values in the config take "
        "precedence\n"
    )
    parts.pretrained()
    assert capsys.readouterr().out == ""
    # Training uses them: a white image is 1, a black one -1.
    from cv_jax.augment.batch import normalise

    images = np.array([0.0, 255.0]).reshape(2, 1, 1, 1)
    np.testing.assert_allclose(np.ravel(normalise(parts.config, images)), [-1, 1], atol=1e-6)


def test_weights_with_the_usual_values_or_without_values_need_no_note(
    tmp_path, load_config, capsys
):
    usual = {"mean": [0.305], "std": [0.376]}
    for preprocessing in (usual, {}, {"crop_pct": 0.9}):
        path = write(tmp_path / "weights.safetensors", preprocessing)
        parts = experiment.build(load_config("linear", {**FEW, "init_from": path}))
        assert of(parts.config) == DIGITS
        parts.pretrained()
    assert capsys.readouterr().out == ""


FILE = """
from cv_jax import config

def get_config(arg):
    c = config.default("digits", "linear")
    c.optim.learning_rate = 0.1
    c.data.mean = {mean}
    return c
"""


@pytest.mark.parametrize("mean", ["(0.305,)", "(0.2,)"])
@pytest.mark.parametrize("where", ["override", "file"])
def test_a_config_that_states_its_own_keeps_them(mean, where, tmp_path, data_dir, capsys):
    """Also the usual values, if they are stated; a note names the values of the weights."""
    path = write(tmp_path / "weights.safetensors")
    file = tmp_path / "own.py"
    file.write_text(FILE.format(mean=mean if where == "file" else "None"))
    texts = {**FEW, "init_from": path, "data.dir": data_dir}
    texts |= {"data.mean": mean} if where == "override" else {}
    parts = experiment.build(configs.load(str(file), {k: str(v) for k, v in texts.items()}))
    expected = (0.305,) if mean == "(0.305,)" else (0.2,)
    assert of(parts.config) == (expected, DIGITS[1])
    assert capsys.readouterr().out == ""
    parts.pretrained()
    assert capsys.readouterr().out == (
        f"{path}: data.mean={expected} and data.std=(0.376,) in the config, in the training "
        "data.mean=(0.5,) and data.std=(0.5,)\n"
    )


@pytest.mark.parametrize("workdir", [None, pytest.param("named", marks=pytest.mark.slow)])
def test_a_restart_keeps_the_values_and_needs_no_weights(
    workdir, tmp_path, data_dir, monkeypatch, capsys
):
    """In a given directory and in the default directory; also `--evaluate`."""
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "weights.safetensors")
    command = flags(data_dir, *(["--workdir", workdir] if workdir else []), init_from=path)
    assert launch.run(command) == 0
    assert capsys.readouterr().out.count("as in the training of these weights") == 1
    (found,) = [tmp_path / "named"] if workdir else (tmp_path / "runs").iterdir()
    assert recorded(found) == ADOPTED
    path.unlink()
    assert launch.run(command) == 0
    assert "finished already" in capsys.readouterr().out
    assert launch.run([*command, "--evaluate"]) == 0
    assert workdir or list((tmp_path / "runs").iterdir()) == [found]


def test_a_run_of_an_earlier_version_keeps_the_usual_values(tmp_path, data_dir, capsys):
    """Earlier versions ignored the values of the weights."""
    path, workdir = write(tmp_path / "weights.safetensors"), tmp_path / "run"
    stated = {"data.mean": 0.305, "data.std": 0.376}
    assert launch.run(flags(data_dir, "--workdir", workdir, init_from=path, **stated)) == 0
    capsys.readouterr()
    assert launch.run(flags(data_dir, "--workdir", workdir, init_from=path)) == 0
    assert "finished already" in capsys.readouterr().out


def test_the_weights_of_a_run_have_the_values_of_its_config(tmp_path, data_dir, load_config):
    first = tmp_path / "first"
    assert launch.run(flags(data_dir, "--workdir", first, **{"data.mean": 0.25})) == 0
    parts = experiment.build(load_config("linear", {**FEW, "init_from": first}))
    assert of(parts.config) == ((0.25,), DIGITS[1])


def test_a_dry_run_reads_no_weights(data_dir, capsys):
    assert launch.run(flags(data_dir, "--dry_run", init_from="hf-hub:nobody/nothing")) == 0
    assert "parameters" in capsys.readouterr().out


SWEEP = (
    (ROOT / "configs" / "linear.py").read_text()
    + """

def sweep_rate():
    for rate in (0.1, 0.2):
        yield {"optim.learning_rate": rate}
"""
)


@pytest.mark.parametrize("executor", ["vmap", pytest.param("local", marks=pytest.mark.slow)])
def test_a_sweep(executor, tmp_path, data_dir, capsys):
    """Every trial records the values; a second start needs no weights."""
    path, file, folder = write(tmp_path / "w.safetensors"), tmp_path / "s.py", tmp_path / "sweep"
    file.write_text(SWEEP)
    command = flags(data_dir, "--sweep=rate", "--sweep_dir", folder, config=file, init_from=path)
    command += ["--sweep_executor=vmap"] if executor == "vmap" else ["--slots", "1"]
    for _ in range(2):
        assert launch.run(command) == 0
        trials = [run.parent for run in folder.glob("*/run.json")]
        assert len(trials) == 2
        assert all(recorded(trial) == ADOPTED for trial in trials)
        path.unlink(missing_ok=True)
    starts = json.loads((trials[0] / "run.json").read_text())
    assert starts[0]["config"]["data.mean"] == [0.5]


def test_values_out_of_range_are_refused(tmp_path, load_config):
    path = write(tmp_path / "weights.safetensors", {"mean": [0.5], "std": [0.0]})
    with pytest.raises(launch.InputError, match=r"config.data.std=\(0.0,\) must be more than 0"):
        experiment.build(load_config("linear", {**FEW, "init_from": path}))
