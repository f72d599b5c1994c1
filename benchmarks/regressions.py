"""Speeds relative to a matrix product in the same run, so that a test can notice a regression.

    python -m benchmarks.regressions [--out benchmarks/results/regressions.json]

Each measurement takes turns with a product of two matrices, and the shortest processor time of
either counts: other load on the machine changes it little, and can only make it longer. A score is
the number of such measurements in the time of a thousand products. The file has the scores of every
kind of processor on which this was called; `tests/test_speed.py` compares them.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.step_cases import Case
from benchmarks.step_product import make_config, noise_folder
from cv_jax.devices import start

SIDE = 1024  # of the matrices
SHORT = 0.02  # seconds; shorter measurements are repeated within a turn
# Small networks that compile in seconds: convolutions, batch normalisation and max pooling;
# attention, layer normalisation and GELU; and layers that are small for a matrix product.
STEPS = {
    "ResNet step": Case(
        "resnet18",
        8,
        8,
        ("", ""),
        112,
        10,
        {"model.stage_sizes": (1,), "model.widths": (64,)},
    ),
    "ViT step": Case("vit_ti16", 8, 8, ("", ""), 112, 10, {"model.depth": 1}),
    "LeNet-5 step": Case("lenet5", 64, 64, ("", ""), 32, 10),
}


def step_of(case: Case, dataset: str) -> Callable[[], None]:
    """Return one training step, which waits for its result."""
    import jax

    from cv_jax.training import experiment

    parts = experiment.build(make_config(case, dataset, case.cpu_batch, "float32", {}))
    batch, state = next(parts.train_batches(0)), parts.init()()
    function = parts.train_step()

    def step():
        nonlocal state
        state = jax.block_until_ready(function(state, batch)[0])

    return step


def loader(folder: Path) -> Callable[[], None]:
    """Return the loading of one batch: eight JPEGs of 500×375 pixels, decoded and cropped."""
    from PIL import Image

    from cv_jax.data import pipeline
    from cv_jax.training import experiment

    draw = np.random.default_rng(0)
    for split in ("train", "val"):
        (folder / split / "a").mkdir(parents=True)
        for i in range(8):
            small = Image.fromarray(draw.integers(0, 256, (24, 32, 3), np.uint8))
            small.resize((500, 375)).save(folder / split / "a" / f"{i}.jpg")
    case = Case("linear", 8, 8, ("", ""), 224, 1)
    augment = {"augment": "inception_crop(224)|flip"}
    parts = experiment.build(make_config(case, f"folder:{folder}", 8, "float32", augment))
    batches = pipeline.TrainBatches(
        parts.train_images,
        parts.augmentation.host,
        seed=0,
        batch_size=8,
        rows=np.arange(8),
        total_steps=1000,
    )
    return lambda: batches[0]


def product() -> Callable[[], None]:
    """Return one product of two square matrices, which waits for its result."""
    import jax

    a = jax.random.normal(jax.random.key(0), (SIDE, SIDE))
    multiply = jax.jit(lambda a: a @ a)
    return lambda: jax.block_until_ready(multiply(a))


def shortest(function: Callable[[], None], other: Callable[[], None], rounds: int) -> list[float]:
    """Return the shortest processor seconds of two functions that take turns."""
    counts, best = [], [float("inf")] * 2
    for each in (function, other):
        each()
        began = time.process_time()
        each()
        counts.append(max(1, round(SHORT / (time.process_time() - began))))
    for _ in range(rounds):
        for i, each in enumerate((function, other)):
            began = time.process_time()
            for _ in range(counts[i]):
                each()
            best[i] = min(best[i], (time.process_time() - began) / counts[i])
    return best


def scores(rounds: int) -> dict[str, float]:
    """Return name → score of all measurements."""
    found, other = {}, product()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measured = {"loader": loader(folder / "jpegs")}
        for title, case in STEPS.items():
            own = folder / title
            own.mkdir()
            measured[title] = step_of(case, noise_folder(own, case.size, case.classes))
        for title, function in measured.items():
            ours, theirs = shortest(function, other, rounds)
            found[title] = round(1000 * theirs / ours, 1)
    return found


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="add the scores to this JSON file")
    flags = parser.parse_args()
    start.load_jax()

    from cv_jax.devices import processor
    from cv_jax.run import json_files, provenance

    found = scores(flags.rounds)
    conditions = provenance.environment()
    entry = {"commit": conditions["commit"], "threads": conditions["cpu_threads"]}
    entry |= {"versions": conditions["versions"], "scores": found}
    result = {"command": " ".join(["python -m benchmarks.regressions", *sys.argv[1:]])}
    result["commit"] = conditions["commit"]
    result["processors"] = {processor.kind(): entry}
    for title, score in found.items():
        print(f"{title}: {score:,.1f} in the time of a thousand products")
    if flags.out:
        old = json_files.read_json(flags.out, dict)["processors"] if flags.out.exists() else {}
        result["processors"] = {**old, **result["processors"]}
        json_files.write_json(flags.out, result)


if __name__ == "__main__":
    main()
