"""Exact evaluation: every example counts once, on any number of devices."""

from collections.abc import Callable, Iterable
from typing import Any

import jax


def evaluate(
    eval_step: Callable, variables: Any, batches: Iterable[dict[str, jax.Array]]
) -> dict[str, float]:
    """Metrics over a split.

    Args:
      eval_step: `(variables, batch) → metric sums`; see `step.make_eval_step`.
      variables: the model's.
      batches: padded and masked batches on the devices.

    Returns:
      See `metrics_of`.
    """
    totals: dict[str, Any] = {}
    pending = None
    for batch in batches:
        sums = eval_step(variables, batch)
        if pending is not None:  # fetched one batch late, so that the devices never wait
            _add(totals, pending)
        pending = sums
    if pending is not None:
        _add(totals, pending)
    return metrics_of(totals)


def metrics_of(sums: dict[str, Any]) -> dict[str, float]:
    """Means from the sums of `losses.metric_sums`.

    Returns:
      `loss` (mean) and the integer `count` of examples; where answers are right or wrong, also
      `accuracy` and the integer `correct`.
    """
    count = int(sums["count"])
    metrics = {"loss": float(sums["loss"]) / count}
    if "correct" in sums:
        metrics["accuracy"] = int(sums["correct"]) / count
        metrics["correct"] = int(sums["correct"])
    return {**metrics, "count": count}


def quality(metrics: dict[str, float]) -> float:
    """What is larger for the better of two evaluations: the accuracy, else the negated loss."""
    return metrics["accuracy"] if "accuracy" in metrics else -metrics["loss"]


def _add(totals, sums):
    for key, value in jax.device_get(sums).items():
        totals[key] = totals.get(key, 0) + value.item()  # Python numbers: exact, and 64 bits
