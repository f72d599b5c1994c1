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
      `loss` (mean), `accuracy`, and the integer counts `correct` and `count` behind it.
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
    """Means from sums; see `losses.metric_sums`."""
    count = int(sums["count"])
    return {
        "loss": float(sums["loss"]) / count,
        "accuracy": int(sums["correct"]) / count,
        "correct": int(sums["correct"]),
        "count": count,
    }


def _add(totals, sums):
    for key, value in jax.device_get(sums).items():
        totals[key] = totals.get(key, 0) + value.item()  # Python numbers: exact, and 64 bits
