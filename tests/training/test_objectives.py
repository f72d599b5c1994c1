"""Objective and training of tasks other than plain classification."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import launch
from cv_jax import config as configs
from cv_jax import models, tasks
from cv_jax.errors import InputError
from cv_jax.evaluation.kinds import make_evaluator
from cv_jax.random_streams import stream_key
from cv_jax.tasks.batch import blank_batch
from cv_jax.training import experiment
from cv_jax.training.objective import make_objective

MAE = {
    "image_size": 16,
    "batch_size": 16,
    "augment": "",
    "total_steps": 2,
    "schedule.warmup_epochs": "none",
    "model.width": 16,
    "model.depth": 1,
    "model.num_heads": 2,
    "model.decoder_width": 16,
    "model.decoder_depth": 1,
}
DISTILLED = dict(image_size=16, patch_size=8, width=16, depth=1, num_heads=2, num_classes=4)
WRITER = dict(image_size=16, patch_size=8, width=16, depth=1, num_heads=2, decoder_depth=1)


def batch_of(images, labels):
    """A batch of NumPy arrays, with the positions that the training step adds."""
    return {"image": images, "label": labels, "position": np.arange(len(labels))}


def pixels(count, side=16, channels=3):
    return np.random.default_rng(0).normal(size=(count, side, side, channels)).astype(np.float32)


# ---- Masked autoencoder


def reconstruction_error(image, prediction, noise, patch, keep):
    """The loss of the official code for one image, patch by patch."""
    columns, errors = image.shape[1] // patch, []
    for index in np.argsort(noise)[keep:]:
        row, column = (index // columns) * patch, (index % columns) * patch
        target = image[row : row + patch, column : column + patch].astype(np.float64).ravel()
        target = (target - target.mean()) / np.sqrt(target.var(ddof=1) + 1e-6)
        errors.append(np.square(prediction[index] - target).mean())
    return np.mean(errors)


def test_mae_loss_is_over_the_masked_patches():
    config = configs.default(model="mae_vit_b16")
    small = dict(image_size=16, patch_size=4, width=16, depth=1, num_heads=2)
    small |= dict(decoder_width=16, decoder_depth=1, decoder_num_heads=2)
    model = models.create("mae_vit_b16", **small)
    images, key = pixels(3), jax.random.key(5)
    noise = np.stack([jax.random.uniform(jax.random.fold_in(key, i), (16,)) for i in range(3)])
    variables = jax.jit(model.init)(jax.random.key(0), images, noise)
    prediction, _ = jax.jit(model.apply)(variables, images, noise)
    expected = [
        reconstruction_error(*rows, patch=4, keep=4)
        for rows in zip(images, np.asarray(prediction), noise, strict=True)
    ]
    loss, (sums, state) = jax.jit(make_objective(config, model))(
        variables["params"], {}, batch_of(images, np.zeros(3, int)), {"mask": key}
    )
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-5)
    np.testing.assert_allclose(sums["loss"], np.sum(expected), rtol=1e-5)
    assert set(sums) == {"loss", "count"}
    assert sums["count"] == 3
    assert not state


def evaluate(parts, variables):
    return make_evaluator(parts, parts.evaluations[0])(variables).metrics


@pytest.mark.slow
def test_masks_do_not_depend_on_the_devices(load_config):
    def run(devices):
        overrides = {"mesh.devices": devices, "eval.batch_size": 360}
        parts = experiment.build(load_config("mae", {**MAE, **overrides}))
        state, train_step = parts.init()(), parts.train_step()
        found = []
        for batch in parts.train_batches(0):
            state, metrics = train_step(state, batch)
            found.append(float(metrics["loss"]))
        return found, evaluate(parts, state.eval_variables)

    one, test_one = run(1)
    eight, test_eight = run(8)
    np.testing.assert_allclose(eight, one, rtol=1e-5)
    np.testing.assert_allclose(test_eight["loss"], test_one["loss"], rtol=1e-4)


def test_masks_of_training_change_and_those_of_evaluation_do_not(load_config):
    parts = experiment.build(load_config("mae", {**MAE, "mesh.devices": 1}))
    variables = parts.init()().eval_variables
    whole = evaluate(parts, variables)
    assert set(whole) == {"loss", "count"}
    assert whole["count"] == 359
    # Masks depend on the position in the split, so another batch size gives the same loss.
    again = experiment.build(load_config("mae", {**MAE, "mesh.devices": 1, "eval.batch_size": 100}))
    found = evaluate(again, variables)
    np.testing.assert_allclose(found["loss"], whole["loss"], rtol=1e-5)

    batch, inputs = blank_batch((16, 16, 1)), parts.task().inputs
    first, second = (inputs(batch, {"mask": stream_key(0, "mask", step)})[1] for step in (0, 1))
    assert not np.array_equal(first, second)
    other = {**batch, "position": batch["position"] + 1}
    assert not np.array_equal(inputs(other, {"mask": stream_key(0, "mask", 0)})[1], first)


@pytest.mark.slow
def test_a_run_without_accuracy_keeps_the_lowest_loss(tmp_path, data_dir, capsys):
    overrides = {**MAE, "eval.every_steps": 1, "checkpoint.keep_best": 1, "data.dir": data_dir}
    flags = ["--config", f"{launch.__file__.removesuffix('launch.py')}configs/mae.py"]
    flags += ["--workdir", str(tmp_path / "run")]
    flags += [f"--config.{name}={value}" for name, value in overrides.items()]
    assert launch.run(flags) == 0
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    tests = [line for line in lines if line["split"] == "test"]
    assert len(tests) == 2
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["test_loss"] == tests[-1]["loss"]
    assert summary["best_test_loss"] == min(line["loss"] for line in tests)
    assert not any("accuracy" in name for name in [*summary, *lines[0], *tests[0]])
    assert f"test loss {summary['test_loss']:.4f} after 2 steps" in capsys.readouterr().out
    assert launch.run([*flags, "--evaluate"]) == 0
    assert f"step 2: test loss {summary['test_loss']:.6f}" in capsys.readouterr().out


# ---- Distilled pair


def test_both_heads_of_a_distilled_net_learn_the_labels():
    config = configs.default(model="deit_ti16_distilled")
    model = models.create("deit_ti16_distilled", **DISTILLED)
    images, labels = pixels(5), np.array([0, 3, 1, 1, 2])
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)["params"]
    (first, second), _ = jax.jit(functools.partial(model.apply, train=True))(
        {"params": params}, images
    )
    expected = [
        -scipy.special.log_softmax(np.asarray(x, np.float64), axis=1)[np.arange(5), labels].mean()
        for x in (first, second)
    ]
    loss, (sums, _) = jax.jit(make_objective(config, model))(
        params, {}, batch_of(images, labels), {}
    )
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-5)
    assert sums["correct"] == ((first + second).argmax(axis=1) == labels).sum()


# ---- Image to sequence


def test_an_image_transformer_writes_the_label_then_the_end():
    config = configs.default(model="image_transformer_ti")
    model = models.create("image_transformer_ti", **WRITER)
    images, labels = pixels(6), np.array([0, 9, 4, 4, 7, 1])
    task, batch = tasks.make_task(config, model), batch_of(images, labels)
    image, target = task.inputs(batch, {})
    np.testing.assert_array_equal(target, np.stack([np.full(6, 1), labels + 3], axis=1))
    assert task.classes == 10

    # Two predictions are correct; one of the wrong predictions is EOS.
    logits = np.random.default_rng(2).normal(size=(6, 2, 13)).astype(np.float32)
    first = np.array([3, 12, 2, 5, 5, 5])
    logits[np.arange(6), 0, first] = 9.0
    loss, right = task.score((jnp.asarray(logits), {}), batch)
    np.testing.assert_array_equal(right, [True, True, False, False, False, False])
    log_p = scipy.special.log_softmax(logits.astype(np.float64), axis=-1)
    expected = -(log_p[np.arange(6), 0, labels + 3] + log_p[:, 1, 2]) / 2
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_the_label_given_to_the_decoder_is_hidden_from_its_prediction():
    config = configs.default(model="image_transformer_ti")
    model = models.create("image_transformer_ti", **WRITER)
    task, images = tasks.make_task(config, model), pixels(2)
    inputs = [task.inputs(batch_of(images, np.full(2, label)), {}) for label in (1, 8)]
    variables = jax.jit(model.init)(jax.random.key(0), *inputs[0])
    apply = jax.jit(model.apply)
    one, eight = (apply(variables, *x)[0] for x in inputs)
    np.testing.assert_array_equal(one[:, 0], eight[:, 0])
    assert not np.allclose(one[:, 1], eight[:, 1])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"augment": "mixup(0.2)"}, "config.augment: labels that are tokens cannot be mixed"),
        ({"loss.name": "sigmoid"}, "config.loss.name=sigmoid: tokens need the loss softmax"),
        ({"model.vocab_size": 12}, "set config.model.vocab_size=13 or more"),
    ],
)
def test_configs_that_do_not_fit_tokens_are_errors(load_config, overrides, message):
    with pytest.raises(InputError, match=message):
        experiment.build(load_config("image_transformer", overrides))


def test_a_transformer_of_tokens_cannot_be_trained_on_images(tmp_path, data_dir, capsys):
    file = tmp_path / "translate.py"
    file.write_text(
        "from cv_jax import config\n\n"
        "def get_config(arg):\n    return config.default(model='transformer_base')\n"
    )
    flags = ["--config", str(file), f"--config.data.dir={data_dir}"]
    assert launch.run([*flags, "--workdir", str(tmp_path / "run")]) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert "config.model.name: transformer_base reads sequences; the examples of dig" in message
