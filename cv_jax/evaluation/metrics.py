"""Metrics from the answers to every example of a split, in NumPy.

Answers are arrays [N] in the order of the split, as `step.make_eval_step` gives them for each row.
Counts are integers and sums are float64 in that order, so that equal answers give equal metrics
whatever the batches and devices were. The answers themselves are float32: how a batch is laid out
may change their last bits.
"""

from typing import Any

import numpy as np

Answers = dict[str, np.ndarray]

BINS = 15  # of the calibration error; Guo et al., 2017, section 2


def quality(metrics: dict[str, float]) -> float:
    """What is larger for the better of two evaluations: the accuracy, else the negated loss."""
    return metrics["accuracy"] if "accuracy" in metrics else -metrics["loss"]


def summary(answers: Answers, num_classes: int) -> dict[str, float]:
    """The metrics of one line.

    Returns:
      `loss` (mean) and `count`; of a task with classes also `accuracy`, `correct`, with more than
      five classes `top5_accuracy`, `class_accuracy` (mean over the classes that occur), and of the
      probabilities `nll`, `brier` (means) and `ece`, the expected calibration error over `BINS`
      bins of equal width.
    """
    count = len(answers["position"])
    metrics: dict[str, float] = {"loss": _mean(answers["loss"])}
    if "rank" not in answers:
        return {**metrics, "count": count}
    metrics["accuracy"] = float(np.mean(answers["rank"] < 1))
    metrics["correct"] = int(np.sum(answers["rank"] < 1))
    metrics["count"] = count
    if num_classes > 5:
        metrics["top5_accuracy"] = float(np.mean(answers["rank"] < 5))
    classes = [row["accuracy"] for row in per_class(answers, num_classes) if row["count"]]
    metrics["class_accuracy"] = _mean(np.array(classes))
    metrics["nll"], metrics["brier"] = _mean(answers["nll"]), _mean(answers["brier"])
    metrics["ece"] = calibration_error(reliability(answers))
    return metrics


def details(answers: Answers, num_classes: int) -> dict[str, Any]:
    """What is too long for a line: accuracy by class, confusion matrix, reliability bins; empty for
    a task without classes. JSON-able."""
    if "rank" not in answers:
        return {}
    return {
        "per_class": per_class(answers, num_classes),
        "confusion_matrix": confusion_matrix(answers, num_classes).tolist(),
        "reliability": reliability(answers),
    }


def per_class(answers: Answers, num_classes: int) -> list[dict[str, Any]]:
    """For each class: how many examples, how many of them right, and their share, which is none
    for a class that does not occur."""
    count = np.bincount(answers["label"], minlength=num_classes)
    correct = np.bincount(answers["label"][answers["rank"] < 1], minlength=num_classes)
    return [
        {"class": k, "count": int(n), "correct": int(c), "accuracy": int(c) / int(n) if n else None}
        for k, (n, c) in enumerate(zip(count, correct, strict=True))
    ]


def confusion_matrix(answers: Answers, num_classes: int) -> np.ndarray:
    """int [K, K]: examples by their class (row) and the predicted one (column).

    K is larger than `num_classes` if something else was predicted, such as another token.
    """
    size = max(num_classes, int(answers["prediction"].max()) + 1)
    cells = answers["label"].astype(np.int64) * size + answers["prediction"]
    return np.bincount(cells, minlength=size * size).reshape(size, size)


def reliability(answers: Answers, bins: int = BINS) -> list[dict[str, Any]]:
    """For each of the bins (0, 1/bins], … of the confidence: how many examples fell into it, and
    their accuracy and mean confidence, none where there are none."""
    confidence = answers["confidence"].astype(np.float64)
    edges = np.linspace(0, 1, bins + 1)
    place = np.searchsorted(edges[1:-1], confidence)
    rows = []
    for i in range(bins):
        inside = place == i
        row = {"above": float(edges[i]), "up_to": float(edges[i + 1]), "count": int(inside.sum())}
        row["accuracy"] = _mean(answers["rank"][inside] < 1) if inside.any() else None
        row["confidence"] = _mean(confidence[inside]) if inside.any() else None
        rows.append(row)
    return rows


def calibration_error(rows: list[dict[str, Any]]) -> float:
    """Expected calibration error: the mean distance between accuracy and confidence of the bins,
    each weighted by its examples (Guo et al., On calibration of modern neural networks, 2017)."""
    filled = [row for row in rows if row["count"]]
    gaps = [abs(row["accuracy"] - row["confidence"]) * row["count"] for row in filled]
    return sum(gaps) / sum(row["count"] for row in filled)


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values, dtype=np.float64))
