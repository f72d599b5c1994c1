"""The kind "reconstruction" on a masked autoencoder."""

from cv_jax.evaluation.kinds import make_evaluator


def test_metrics_are_loss_and_count(build):
    parts = build("reconstruction(split='train[:9]', name='seen')", "mae")
    own, seen = parts.evaluations
    assert own.kind == seen.kind == "reconstruction"
    found = make_evaluator(parts, seen)(parts.init()().eval_variables)
    assert set(found.metrics) == {"loss", "count"}
    assert found.metrics["count"] == 9
    assert found.details == {}


def test_mistakes_are_reported_in_one_line(mistake_of):
    assert "the kind classification does not suit mae_vit_b16" in mistake_of(
        "classification", "mae"
    )
    message = mistake_of("reconstruction(preprocess='resize(8)')", "mae")
    assert "preprocess makes images of 8x8, config.image_size is 16x16" in message
