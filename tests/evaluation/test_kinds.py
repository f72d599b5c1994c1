"""A kind of evaluation that is registered from outside the package."""

import jax.numpy as jnp
import numpy as np
import pytest

from cv_jax.errors import InputError
from cv_jax.evaluation import kinds, run
from cv_jax.evaluation.kind import Kind, Option, Scores
from cv_jax.evaluation.step import make_forward


def make_margin_step(config, model, scale):
    """Difference of the two largest scores, times `scale`."""
    forward = make_forward(config, model)

    def step(variables, batch):
        scores = jnp.sort(forward(variables, batch)[0][0], axis=-1)
        return {"position": batch["position"], "margin": scale * (scores[:, -1] - scores[:, -2])}

    return step


def check(request):
    if request.options["scale"] <= 0:
        raise InputError(f"{request.field('scale')}: {request.options['scale']} is not positive")
    return request.options, None


def make(experiment, evaluation):
    step = experiment.evaluation_step(make_margin_step, evaluation.options["scale"])

    def score(variables):
        margin = run.predict(experiment, step, variables, evaluation.images)["margin"]
        return Scores(
            {"margin": float(margin.mean()), "count": len(margin)}, {"least": margin.min()}
        )

    return score


@pytest.fixture
def margin(monkeypatch):
    suits = lambda task: task.class_scores is not None  # noqa: E731
    kind = Kind({"scale": Option(float, 1.0)}, suits, check, make)
    monkeypatch.setitem(kinds.KINDS, "margin", kind)


@pytest.mark.usefixtures("margin")
def test_a_new_kind_needs_its_entry_only(build):
    extra = "margin(scale=2, split='train[:60]', every_steps=4)|margin(name='plain')"
    parts = build(extra, **{"mesh.devices": 4, "eval.batch_size": 48})
    test, doubled, plain = parts.evaluations
    assert [e.kind for e in parts.evaluations] == ["classification", "margin", "margin"]
    assert (doubled.every, doubled.options["scale"], plain.options["scale"]) == (4, 2.0, 1.0)
    variables = parts.init()().eval_variables
    for evaluation, count, scale in ((doubled, 60, 2), (plain, 359, 1)):
        scores = kinds.make_evaluator(parts, evaluation)(variables)
        pixels = (evaluation.images.cached[0].astype(np.float32) / 255 - 0.305) / 0.376
        logits = np.sort(np.asarray(parts.model.apply(variables, pixels)[0]), axis=1)
        assert scores.metrics["count"] == count
        expected = scale * (logits[:, -1] - logits[:, -2]).mean()
        np.testing.assert_allclose(scores.metrics["margin"], expected, rtol=1e-5)
        record = run.record(evaluation, scores)
        assert (record["kind"], record["scale"]) == ("margin", scale)
        assert record["metrics"] == scores.metrics
        assert "least" in record
    assert plain.images is test.images


@pytest.mark.usefixtures("margin")
@pytest.mark.parametrize(
    ("extra", "name", "message"),
    [
        ("margin(scale=-1)", "mlp", "config.eval.extra: margin: scale: -1.0 is not positive"),
        ("margin(scale='a')", "mlp", "config.eval.extra: margin: scale: 'a' is not a number"),
        ("margn", "mlp", "unknown kind 'margn'; did you mean margin?"),
        ("margin", "mae", "margin: the kind margin does not suit mae_vit_b16; allowed: reconstruc"),
    ],
)
def test_mistakes_in_a_new_kind_are_reported(mistake_of, extra, name, message):
    assert message in mistake_of(extra, name)
