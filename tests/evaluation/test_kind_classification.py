"""The kind "classification": mistakes in its options."""

import pytest


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            "classification(average='votes')",
            "classification: average: 'votes' is not one of probabilities, logits",
        ),
        ("classification(preprocess='multi_scale((32, 36))')", "makes images of 32x32 and 36x36"),
        ("reconstruction", "the kind reconstruction does not suit mlp; allowed: classification, k"),
    ],
)
def test_a_mistake_is_reported_in_one_line(mistake_of, extra, message):
    assert message in mistake_of(extra)
