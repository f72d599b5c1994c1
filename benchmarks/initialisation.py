"""Seconds to compile and run the initialisation of networks, with all optimisations and with few.

    python benchmarks/initialisation.py [--rounds 3] [--output FILE]

Both programs of a network are compiled in turn, without a compile cache; a number is the fastest of
the rounds. The parameters are compared bit by bit. "Few" are the options of
`cv_jax.devices.compile_options`, with which `launch.py` compiles the initialisation on a CPU.
"""

import argparse
import os
import platform
import time
from pathlib import Path

import jax
import numpy as np

from cv_jax import config as configs
from cv_jax import models
from cv_jax.data import embedded
from cv_jax.devices import compile_options
from cv_jax.run import json_files, provenance

CONFIGS = ("lenet5", "resnet20_cifar", "vgg", "vit_ti16", "swin")


def seconds(model, options: dict | None) -> tuple[float, float, list[np.ndarray]]:
    """Return the seconds of compilation and of one run, and the arrays."""
    image = np.zeros((1, 32, 32, 1), np.float32)
    init = jax.jit(lambda: model.init(jax.random.key(0), image), compiler_options=options)
    lowered = init.lower()
    began = time.perf_counter()
    compiled = lowered.compile()
    built = time.perf_counter()
    arrays = [np.asarray(x) for x in jax.tree.leaves(compiled())]
    return built - began, time.perf_counter() - built, arrays


def measure(name: str, rounds: int, data_dir: str) -> dict:
    """Return the row of a config on digits."""
    config = configs.load(f"configs/{name}.py", {"data.dir": data_dir})
    fields = {k: v for k, v in config.model.items() if k != "name" and v is not None}
    if "image_size" in models.fields(config.model.name):
        fields["image_size"] = 32
    model = models.create(config.model.name, **{**fields, "num_classes": 10})
    found = {"all": [], "few": []}
    for _ in range(rounds):
        for kind, options in (("all", None), ("few", compile_options.once())):
            jax.clear_caches()
            found[kind].append(seconds(model, options))
    pairs = zip(found["all"][0][2], found["few"][0][2], strict=True)
    return {
        "config": name,
        "parameters": sum(x.size for x in found["all"][0][2]),
        "equal_bits": all(np.array_equal(a, b) for a, b in pairs),
        **{
            f"{kind}_{what}_seconds": round(min(row[i] for row in rows), 3)
            for kind, rows in found.items()
            for i, what in enumerate(("compile", "run"))
        },
    }


def main():
    """Measure every config, print a line for each, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data-dir", default="data", help="folder of the embedded digits")
    parser.add_argument("--output", type=Path, help="write the result to this JSON file")
    flags = parser.parse_args()
    embedded.ensure("digits", Path(flags.data_dir))
    rows = []
    for name in CONFIGS:
        rows.append(measure(name, flags.rounds, flags.data_dir))
        print(rows[-1], flush=True)
    if flags.output:
        where = f"{os.cpu_count()} cores, {platform.machine()}"
        record = {"machine": where, "commit": provenance.commit(), "rows": rows}
        json_files.write_json(flags.output, record)


if __name__ == "__main__":
    main()
