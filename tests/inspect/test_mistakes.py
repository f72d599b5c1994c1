"""Tests of the choice of mistakes."""

import numpy as np

from cv_jax.inspect import mistakes

PROBABILITIES = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
LABELS = np.array([0, 0, 1, 0])


def test_confident_mistakes():
    found = mistakes.confident_mistakes(PROBABILITIES, LABELS)
    assert [x.index for x in found] == [1, 3, 2]
    assert found[0] == mistakes.Example(1, 0, 1, 0.8, 0.2)
    assert mistakes.confident_mistakes(PROBABILITIES, LABELS, 1) == found[:1]


def test_hardest():
    found = mistakes.hardest(PROBABILITIES, LABELS)
    assert [x.index for x in found] == [1, 3, 2, 0]
    assert [x.probability for x in found] == [0.2, 0.3, 0.4, 0.9]
