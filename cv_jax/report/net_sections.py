"""The parts of the page of a run that need its network or its data."""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cv_jax import config as configs
from cv_jax.errors import one_line
from cv_jax.inspect.look import DoesNotApply, confusion
from cv_jax.inspect.look.figures import COLOURS
from cv_jax.interop import trained
from cv_jax.report import svg, trained_net
from cv_jax.report.curves import Chart
from cv_jax.report.run_files import RunFiles
from cv_jax.report.trained_net import Predictions
from cv_jax.run.checkpoint import finished

MOST_PAIRS = 15


def open_net(run: RunFiles) -> dict[str, Any]:
    """Return the network of the newest checkpoint and its evaluation split.

    Raises:
      InputError: there is no sound checkpoint, or the data cannot be opened.
    """
    steps = finished(run.path / "checkpoints")
    net = trained.open_trained(str(run.path), {}, None, lambda line: None)
    source = trained.split_source(net, None, None)
    return {"net": net, "source": source, "step": steps[-1] if steps else 0}


def training_batch(run: RunFiles) -> dict[str, Any]:
    """Return pictures of the first training batch."""
    config = configs.restore(run.config)
    pictures, note = trained_net.augmented(config, run.classes)
    return {"pictures": pictures, "note": note}


def inside(opened: dict[str, Any]) -> dict[str, Any]:
    """Return what the analyses of `look` find; one that fails is named."""
    looked_at = trained_net.subject(opened["net"], opened["source"])
    found, failed = [], []
    for name in trained_net.ANALYSES_SHOWN:
        try:
            for finding in trained_net.findings(looked_at, name):
                title = finding.name.replace("_", " ")
                picture = svg.to_svg(finding.figure, f"{title}: {finding.text}")
                found.append({"title": title, "text": finding.text, "picture": picture})
        except Exception as error:
            failed.append(f"{name} ({one_line(error, 300)})")
    if not found and not failed:
        raise DoesNotApply("no analysis applies to this network")
    return {"findings": found, "failed": failed}


def evaluation(opened: dict[str, Any], predict: Callable[[], Predictions]) -> dict[str, Any]:
    """Return confusion matrix, accuracy by class, reliability, errors and hardest images."""
    net, source, predicted = opened["net"], opened["source"], predict()
    names = net.class_names() or source.classes or ()
    classes = max(source.num_classes, int(predicted.labels.max()) + 1)
    found = trained_net.scores(predicted, classes)
    matrix = np.array(found["confusion_matrix"])
    names = [names[k] if k < len(names) else str(k) for k in range(len(matrix))]
    wrong, hard = trained_net.mistaken(net, source, predicted)
    small = len(matrix) <= confusion.MOST_NUMBERS
    return {
        "step": f"{opened['step']:,}",
        "correct": f"{found['correct']:,}",
        "count": f"{found['count']:,}",
        "size": f"{predicted.size:,}",
        "accuracy": f"{found['correct'] / found['count']:.2%}",
        "classes": names,
        "matrix": _matrix_rows(matrix, names) if small else None,
        "matrix_picture": None if small else svg.to_svg(confusion.draw(matrix), "Confusion matrix"),
        "pairs": _pairs(matrix, names),
        "by_class": _by_class(found["per_class"], names),
        "reliability": _reliability(found),
        "wrong": wrong,
        "hard": hard,
    }


def _matrix_rows(matrix: np.ndarray, names: list[str]) -> list[dict[str, Any]]:
    rows = []
    for name, counts in zip(names, matrix.tolist(), strict=True):
        total = sum(counts) or 1
        rows.append({"name": name, "cells": [(n, f"{n / total:.3f}") for n in counts]})
    return rows


def _pairs(matrix: np.ndarray, names: list[str]) -> list[tuple[str, ...]]:
    wrong = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_PAIRS]
    places = [tuple(map(int, np.unravel_index(i, wrong.shape))) for i in order]
    return [
        (names[a], names[b], f"{wrong[a, b]:,}", f"{wrong[a, b] / matrix[a].sum():.1%}")
        for a, b in places
        if wrong[a, b]
    ]


def _by_class(rows: list[dict[str, Any]], names: list[str]) -> list[dict[str, Any]]:
    return [
        {
            "name": names[row["class"]],
            "count": row["count"],
            "correct": row["correct"],
            "accuracy": "–" if row["accuracy"] is None else f"{row['accuracy']:.1%}",
            "part": f"{row['accuracy'] or 0:.4f}",
        }
        for row in rows
    ]


def _reliability(found: dict[str, Any]) -> Chart:
    """Draw accuracy over confidence, with the share of images in each bin."""
    rows = [row for row in found["reliability"] if row["count"]]
    figure = Figure(figsize=(4.4, 4.0), layout="constrained")
    axis, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axis.plot([0, 100], [0, 100], "--", color=svg.INK, alpha=0.6, label="calibrated")
    x, y = ([100 * row[name] for row in rows] for name in ("confidence", "accuracy"))
    axis.plot(x, y, "o-", color=COLOURS[0], label="network")
    axis.set(ylabel="accuracy, %", xlim=(0, 100), ylim=(0, 105))
    axis.legend(fontsize=9)
    total = sum(row["count"] for row in rows)
    for row in rows:
        left, width = 100 * row["above"], 100 * (row["up_to"] - row["above"])
        lower.bar(left, 100 * row["count"] / total, 0.9 * width, align="edge", color=COLOURS[0])
    lower.set(xlabel="confidence, %", ylabel="images, %")
    for each in (axis, lower):
        each.grid(alpha=0.6)
        each.spines[["top", "right"]].set_visible(False)
    title = f"expected calibration error {found['ece']:.2%}"
    return Chart(title, svg.to_svg(figure, f"Reliability diagram, {title}"))
