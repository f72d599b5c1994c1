"""Exact evaluation: every example counts once, on any number of devices.

Batches are padded. Each prediction carries the index of its example; the host drops padding and
computes metrics in the order of the split.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from cv_jax.data import class_order
from cv_jax.data.pipeline import Images
from cv_jax.errors import RunError, printable
from cv_jax.evaluation.kind import Evaluation, Experiment, Scores


def predict(
    experiment: Experiment,
    step: Callable,
    variables: Any,
    images: Images,
    views: tuple[Callable, ...] = (),
) -> dict[str, np.ndarray]:
    """Return the results of a jitted step for every example of a split; see `gather`."""
    return gather(step, variables, experiment.eval_batches(images, views), len(images.source))


def gather(
    step: Callable, variables: Any, batches: Iterable[dict[str, Any]], count: int
) -> dict[str, np.ndarray]:
    """Return the predictions for every example of a split, in its order.

    Args:
      step: jitted `(variables, batch) → predictions`, arrays [B, …] that every process holds whole;
        one of them is `position`.
      variables: variables of the model.
      batches: padded batches on the devices.
      count: number of examples of the split.

    Raises:
      RunError: the batches do not contain every example once.
    """
    parts, pending = [], None
    for batch in batches:
        predictions = step(variables, batch)
        if pending is not None:  # fetched one batch late, so that the devices never wait
            parts.append(jax.device_get(pending))
        pending = predictions
    if pending is not None:
        parts.append(jax.device_get(pending))
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    real = whole["position"] < count
    if not np.array_equal(whole["position"][real], np.arange(count)):
        raise RunError(f"the evaluation did not process each of {count} examples once, in order")
    return {name: values[real] for name, values in whole.items()}


def record(evaluation: Evaluation, scores: Scores) -> dict[str, Any]:
    """The entry of one evaluation in `evaluation.json`."""
    details = dict(scores.details)
    if evaluation.classes is not None and "per_class" in details:
        rows = details["per_class"]
        details["per_class"] = [{**row, "name": evaluation.classes[row["class"]]} for row in rows]
    return {
        "kind": evaluation.kind,
        **evaluation.options,
        "data": evaluation.fingerprint,
        "metrics": scores.metrics,
        **details,
    }


def table(found: dict[str, Scores], names: tuple[str, ...] | None) -> str:
    """Table of the metrics, one line per evaluation; and of the accuracy of each class if the first
    evaluation has at most twenty classes, or of the sequences of each length.

    Args:
      found: name → scores of each evaluation.
      names: names of the classes of the first evaluation; `None` if unknown.
    """
    columns = list(dict.fromkeys(name for scores in found.values() for name in scores.metrics))
    rows = [["", *columns]]
    for name, scores in found.items():
        rows.append([name, *(_cell(scores.metrics.get(column)) for column in columns)])
    text = _aligned(rows)
    classes = next(iter(found.values())).details.get("per_class", [])
    if 0 < len(classes) <= 20:
        text += "\n\n" + _class_table(classes, names)
    for name, scores in found.items():
        rows = scores.details.get("by_length", [])
        if rows:
            cells = [[_cell(value) for value in row.values()] for row in rows]
            text += f"\n\n{name}\n" + _aligned([list(rows[0]), *cells])
    return text


def _class_table(classes: list[dict[str, Any]], names: tuple[str, ...] | None) -> str:
    """Table of the classes in the order of the classifier; a line says how timm orders them."""
    rows = [list(classes[0]), *([_cell(value) for value in row.values()] for row in classes)]
    if names is None:
        return _aligned(rows)
    rows = [[name, *row] for name, row in zip(("name", *names), rows, strict=True)]
    natural, order = class_order.natural(names), ""
    if names == tuple(sorted(names)) != natural:
        order = (
            "\nclasses are numbered in the order of their names as text, as in torchvision; timm "
            f"orders them {class_order.listed(natural)}"
        )
    return _aligned(rows) + order


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _aligned(rows: list[list[str]]) -> str:
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    first = [row[0].ljust(widths[0]) for row in rows]
    rest = [[cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)] for row in rows]
    return "\n".join("  ".join([a, *b]).rstrip() for a, b in zip(first, rest, strict=True))
