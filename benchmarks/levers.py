"""What makes training steps on a CPU faster: images per second without and with each change.

    python -m benchmarks.levers [CASE …] [--rounds 5] [--out FILE.json]

The changes are the gradient of max pooling as a gather (`cv_jax/models/pooling.py`) and the options
of the compiler (`cv_jax/devices/compile_options.py`); for a version of jaxlib without an entry
there, those of `CANDIDATE`. All variants of a case are compiled in one process and take turns, step
after step on the same state, so that other load on the machine affects all of them. A ratio is the
median, over the rounds, of the speed of a variant divided by that of the first in the same round.
With much other load, `--clock processor` counts the processor seconds of this process instead.
"""

import argparse
import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from benchmarks.step_cases import CASES, TINY, Case
from benchmarks.step_product import make_config, noise_folder
from cv_jax.devices import start

# Convolutions are left to Eigen; products and sums stay with YNNPACK.
CANDIDATE = {
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    )
}
NONE = ("", "")  # no peer
NETWORKS = {
    "resnet18": CASES["resnet18"],
    "resnet20_cifar": CASES["resnet20_cifar"],
    "lenet5": CASES["lenet5"],
    "vgg11_bn": Case("vgg11_bn", 4, 4, NONE),
    "alexnet": Case("alexnet", 16, 16, NONE),
    "vit_ti16": CASES["vit_ti16"],
    "swin_t": CASES["swin_t"],
}
POOLED = ("resnet18", "vgg11_bn", "alexnet")  # networks with max pooling
# Max pooling alone: image [B, H, W, C]; size, stride and padding of the windows.
POOLINGS = {
    "ResNet, 3×3, stride 2, padded": ((16, 112, 112, 64), (3, 2, 1)),
    "VGG, 2×2": ((4, 224, 224, 64), (2, 2, 0)),
    "AlexNet, 3×3, stride 2": ((16, 55, 55, 96), (3, 2, 0)),
}


CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def turns(
    steps: dict[str, Callable[[], None]],
    rounds: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list]:
    """Return name → seconds of one step in every round.

    Args:
      steps: name → a step, which waits for its result.
      rounds: how often each takes its turn.
      seconds: about the time of a turn, at least one step.
      clock: returns seconds.
    """
    found, repetitions = {name: [] for name in steps}, {}
    for name, step in steps.items():  # the first two steps warm up
        step()
        began = clock()
        step()
        repetitions[name] = max(1, min(100, round(seconds / (clock() - began))))
    for _ in range(rounds):
        for name, step in steps.items():
            began = clock()
            for _ in range(repetitions[name]):
                step()
            found[name].append((clock() - began) / repetitions[name])
    return found


def ratios(found: dict[str, list[float]]) -> dict[str, float]:
    """Return name → speed relative to the first name: the median over the rounds."""
    first, *others = found
    return {
        name: round(
            statistics.median(a / b for a, b in zip(found[first], found[name], strict=True)), 3
        )
        for name in others
    }


def step_of(case: Case, dataset: str, options: dict, *timed) -> dict:
    """Measure the variants of one network."""
    import jax

    from cv_jax.models import pooling
    from cv_jax.training import experiment

    config = make_config(case, dataset, case.cpu_batch, "float32", {})
    parts = experiment.build(config)
    variants = {"neither": (False, {}), "options": (False, options)}
    if case.model in POOLED:
        variants |= {"pooling": (True, {}), "both": (True, options)}
    compiled, batch = {}, next(parts.train_batches(0))
    for name, (gather, given) in variants.items():
        function = dataclasses.replace(parts, compiler_options=given).train_step()
        pool = pooling._pool if gather else pooling._maximum
        with mock.patch.object(pooling, "_pool", pool):
            compiled[name] = function.lower(parts.abstract_state, batch).compile()
    state = parts.init()()

    def step(name):
        nonlocal state
        state = jax.block_until_ready(compiled[name](state, batch)[0])

    steps = {name: lambda name=name: step(name) for name in compiled}
    found = turns(steps, *timed)
    speeds = {
        name: [round(case.cpu_batch / one, 3) for one in times] for name, times in found.items()
    }
    return {"batch": case.cpu_batch, "images_per_second": speeds, "ratios": ratios(found)}


def pooling_of(shape: tuple, window: tuple, *timed) -> dict:
    """Measure value and gradient of max pooling alone, by the library and as a gather."""
    import jax
    import jax.numpy as jnp

    from cv_jax.models import pooling

    x = jax.nn.relu(jax.random.normal(jax.random.key(0), shape))
    gradient = jnp.ones(jax.eval_shape(lambda x: pooling._maximum(x, *window), x).shape)

    def step(pool):
        def run(x, gradient):
            maxima, back = jax.vjp(lambda x: pool(x, *window), x)
            return maxima, back(gradient)

        compiled = jax.jit(run).lower(x, gradient).compile()
        return lambda: jax.block_until_ready(compiled(x, gradient))

    found = turns({"library": step(pooling._maximum), "gather": step(pooling.max_pool)}, *timed)
    milliseconds = {k: [round(1e3 * one, 2) for one in times] for k, times in found.items()}
    return {"shape": shape, "milliseconds": milliseconds, "ratio": ratios(found)["gather"]}


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = f"pooling (alone), {', '.join(NETWORKS)}"
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {known}; default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn")
    parser.add_argument("--batch", type=int, help="examples in a step (default: of the case)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="what counts the seconds")
    parser.add_argument("--tiny", action="store_true", help="one small network, for tests")
    parser.add_argument("--out", type=Path, help="write the result to this JSON file")
    flags = parser.parse_args()
    networks = {"lenet5": TINY["lenet5"]} if flags.tiny else NETWORKS
    cases = flags.cases or ["pooling", *networks]
    for case in cases:
        if case not in ("pooling", *networks):
            parser.error(f"case {case!r} is not one of {known}")
    start.load_jax()

    import jax
    import jaxlib

    from cv_jax.devices import compile_options
    from cv_jax.run import json_files, provenance

    result = {
        "command": " ".join(["python -m benchmarks.levers", *sys.argv[1:]]),
        **provenance.environment(),
        "clock": flags.clock,
        "load": os.getloadavg()[0],
        "options": compile_options.MEASURED.get(jaxlib.__version__, CANDIDATE),
        "steps": {},
        "pooling": {},
    }
    timed = flags.rounds, flags.seconds, CLOCKS[flags.clock]

    def keep(kind, name, row):
        result[kind][name] = row
        print(f"{name}: {row.get('ratios') or row['ratio']}", flush=True)
        if flags.out:
            json_files.write_json(flags.out, result)
        jax.clear_caches()

    for name, (shape, window) in POOLINGS.items() if "pooling" in cases else ():
        shape = (1, 8, 8, 2) if flags.tiny else shape
        keep("pooling", name, pooling_of(shape, window, *timed))
    for name in (name for name in cases if name in networks):
        with tempfile.TemporaryDirectory() as folder:
            case = networks[name]
            if flags.batch:
                case = dataclasses.replace(case, cpu_batch=flags.batch)
            dataset = noise_folder(Path(folder), case.size, case.classes)
            keep("steps", name, step_of(case, dataset, result["options"], *timed))


if __name__ == "__main__":
    main()
