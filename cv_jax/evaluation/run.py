"""Exact evaluation: every example counts once, on any number of devices.

Batches are padded, the answers to each example come home with its position, and the metrics are
reckoned on the host from all answers in the order of the split.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from cv_jax.errors import RunError
from cv_jax.evaluation import metrics, probes
from cv_jax.evaluation.plan import PROBES, Evaluation


class Scores(NamedTuple):
    """What one evaluation found.

    Attributes:
      metrics: name → number, for a line.
      details: what is too long for a line; JSON-able.
    """

    metrics: dict[str, float]
    details: dict[str, Any]


def make_evaluator(experiment: Any, evaluation: Evaluation) -> Callable[[Any], Scores]:
    """`variables → scores` of one evaluation; compiled once for all its uses.

    Args:
      experiment: the parts of the run; see `experiment.Experiment`.
      evaluation: what to measure.
    """
    options, num_classes = evaluation.options, evaluation.num_classes

    def answers(function, variables, images):
        batches = experiment.eval_batches(images, evaluation.views)
        return gather(function, variables, batches, len(images.source))

    if evaluation.kind not in PROBES:
        eval_step = experiment.eval_step(options.get("average", "logits"))

        def score(variables):
            found = answers(eval_step, variables, evaluation.images)
            return Scores(metrics.summary(found, num_classes), metrics.details(found, num_classes))

        return score

    feature_step = experiment.feature_step(options["feature"])

    def probe(variables):
        train, test = (
            (found["feature"], found["label"])
            for found in (
                answers(feature_step, variables, images)
                for images in (evaluation.train_images, evaluation.images)
            )
        )
        if evaluation.kind == "knn":
            k, temperature = options["k"], options["temperature"]
            found = probes.nearest_neighbours(train, test, num_classes, k, temperature)
        else:
            found = probes.logistic_regression(train, test, options["C"], options["standardise"])
        return Scores(found, {})

    return probe


def gather(
    function: Callable, variables: Any, batches: Iterable[dict[str, Any]], count: int
) -> dict[str, np.ndarray]:
    """Answers to every example of a split, in its order.

    Args:
      function: jitted `(variables, batch) → answers`, arrays [B, …] whole on every process, among
        them `position`.
      variables: the model's.
      batches: padded batches on the devices.
      count: examples of the split.

    Raises:
      RunError: the batches do not hold every example once.
    """
    parts, pending = [], None
    for batch in batches:
        answers = function(variables, batch)
        if pending is not None:  # fetched one batch late, so that the devices never wait
            parts.append(jax.device_get(pending))
        pending = answers
    if pending is not None:
        parts.append(jax.device_get(pending))
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    real = whole["position"] < count
    if not np.array_equal(whole["position"][real], np.arange(count)):
        raise RunError(f"the evaluation did not see each of {count} examples once, in order")
    return {name: values[real] for name, values in whole.items()}


def record(evaluation: Evaluation, scores: Scores) -> dict[str, Any]:
    """What `evaluation.json` says of one evaluation."""
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


def table(found: dict[str, Scores]) -> str:
    """The metrics, a line for each evaluation, and the accuracy of each class where the first
    evaluation has at most twenty."""
    columns = list(dict.fromkeys(name for scores in found.values() for name in scores.metrics))
    rows = [["", *columns]]
    for name, scores in found.items():
        rows.append([name, *(_cell(scores.metrics.get(column)) for column in columns)])
    text = _aligned(rows)
    classes = next(iter(found.values())).details.get("per_class", [])
    if 0 < len(classes) <= 20:
        rows = [list(classes[0]), *([_cell(value) for value in row.values()] for row in classes)]
        text += "\n\n" + _aligned(rows)
    return text


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    first = [row[0].ljust(widths[0]) for row in rows]
    rest = [[cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)] for row in rows]
    return "\n".join("  ".join([a, *b]).rstrip() for a, b in zip(first, rest, strict=True))
