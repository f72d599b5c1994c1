"""Time of each augmentation on the device, and its share of a training step of ViT-B/16.

    python benchmarks/augmentation.py [--batch_size 128] [--rounds 5] [--dtype bfloat16]

The batch has random 224×224 images and is on the device. A line has the median time of
`augment_batch` with one augmentation string, minus the time of the empty string, which only
normalises. The share is relative to a whole training step without augmentation.
"""

import argparse
import importlib.metadata
import json
import statistics
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from cv_jax import augment
from cv_jax import config as configs
from cv_jax.augment.batch import augment_batch
from cv_jax.run import json_files, provenance
from cv_jax.training import experiment

STRINGS = {
    "flip": "flip",
    "pad_crop": "pad_crop(16)",
    "random_resized_crop": "random_resized_crop(method='bicubic')",
    "rotate": "rotate(30)",
    "colour_jitter": "colour_jitter(0.4, 0.4, 0.4)",
    "colour_jitter with hue": "colour_jitter(0.4, 0.4, 0.4, 0.1)",
    "grayscale": "grayscale(0.2)",
    "gaussian_blur": "gaussian_blur",
    "sharpness": "sharpness",
    "equalise": "equalise",
    "autocontrast": "autocontrast",
    "lighting": "lighting",
    "randaugment": "randaugment(2, 9, 0.5)",
    "trivialaugment": "trivialaugment",
    "autoaugment": "autoaugment",
    "three_augment": "three_augment",
    "erase": "erase(0.25)",
    "mixup_or_cutmix": "mixup_or_cutmix",
    "DeiT": "flip|randaugment(2, 9, 0.5)|erase(0.25)|mixup_or_cutmix",
    "DeiT III": "flip|three_augment|colour_jitter(0.3, 0.3, 0.3)|mixup_or_cutmix",
}


def seconds(function, *arguments, rounds: int) -> float:
    """Return the median seconds of a call, after a first call that compiles."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def step_seconds(flags: argparse.Namespace) -> float:
    """Return the median seconds of a training step of ViT-B/16 on a batch on the device."""
    with tempfile.TemporaryDirectory() as folder:
        pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
        for split in ("train", "val"):
            for i in range(flags.batch_size if split == "train" else 1):
                path = Path(folder) / split / "noise" / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
        config = configs.load(
            "configs/vit_b16.py:imagenet2012",
            {
                "data.name": f"folder:{folder}",
                "data.eval_split": "val",
                "augment": "",
                "batch_size": str(flags.batch_size),
                "eval.batch_size": str(flags.batch_size),
                "total_steps": "100",
                "schedule.warmup_steps": "10",
                "eval.every_epochs": "none",
                "model.dtype": flags.dtype,
                "mesh.devices": "1",
            },
        )
        parts = experiment.build(config)
        state, train_step = parts.init()(), parts.train_step()
        batch = next(parts.train_batches(0))

        def run():
            nonlocal state
            state, metrics = train_step(state, batch)
            return metrics

        return seconds(run, rounds=flags.rounds)


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5, help="calls whose median is taken")
    parser.add_argument("--dtype", default="bfloat16", help="dtype of the network")
    parser.add_argument("--output", type=Path, help="write the result to this JSON file")
    flags = parser.parse_args()

    config = configs.with_normalisation(configs.default("imagenet2012", "vit_b16"))
    draw = np.random.default_rng(0)
    batch = {
        "image": jnp.asarray(draw.integers(0, 256, (flags.batch_size, 224, 224, 3), np.uint8)),
        "label": jnp.asarray(draw.integers(0, 1000, flags.batch_size), jnp.int32),
    }

    def cost(string):
        parsed = augment.parse(string)
        run = jax.jit(lambda batch: augment_batch(config, parsed, 1000, jnp.int32(0), batch))
        return seconds(run, batch, rounds=flags.rounds)

    whole, normalising = step_seconds(flags), cost("")
    result = {
        "device": f"1 {jax.devices()[0].device_kind}",
        "jax": importlib.metadata.version("jax"),
        "commit": provenance.commit(),
        "batch_size": flags.batch_size,
        "dtype": flags.dtype,
        "step_ms_an_image": 1e3 * whole / flags.batch_size,
        "normalising_ms_an_image": 1e3 * normalising / flags.batch_size,
        "augmentation": {},
    }
    print(f"ViT-B/16 step: {result['step_ms_an_image']:.3f} ms an image")
    for name, string in STRINGS.items():
        extra = max(0.0, cost(string) - normalising)
        result["augmentation"][name] = {
            "string": string,
            "ms_an_image": 1e3 * extra / flags.batch_size,
            "share_of_step": extra / whole,
        }
        print(
            f"{name:24}{1e3 * extra / flags.batch_size:9.4f} ms  {extra / whole:7.2%}", flush=True
        )
    if flags.output:
        json_files.write_json(flags.output, result)
    else:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
