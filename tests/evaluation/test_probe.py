"""Features and training examples of probes."""

import pytest

from cv_jax.evaluation.kinds import make_evaluator


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("knn(train_examples=2000)", "knn: train_examples: 2000 is not in 1…1438"),
        ("knn(feature='fc9')", "feature: 'fc9' is not one of fc1, fc2, pre_logits; did you mean"),
        ("knn(train_split='test')", "train_split: 'test' is the split that is scored"),
        ("knn(preprocess='flips')", "knn: preprocess: only classifiers average views"),
    ],
)
def test_a_mistake_is_reported_in_one_line(mistake_of, extra, message):
    assert message in mistake_of(extra)


def test_features_of_a_masked_autoencoder_are_those_of_all_patches(build, mistake_of):
    parts = build("knn(k=1, train_examples=50)", "mae")
    own, knn = parts.evaluations
    assert [own.kind, knn.kind] == ["reconstruction", "knn"]
    variables = parts.init()().eval_variables
    assert make_evaluator(parts, knn)(variables).metrics["count"] == 359
    assert "feature: 'mask' is not one of embed, blocks_0, norm, pre" in mistake_of(
        "knn(feature='mask')", "mae"
    )
