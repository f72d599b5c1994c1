"""Distillation: the losses against SciPy, and training with a teacher."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import launch
from cv_jax import config as configs
from cv_jax import models
from cv_jax.augment.batch import augment_batch
from cv_jax.errors import InputError
from cv_jax.interop import pretrained, saved
from cv_jax.tasks.classification import classification
from cv_jax.training import experiment
from cv_jax.training.teacher import read_teacher

RNG = np.random.default_rng(0)
STUDENT, OTHER, TEACHER = (RNG.normal(size=(6, 4)) * 3 for _ in range(3))
LABELS = np.array([0, 3, 1, 1, 2, 0])


def settings(model="mlp", **values):
    c = configs.default(model=model)
    for name, value in values.items():
        c.distill[name] = value
    return c


def cross_entropy(logits, classes):
    return -scipy.special.log_softmax(logits, axis=1)[np.arange(len(logits)), classes]


def divergence(student, teacher, temperature):
    p = scipy.special.softmax(teacher / temperature, axis=1)
    q = scipy.special.log_softmax(student / temperature, axis=1)
    return temperature**2 * (p * (np.log(p) - q)).sum(axis=1)


def score(config, logits, **batch):
    batch = {"label": jnp.asarray(LABELS), **batch}
    return classification(config, None).score((jax.tree.map(jnp.asarray, logits), {}), batch)


def test_one_head_learns_from_labels_and_teacher():
    taught = {"teacher": jnp.asarray(TEACHER)}
    got, _ = score(settings(alpha=0.9, temperature=4.0), STUDENT, **taught)
    expected = 0.1 * cross_entropy(STUDENT, LABELS) + 0.9 * divergence(STUDENT, TEACHER, 4.0)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    got, _ = score(settings(kind="hard", alpha=0.3), STUDENT, **taught)
    of_teacher = cross_entropy(STUDENT, TEACHER.argmax(axis=1))
    np.testing.assert_allclose(got, 0.7 * cross_entropy(STUDENT, LABELS) + 0.3 * of_teacher, 1e-5)
    # Without teacher logits in the batch, as in evaluation, only the labels count.
    got, _ = score(settings(), STUDENT)
    np.testing.assert_allclose(got, cross_entropy(STUDENT, LABELS), rtol=1e-5)


def test_the_distillation_token_learns_from_the_teacher_and_the_class_token_from_labels():
    taught = {"teacher": jnp.asarray(TEACHER)}
    got, right = score(settings(kind="hard", alpha=0.5), (STUDENT, OTHER), **taught)
    of_teacher = cross_entropy(OTHER, TEACHER.argmax(axis=1))
    np.testing.assert_allclose(got, (cross_entropy(STUDENT, LABELS) + of_teacher) / 2, rtol=1e-5)
    np.testing.assert_array_equal(right, (STUDENT + OTHER).argmax(axis=1) == LABELS)
    got, _ = score(settings(alpha=0.2, temperature=2.0), (STUDENT, OTHER), **taught)
    expected = 0.8 * cross_entropy(STUDENT, LABELS) + 0.2 * divergence(OTHER, TEACHER, 2.0)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


# ---- Training with a teacher

FEW = {"total_steps": 2, "batch_size": 16, "schedule.warmup_epochs": "none", "augment": "flip"}


@pytest.fixture(scope="module")
def teacher_run(tmp_path_factory, data_dir):
    """Run directory of a ResNet with batch norm, parameter averages and its own normalisation."""
    workdir = tmp_path_factory.mktemp("teacher") / "run"
    overrides = {**FEW, "data.dir": data_dir, "data.mean": 0.25, "data.std": 2.0, "ema.decay": 0.5}
    overrides |= {"model.stage_sizes": "1", "model.widths": "8", "model.stem_width": 8}
    flags = ["--config", f"{launch.__file__.removesuffix('launch.py')}configs/resnet.py"]
    flags += [f"--config.{name}={value}" for name, value in overrides.items()]
    assert launch.run([*flags, "--workdir", str(workdir)]) == 0
    return workdir


@pytest.mark.slow
def test_the_teacher_gets_the_students_images_in_its_own_normalisation(load_config, teacher_run):
    overrides = {**FEW, "augment": "mixup(0.3)", "distill.teacher": teacher_run, "mesh.devices": 1}
    overrides |= {"optim.accumulate_steps": 2, "model.dropout_rate": 0.0, "model.widths": 32}
    parts = experiment.build(load_config("mlp", overrides))
    batch = next(parts.train_batches(0))
    state, metrics = parts.train_step()(parts.init()(), batch)

    # The expected loss of the whole batch.
    config = parts.config
    augmented = augment_batch(config, parts.augmentation, 10, jnp.int32(0), batch)
    pixels = np.asarray(augmented["image"]) * config.data.std[0] + config.data.mean[0]
    run = pretrained.read_run(teacher_run)
    teacher = models.create(run.weights.model, **run.weights.fields)
    teacher_scores, _ = jax.jit(teacher.apply)(run.weights.variables, (pixels - 0.25) / 2.0)
    params = parts.init()().params
    scores, _ = parts.model.apply({"params": params}, augmented["image"], train=False)
    labels = np.asarray(augmented["label"])
    of_labels = -(labels * scipy.special.log_softmax(scores, axis=1)).sum(axis=1)
    of_teacher = divergence(np.float64(scores), np.float64(teacher_scores), 3.0)
    expected = 0.5 * of_labels + 0.5 * of_teacher
    np.testing.assert_allclose(metrics["loss"], expected.mean(), rtol=1e-4)
    # The fingerprint identifies the teacher; the train state does not contain it.
    assert set(parts.fingerprint["teacher"]) == {"model", "sha256", "mean", "std"}
    student = sum(x.size for x in jax.tree.leaves(params))
    assert sum(x.size for x in jax.tree.leaves(state)) < 3 * student + 100
    assert "dot" in parts.train_step().lower(state, batch).as_text()


def test_a_restart_with_another_teacher_is_refused(
    tmp_path, data_dir, load_config, teacher_run, capsys
):
    run = pretrained.read_run(teacher_run)
    file = tmp_path / "teacher.safetensors"
    saved.write(file, run.weights)
    flags = ["--config", f"{launch.__file__.removesuffix('launch.py')}configs/linear.py"]
    overrides = {**FEW, "data.dir": data_dir, "distill.teacher": file}
    flags += [f"--config.{name}={value}" for name, value in overrides.items()]
    flags += ["--workdir", str(tmp_path / "student")]
    assert launch.run(flags) == 0
    start = json.loads((tmp_path / "student" / "run.json").read_text())[0]
    config = load_config("linear", {**FEW, "distill.teacher": teacher_run})
    # A run and the weight file exported from it are the same teacher.
    assert start["data"]["teacher"] == read_teacher(config, 10, (32, 32, 1)).fingerprint

    other = jax.tree.map(lambda x: x * np.float32(1.5), run.weights.variables)
    saved.write(file, run.weights._replace(variables=other))
    capsys.readouterr()
    assert launch.run(flags) == 2
    message = capsys.readouterr().err
    assert "teacher.sha256" in message
    assert len(message.splitlines()) == 1


def test_a_teacher_must_be_a_classifier_of_these_classes(tmp_path, load_config, teacher_run):
    def refused(message, name="linear", **overrides):
        with pytest.raises(InputError, match=f"config.distill.teacher: .*{message}") as caught:
            experiment.build(load_config(name, {**FEW, "mesh.devices": 1, **overrides}))
        assert "\n" not in str(caught.value)

    refused("nowhere", **{"distill.teacher": tmp_path / "nowhere.safetensors"})
    refused("mae_vit_b16 is not a classifier", "mae", **{"distill.teacher": teacher_run})
    weights = pretrained.read_run(teacher_run).weights
    other = {**weights.variables["params"], "head": {"kernel": np.zeros((8, 7), np.float32)}}
    other["head"]["bias"] = np.zeros(7, np.float32)
    variables = {**weights.variables, "params": other}
    fields = {**weights.fields, "num_classes": 7}
    saved.write(
        tmp_path / "seven.safetensors", weights._replace(variables=variables, fields=fields)
    )
    refused(
        "the teacher has 7 classes, the dataset has 10",
        **{"distill.teacher": tmp_path / "seven.safetensors"},
    )
