"""Metrics from the predictions for all examples of a split, in NumPy.

Predictions are arrays [N] in the order of the split; see `step.make_eval_step`. Counts are integers
and sums are float64 in this order: equal predictions give equal metrics for any batch size and any
number of devices. The predictions themselves are float32; their last bits may depend on the layout
of a batch.
"""

import math
from typing import Any

import numpy as np

Predictions = dict[str, np.ndarray]

BINS = 15  # of the calibration error; Guo et al., 2017, section 2


def quality(metrics: dict[str, float]) -> float:
    """A number that is larger for better metrics: the accuracy, else the negated loss.

    Metrics that are not a number are worse than any other.
    """
    found = metrics["accuracy"] if "accuracy" in metrics else -metrics["loss"]
    return -math.inf if math.isnan(found) else found


def implausible(metrics: dict[str, Any]) -> str | None:
    """Return the first metric that cannot be right, in words; `None` without one.

    Every number is finite, shares are between 0 and 1, and no count is negative or larger than the
    number of examples.
    """
    for name, value in metrics.items():
        if name in ("split", "digest", "model", "dataset") or isinstance(value, (list, dict)):
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return f"{name} is {value!r}, not a number"
        share = name.endswith("accuracy") or name == "ece"
        if not math.isfinite(value) or (share and not 0 <= value <= 1):
            return f"{name} is {value!r}" + (", not between 0 and 1" if share else "")
        if name in ("step", "count", "correct") and value < 0:
            return f"{name} is {value!r}"
    if metrics.get("correct", 0) > metrics.get("count", math.inf):
        return f"correct is {metrics['correct']!r}, of {metrics['count']!r}"
    return None


def summary(predictions: Predictions, num_classes: int) -> dict[str, float]:
    """Metrics of predicted classes that fit into a line.

    Returns:
      `loss` (mean), `accuracy`, `correct`, `count`, with more than five classes `top5_accuracy`,
      `class_accuracy` (mean over the classes that occur), and from the probabilities `nll`, `brier`
      (means) and `ece`, the expected calibration error over `BINS` bins of equal width.
    """
    metrics: dict[str, float] = {"loss": mean(predictions["loss"])}
    metrics["accuracy"] = float(np.mean(predictions["rank"] < 1))
    metrics["correct"] = int(np.sum(predictions["rank"] < 1))
    metrics["count"] = len(predictions["position"])
    if num_classes > 5:
        metrics["top5_accuracy"] = float(np.mean(predictions["rank"] < 5))
    classes = [row["accuracy"] for row in per_class(predictions, num_classes) if row["count"]]
    metrics["class_accuracy"] = mean(np.array(classes))
    metrics["nll"], metrics["brier"] = mean(predictions["nll"]), mean(predictions["brier"])
    metrics["ece"] = calibration_error(reliability(predictions))
    return metrics


def details(predictions: Predictions, num_classes: int) -> dict[str, Any]:
    """Accuracy of each class, confusion matrix, and reliability bins; JSON-serialisable."""
    return {
        "per_class": per_class(predictions, num_classes),
        "confusion_matrix": confusion_matrix(predictions, num_classes).tolist(),
        "reliability": reliability(predictions),
    }


def per_class(predictions: Predictions, num_classes: int) -> list[dict[str, Any]]:
    """`count`, `correct` and `accuracy` of each class; the accuracy of a class without examples is
    `None`."""
    count = np.bincount(predictions["label"], minlength=num_classes)
    correct = np.bincount(predictions["label"][predictions["rank"] < 1], minlength=num_classes)
    return [
        {"class": k, "count": int(n), "correct": int(c), "accuracy": int(c) / int(n) if n else None}
        for k, (n, c) in enumerate(zip(count, correct, strict=True))
    ]


def confusion_matrix(predictions: Predictions, num_classes: int) -> np.ndarray:
    """Numbers of examples, int [K, K], by label (row) and predicted class (column).

    K is larger than `num_classes` if the model predicted a number that is no class, such as a
    special token.
    """
    size = max(num_classes, int(predictions["prediction"].max()) + 1)
    cells = predictions["label"].astype(np.int64) * size + predictions["prediction"]
    return np.bincount(cells, minlength=size * size).reshape(size, size)


def reliability(predictions: Predictions, bins: int = BINS) -> list[dict[str, Any]]:
    """`count`, `accuracy` and mean `confidence` of the examples in each bin (0, 1/bins], … of the
    confidence; accuracy and confidence of an empty bin are `None`."""
    confidence = predictions["confidence"].astype(np.float64)
    edges = np.linspace(0, 1, bins + 1)
    bin_index = np.searchsorted(edges[1:-1], confidence)
    rows = []
    for i in range(bins):
        inside = bin_index == i
        row = {"above": float(edges[i]), "up_to": float(edges[i + 1]), "count": int(inside.sum())}
        row["accuracy"] = mean(predictions["rank"][inside] < 1) if inside.any() else None
        row["confidence"] = mean(confidence[inside]) if inside.any() else None
        rows.append(row)
    return rows


def calibration_error(rows: list[dict[str, Any]]) -> float:
    """Expected calibration error: mean distance between accuracy and confidence of the bins,
    weighted by their counts (Guo et al., On calibration of modern neural networks, 2017)."""
    filled = [row for row in rows if row["count"]]
    gaps = [abs(row["accuracy"] - row["confidence"]) * row["count"] for row in filled]
    return sum(gaps) / sum(row["count"] for row in filled)


def mean(values: np.ndarray) -> float:
    """Mean in float64."""
    return float(np.mean(values, dtype=np.float64))
