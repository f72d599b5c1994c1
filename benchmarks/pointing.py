"""Do saliency maps point at the digit, and does the prediction depend on the pixels they name?

    python benchmarks/pointing.py SWEEP_DIR --output FILE

SWEEP_DIR is that of `configs/experiments/pointing.py`. For each run and each method, over all test
images that the run classifies correctly: the share of maps whose maximum is inside the box of the
digit, and the area under the deletion curve minus that of random maps on the same images, with a
95 % confidence interval (Student's t over the images). `--methods` chooses others; those without
gradients run the network hundreds of times for each image.
"""

import argparse
import json
import os
import platform
import shlex
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import scipy.stats

from cv_jax.augment.batch import normalise
from cv_jax.data import canvas
from cv_jax.inspect import fidelity, network, saliency
from cv_jax.interop.trained import open_trained
from cv_jax.run import json_files

BATCH, CONTROL = 64, "random"


def batches(run: Path):
    """Yield the network, and images, labels and boxes of the correctly classified test images."""
    net = open_trained(str(run), {}, None, print)
    found = canvas.examples("test")
    pixels = np.stack([example.image for example in found])[..., None]
    labels = np.array([example.label for example in found])
    boxes = np.zeros(pixels.shape[:3], bool)
    for box, example in zip(boxes, found, strict=True):
        top, left, height, width = example.box
        box[top : top + height, left : left + width] = True
    images = normalise(net.config, jnp.asarray(pixels, jnp.float32))
    variables = net.weights.variables
    predicted = np.concatenate(
        [
            network.features(net.model, variables, images[i : i + BATCH])[0].argmax(axis=1)
            for i in range(0, len(images), BATCH)
        ]
    )
    correct = np.flatnonzero(predicted == labels)
    for i in range(0, len(correct), BATCH):
        chosen = correct[i : i + BATCH]
        yield net.model, variables, images[chosen], jnp.asarray(labels[chosen]), boxes[chosen]


def measure(run: Path, methods: list[str]) -> dict[str, dict]:
    """Return pointing and areas under the deletion curve of each method: bool and float [N]."""
    found = {}
    for *net, boxes in batches(run):
        for name in methods:
            try:
                maps = saliency.METHODS[name](*net)
            except saliency.NoPlaces:
                continue
            values = found.setdefault(name, {"inside": [], "deletion": []})
            values["inside"].append(fidelity.pointing(maps, boxes))
            values["deletion"].append(fidelity.area(fidelity.deletion(*net, maps)))
    return {n: {k: np.concatenate(x) for k, x in v.items()} for n, v in found.items()}


def interval(values: np.ndarray) -> dict:
    """Return the mean of the values and its 95 % confidence interval by Student's t."""
    values = np.asarray(values, np.float64)
    mean = float(values.mean())
    if len(values) < 2:
        return {"mean": mean, "low": None, "high": None}
    low, high = scipy.stats.t.interval(0.95, len(values) - 1, mean, scipy.stats.sem(values))
    return {"mean": mean, "low": float(low), "high": float(high)}


def row(name: str, values: dict, control: dict) -> dict:
    """Return the numbers of a method."""
    return {
        "method": name,
        "images": len(values["inside"]),
        "inside_the_box": float(values["inside"].mean()),
        "deletion_area": float(values["deletion"].mean()),
        "deletion_minus_random": interval(values["deletion"] - control["deletion"])
        if name != CONTROL
        else None,
    }


def _command(words: list[str]) -> str:
    """Return the recorded command of a run without its directory."""
    words = ["python", "launch.py", *words[1:]]
    place = words.index("--workdir")
    return shlex.join(words[:place] + words[place + 2 :])


def main():
    """Measure, print a line for each run and method, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep_dir", type=Path, help="folder of the sweep")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=saliency.METHODS,
        default=["gradient", "grad_cam", "rollout"],
    )
    parser.add_argument("--output", type=Path, help="write the result to this JSON file")
    flags = parser.parse_args()
    runs = []
    for summary in sorted(flags.sweep_dir.glob("*/summary.json")):
        config = json.loads((summary.parent / "config.json").read_text())
        score = json.loads(summary.read_text())
        found = measure(summary.parent, [*dict.fromkeys([*flags.methods, CONTROL])])
        rows = [row(name, values, found[CONTROL]) for name, values in found.items()]
        model, seed = config["model.name"], config["seed"]
        start = json.loads((summary.parent / "run.json").read_text())[-1]
        runs.append(
            {
                "model": model,
                "seed": seed,
                "command": _command(start["command"]),
                "commit": start["commit"],
                "versions": start["versions"],
                "test_accuracy": score["test_accuracy"],
                "methods": rows,
            }
        )
        for line in rows:
            print(
                f"{model}, seed {seed}, {line['method']}: {line['inside_the_box']:.1%} of "
                f"{line['images']} inside, deletion {line['deletion_area']:.3f}",
                flush=True,
            )
    result = {
        "command": f"python benchmarks/pointing.py SWEEP_DIR --methods {' '.join(flags.methods)}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "runs": runs,
    }
    if flags.output:
        json_files.write_json(flags.output, result)


if __name__ == "__main__":
    main()
