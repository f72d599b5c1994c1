"""Metrics of sequences of tokens, in NumPy.

Tokens are int [N, T]: the sequence, EOS, PAD. `truth` is the true sequence; `written` has the
sequences of each search, "greedy" and possibly "beam".
"""

from typing import Any

import numpy as np

from cv_jax.models.decoder import EOS, PAD

Written = dict[str, np.ndarray]


def summary(truth: np.ndarray, written: Written) -> dict[str, float]:
    """Return metrics that fit into a line.

    Returns:
      Of greedy search `accuracy` (share of sequences that are right in every token), `correct` and
      `count`; `token_accuracy`, the share of true tokens, EOS among them, at whose place the same
      token is written; and `edit_distance`, the mean of `edit_distances`. Of beam search the same
      under names with the prefix `beam_`, without the count.
    """
    metrics: dict[str, float] = {}
    for search, tokens in written.items():
        prefix = "" if search == "greedy" else f"{search}_"
        right, counted = (tokens == truth).all(axis=1), truth != PAD
        metrics[f"{prefix}accuracy"] = float(right.mean())
        metrics[f"{prefix}correct"] = int(right.sum())
        if not prefix:
            metrics["count"] = len(truth)
        metrics[f"{prefix}token_accuracy"] = float((tokens == truth)[counted].mean())
        metrics[f"{prefix}edit_distance"] = float(edit_distances(tokens, truth).mean())
    return metrics


def by_length(truth: np.ndarray, written: Written) -> list[dict[str, Any]]:
    """Return `summary` of the sequences of each length, in ascending order."""
    length = lengths(truth)
    return [
        {"length": int(n)}
        | summary(truth[length == n], {k: x[length == n] for k, x in written.items()})
        for n in np.unique(length)
    ]


def lengths(tokens: np.ndarray) -> np.ndarray:
    """Return the number of tokens before EOS, int [N]; all tokens if there is no EOS."""
    ends = tokens == EOS
    return np.where(ends.any(axis=1), ends.argmax(axis=1), tokens.shape[1])


def edit_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the Levenshtein distance of each pair of sequences before EOS, int [N].

    The smallest number of inserted, deleted and replaced tokens that makes them equal (Levenshtein,
    1966; algorithm of Wagner and Fischer, 1974).

    Args:
      a: tokens [N, T].
      b: tokens [N, U].
    """
    count, rows, columns = len(a), a.shape[1] + 1, b.shape[1] + 1
    cost = np.zeros((rows, columns, count), int)  # of the first i tokens of a and j tokens of b
    cost[:, 0] = np.arange(rows)[:, None]
    cost[0] = np.arange(columns)[:, None]
    for i in range(1, rows):
        for j in range(1, columns):
            replaced = cost[i - 1, j - 1] + (a[:, i - 1] != b[:, j - 1])
            shorter = np.minimum(cost[i - 1, j], cost[i, j - 1]) + 1
            cost[i, j] = np.minimum(replaced, shorter)
    return cost[lengths(a), lengths(b), np.arange(count)]
