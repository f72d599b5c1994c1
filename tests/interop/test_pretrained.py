"""Runs that start from a weight file."""

import json

import jax
import numpy as np
import pytest
from slow import slow_except

import launch
from cv_jax import __main__, interop, models
from cv_jax.errors import InputError
from cv_jax.interop import pretrained, saved
from cv_jax.models.positions import resize_patch_kernel, resize_positions
from cv_jax.run.checkpoint import Checkpoints
from cv_jax.training import experiment

VIT = dict(width=16, depth=1, num_heads=2, patch_size=8)
RUN = {
    "total_steps": 2,
    "batch_size": 8,
    "mesh.devices": 1,
    "schedule.warmup_epochs": "none",
    **{f"model.{name}": value for name, value in VIT.items()},
}


def write(path, name, image_size=32, channels=1, **fields):
    """Write a file of random weights, and return the weights."""
    sized = {"image_size": image_size} if "image_size" in models.fields(name) else {}
    model = models.create(name, **sized, **fields)
    image = np.zeros((1, image_size, image_size, channels), np.float32)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    saved.write(path, saved.Saved(variables, name, fields, (image_size,) * 2, channels))
    return variables


def test_a_run_starts_from_the_file_and_its_average_too(tmp_path, load_config):
    path = tmp_path / "weights.safetensors"
    variables = write(path, "vit_ti16", num_classes=10, **VIT)
    overrides = {**RUN, "init_from": path, "ema.decay": 0.5}
    parts = experiment.build(load_config("vit_ti16", overrides))
    state = parts.init()(parts.pretrained())
    for tree in (state.params, state.ema["params"]):
        jax.tree.map(np.testing.assert_array_equal, tree, variables["params"])
    # The state is complete: the training step, which donates it, continues from it.
    train_step = parts.train_step()
    for batch in parts.train_batches(0):
        state, metrics = train_step(state, batch)
    assert state.step == 2
    assert np.isfinite(metrics["loss"])


def test_statistics_are_taken_over(tmp_path, load_config):
    path = tmp_path / "net.safetensors"
    variables = write(path, "resnet8_cifar", num_classes=10)
    parts = experiment.build(load_config("resnet", {"init_from": path, "mesh.devices": 1}))
    state = parts.init()(parts.pretrained())
    got = {"params": state.params, **state.model_state}
    assert set(got) == {"params", "batch_stats"}
    jax.tree.map(np.testing.assert_array_equal, got, variables)


def test_other_classes_sizes_and_channels_are_fitted_and_reported(tmp_path, load_config, capsys):
    path = tmp_path / "weights.safetensors"
    variables = write(path, "vit_ti16", 48, 3, num_classes=7, **VIT)
    parts = experiment.build(load_config("vit_ti16", {**RUN, "init_from": path}))
    params = parts.pretrained()["params"]
    block = ("blocks_0", "mlp", "fc1", "kernel")
    got, expected = params, variables["params"]
    for name in block:
        got, expected = got[name], expected[name]
    np.testing.assert_array_equal(got, expected)
    assert params["head"]["kernel"].shape == (16, 10)
    assert params["pos_embed"].shape == (1, 17, 16)
    colours = variables["params"]["patch_embed"]["kernel"]
    summed = colours.sum(axis=2, keepdims=True)
    np.testing.assert_allclose(params["patch_embed"]["kernel"], summed, rtol=1e-5)
    said = capsys.readouterr().out
    assert "positions resized from 6x6 to 4x4 patches" in said
    assert "adapted from 3 to 1 input channels" in said
    assert "classifier of 7 classes dropped" in said


def test_a_masked_autoencoder_hands_its_encoder_to_a_vit(tmp_path, load_config, capsys):
    path = tmp_path / "mae.safetensors"
    narrow = dict(decoder_width=8, decoder_depth=1, decoder_num_heads=2)
    variables = write(path, "mae_vit_b16", 16, 1, **VIT, **narrow)
    parts = experiment.build(load_config("vit_ti16", {**RUN, "init_from": path}))
    params = parts.pretrained()["params"]
    for name in ("blocks_0", "patch_embed", "cls_token", "norm"):
        jax.tree.map(np.testing.assert_array_equal, params[name], variables["params"][name])
    assert params["pos_embed"].shape == (1, 1 + 16, 16)
    np.testing.assert_array_equal(params["pos_embed"][0, 0], 0)
    assert params["head"]["kernel"].shape == (16, 10)
    assert "newly initialised" in capsys.readouterr().out


def test_mistakes_give_one_line_before_the_first_step(tmp_path, load_config, capsys):
    wide = tmp_path / "wide.safetensors"
    write(wide, "vit_ti16", num_classes=10, **{**VIT, "width": 32})
    alien = tmp_path / "alien.safetensors"
    interop.disk.write_safetensors(alien, {"a": np.zeros(3)}, {})
    for path, said in (
        (tmp_path / "none.safetensors", "none.safetensors"),
        (alien, "was not written by cv_jax"),
        (wide, "these weights do not fit the model"),
    ):
        config = load_config("vit_ti16", {**RUN, "init_from": path})
        with pytest.raises(InputError, match=f"config.init_from: .*{said}") as caught:
            experiment.build(config).pretrained()
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_restart_needs_the_file_no_more(tmp_path, data_dir, capsys):
    path, workdir = tmp_path / "weights.safetensors", tmp_path / "run"
    write(path, "vit_ti16", num_classes=10, **VIT)
    root = launch.__file__.removesuffix("launch.py")
    flags = ["--config", f"{root}configs/vit_ti16.py", "--workdir", str(workdir)]
    overrides = {**RUN, "init_from": path, "data.dir": data_dir}
    flags += [f"--config.{name}={value}" for name, value in overrides.items()]
    path.rename(tmp_path / "away")
    assert launch.run(flags) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not workdir.exists()
    (tmp_path / "away").rename(path)
    assert launch.run(flags) == 0
    (start,) = json.loads((workdir / "run.json").read_text())
    assert start["init_from"] == pretrained.digest(saved.read(path).variables)
    path.unlink()
    assert launch.run(flags) == 0
    assert "finished already" in capsys.readouterr().out


def test_a_digest_covers_names_shapes_dtypes_and_values():
    tree = {"params": {"a": np.arange(6.0), "b": np.zeros((2, 3))}}
    others = (
        {"params": {"a": np.arange(6.0), "c": np.zeros((2, 3))}},
        {"params": {"a": np.arange(6.0), "b": np.zeros((3, 2))}},
        {"params": {"a": np.arange(6.0), "b": np.zeros((2, 3), np.float32)}},
        {"params": {"a": np.arange(6.0) + 1, "b": np.zeros((2, 3))}},
    )
    assert pretrained.digest(tree) == pretrained.digest(jax.tree.map(np.copy, tree))
    assert len({pretrained.digest(other) for other in (tree, *others)}) == 5


# ---- Checkpoint of another run


@pytest.fixture(scope="module")
def small_runs(tmp_path_factory, data_dir):
    """`small_runs(config, overrides)`: directory of a run of two steps, trained once."""
    made = {}

    def run(name, **overrides):
        key = (name, *overrides.items())
        made[key] = made.get(key) or train(name, overrides)
        return made[key]

    def train(name, overrides):
        workdir = tmp_path_factory.mktemp("runs") / name
        root = launch.__file__.removesuffix("launch.py")
        flags = ["--config", f"{root}configs/{name}.py", "--workdir", str(workdir)]
        overrides = {**FEW, **overrides, "data.dir": data_dir}
        flags += [f"--config.{name}={value}" for name, value in overrides.items()]
        assert launch.run(flags) == 0
        return workdir, flags

    return run


FEW = {name: RUN[name] for name in ("total_steps", "batch_size", "schedule.warmup_epochs")}
SMALL_RUNS = {  # 16x24 images; batch statistics and averaged weights; a flat model
    "vit_ti16": {**RUN, "image_size": "16,24"},
    "resnet": {"ema.decay": 0.5, "checkpoint.every_steps": 1},
    "linear": {"mesh.devices": 2},
}


@pytest.mark.parametrize("name", slow_except(SMALL_RUNS, "vit_ti16", "linear", long=True))
def test_a_run_is_read_as_it_was_evaluated(name, small_runs, load_config):
    workdir, _ = small_runs(name, **SMALL_RUNS[name])
    found = pretrained.read_run(workdir)
    parts = experiment.build(load_config(name, {**FEW, **SMALL_RUNS[name]}))
    checkpoints = Checkpoints(workdir / "checkpoints")
    state, step = checkpoints.restore(parts.abstract_state)
    assert found.step == step == 2
    assert found.config["model.name"] == parts.config.model.name
    jax.tree.map(np.testing.assert_array_equal, found.weights.variables, dict(state.eval_variables))
    # The description suffices to build and run the model.
    model = models.create(
        found.weights.model,
        **found.weights.fields,
        **({"image_size": found.weights.image_size} if name == "vit_ti16" else {}),
    )
    image = np.zeros((1, *found.weights.image_size, found.weights.channels), np.float32)
    logits, _ = model.apply(found.weights.variables, image, train=False)
    assert logits.shape == (1, 10)
    data = parts.config.data
    assert found.weights.preprocessing == {"mean": [*data.mean], "std": [*data.std]}


def test_a_damaged_checkpoint_of_a_run_is_skipped(small_runs):
    workdir, _ = small_runs("linear", **{"checkpoint.every_steps": 1})
    newest = workdir / "checkpoints" / "2"
    (newest / "meta.json").write_text("{}")
    assert pretrained.read_run(workdir).step == 1
    (workdir / "checkpoints" / "1" / "meta.json").write_text("{}")
    with pytest.raises(InputError, match="no checkpoint in .* is sound"):
        pretrained.read_run(workdir)
    with pytest.raises(InputError, match="is not a run directory"):
        pretrained.read_run(workdir / "checkpoints")


# ---- Fine-tuning: from another run, and from a folder in the Hub's layout


def test_a_run_is_the_start_of_another_at_other_sizes(small_runs, load_config, capsys):
    """Images and patches have another size and are not square; the head is kept."""
    workdir, _ = small_runs("vit_ti16", **SMALL_RUNS["vit_ti16"])
    old = pretrained.read_run(workdir).weights.variables["params"]
    overrides = {**RUN, "image_size": "24,32", "model.patch_size": 4, "init_from": workdir}
    params = experiment.build(load_config("vit_ti16", overrides)).pretrained()["params"]
    jax.tree.map(np.testing.assert_array_equal, params["blocks_0"], old["blocks_0"])
    jax.tree.map(np.testing.assert_array_equal, params["head"], old["head"])
    expected = resize_positions(old["pos_embed"], (2, 3), (6, 8))
    np.testing.assert_array_equal(params["pos_embed"], expected)
    expected = resize_patch_kernel(old["patch_embed"]["kernel"], (4, 4))
    np.testing.assert_array_equal(params["patch_embed"]["kernel"], expected)
    said = capsys.readouterr().out
    assert "patches resized from 8x8 to 4x4 pixels" in said
    assert "positions resized from 2x3 to 6x8 patches" in said


@pytest.mark.slow
def test_fine_tuning_from_a_run_keeps_frozen_parameters(small_runs, data_dir, tmp_path):
    """Frozen parameters equal the fitted ones bit for bit after training at other sizes."""
    workdir, _ = small_runs("vit_ti16", **SMALL_RUNS["vit_ti16"])
    old = pretrained.read_run(workdir).weights.variables["params"]
    tuned = tmp_path / "tuned"
    root = launch.__file__.removesuffix("launch.py")
    flags = ["--config", f"{root}configs/vit_ti16.py", "--workdir", str(tuned)]
    overrides = {**RUN, "image_size": 24, "model.patch_size": 4, "init_from": workdir}
    overrides |= {"optim.rules": "(patch_embed/.*|pos_embed): freeze", "data.dir": data_dir}
    assert (
        launch.run(flags + [f"--config.{name}={value}" for name, value in overrides.items()]) == 0
    )
    new = pretrained.read_run(tuned).weights.variables["params"]
    expected = resize_patch_kernel(old["patch_embed"]["kernel"], (4, 4))
    np.testing.assert_array_equal(new["patch_embed"]["kernel"], expected)
    np.testing.assert_array_equal(new["patch_embed"]["bias"], old["patch_embed"]["bias"])
    expected = resize_positions(old["pos_embed"], (2, 3), (6, 6))
    np.testing.assert_array_equal(new["pos_embed"], expected)
    block = [tree["blocks_0"]["mlp"]["fc1"]["kernel"] for tree in (old, new)]
    assert (block[0] != block[1]).any()
    np.testing.assert_allclose(*block, atol=0.02)


@pytest.mark.slow
def test_a_folder_in_the_layout_of_the_hub(tmp_path, load_config, capsys):
    ours, folder = tmp_path / "ours.safetensors", tmp_path / "hub"
    variables = write(ours, "resnet18", 32, 3, num_classes=10)
    convert = ["convert", str(ours), str(folder), "--to", "timm"]
    assert __main__.main(convert) == 0
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    overrides = {"init_from": folder, "mesh.devices": 1, "image_size": 32, "batch_size": 8}
    overrides |= {"total_steps": 1, "schedule.warmup_epochs": "none"}
    parts = experiment.build(load_config("resnet", overrides, "digits,model=resnet18"))
    weights = parts.pretrained()
    state, metrics = parts.train_step()(parts.init()(weights), next(parts.train_batches(0)))
    assert (state.step, bool(np.isfinite(metrics["loss"]))) == (1, True)
    params = weights["params"]
    kernel = variables["params"]["layer3_1"]["conv2"]["kernel"]
    np.testing.assert_array_equal(params["layer3_1"]["conv2"]["kernel"], kernel)
    assert "adapted from 3 to 1 input channels" in capsys.readouterr().out
    # Without config.json, the model is unknown.
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"init_from: .* does not name its model; convert it"):
        parts.pretrained()


@pytest.mark.parametrize("name", ["resnet", "lenet5", "linear"])
def test_a_run_becomes_a_file(name, small_runs, tmp_path):
    workdir, _ = small_runs(name, **SMALL_RUNS.get(name, {}))
    ours = tmp_path / "run.safetensors"
    assert __main__.main(["convert", str(workdir), str(ours)]) == 0
    found, run = saved.read(ours), pretrained.read_run(workdir).weights
    jax.tree.map(np.testing.assert_array_equal, found.variables, run.variables)
    assert found._replace(variables=0) == run._replace(variables=0)


def test_a_run_has_no_counterpart_everywhere(small_runs, tmp_path, capsys):
    workdir, _ = small_runs("resnet", **SMALL_RUNS["resnet"])
    theirs = tmp_path / "run.pth"
    assert __main__.main(["convert", str(workdir), str(theirs), "--to", "mae"]) == 2
    assert "mae has no counterpart of model 'resnet8_cifar'" in capsys.readouterr().err
