"""Examples that a classifier gets most wrong."""

from typing import NamedTuple

import numpy as np


class Example(NamedTuple):
    """One example of a split.

    Attributes:
      index: position in the split.
      label: true class.
      prediction: predicted class.
      confidence: probability of the prediction.
      probability: probability of the true class.
    """

    index: int
    label: int
    prediction: int
    confidence: float
    probability: float


def confident_mistakes(
    probabilities: np.ndarray, labels: np.ndarray, count: int = 25
) -> list[Example]:
    """Return the wrong predictions with the largest probability, the largest first.

    Args:
      probabilities: float [N, K].
      labels: int [N].
      count: largest number of examples.
    """
    found = _examples(probabilities, labels)
    wrong = [example for example in found if example.prediction != example.label]
    return sorted(wrong, key=lambda x: (-x.confidence, x.index))[:count]


def hardest(probabilities: np.ndarray, labels: np.ndarray, count: int = 25) -> list[Example]:
    """Return the examples with the smallest probability of their class, the smallest first.

    Arguments as in `confident_mistakes`.
    """
    found = _examples(probabilities, labels)
    return sorted(found, key=lambda x: (x.probability, x.index))[:count]


def _examples(probabilities: np.ndarray, labels: np.ndarray) -> list[Example]:
    predictions, index = probabilities.argmax(axis=1), np.arange(len(labels))
    columns = (
        index,
        labels,
        predictions,
        probabilities[index, predictions],
        probabilities[index, labels],
    )
    return [Example(*row) for row in zip(*(x.tolist() for x in columns), strict=True)]
