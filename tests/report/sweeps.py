"""Sweep directories written without training."""

import json

from cv_jax.run import json_files
from cv_jax.sweep.points import Sweep, make_point


def write(folder, points, argument=""):
    """Write a sweep directory without trials, and return its points."""
    points = tuple(make_point(point) for point in points)
    sweep = Sweep("configs/mlp.py", argument, {}, points)
    folder.mkdir(parents=True, exist_ok=True)
    stored = {**sweep._asdict(), "points": [point._asdict() for point in points]}
    json_files.write_json(folder / "sweep.json", stored)
    return points


def finish(
    folder,
    point,
    accuracy,
    *,
    train=None,
    seconds=(1.0, 2.0),
    adds=1000,
    config=None,
    more=(),
    conditions=None,
):
    """Write the files of a finished trial."""
    path = folder / point.name
    path.mkdir()
    seed = point.overrides.get("seed", 0)
    values = {"seed": seed, "batch_size": 10, "model.name": "mlp", **(config or {})}
    json_files.write_record(path / "config.json", values)
    start = {"step": 0, "commit": "abc", "devices": ["cpu cpu"], "versions": {"jax": "1"}}
    start |= {"config": values, **(conditions or {})}
    json_files.write_json(path / "run.json", [json_files.sealed(start)])
    summary = {"step": 20, "parameters": 12345, "multiply_adds": adds}
    json_files.write_record(path / "summary.json", {**summary, "test_accuracy": accuracy})
    lines = [
        {"step": 10, "split": "test", "accuracy": 0.1, "loss": 9.0},
        {"step": 20, "split": "train", "accuracy": train or accuracy, "loss": 0.2},
        {"step": 20, "split": "norms", "head": 3.0},
        *({"step": 20, "split": split, "accuracy": value} for split, value in more),
        {"step": 20, "split": "test", "accuracy": accuracy, "loss": 1 - accuracy},
    ]
    _lines(path / "metrics.jsonl", lines)
    times = [{"step": 10 * (i + 1), "seconds": s} for i, s in enumerate(seconds)]
    _lines(path / "timing.jsonl", times)


def end(folder, point, code, step):
    """Write the files of a trial whose process ended with this exit code at this step."""
    path = folder / point.name
    path.mkdir(exist_ok=True)
    _lines(path / "metrics.jsonl", [{"step": step, "split": "train", "loss": 1.0}])
    json_files.append_line(
        folder / "trials.jsonl", {"trial": point.name, "code": code, "step": step}
    )


def _lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
