"""Compile time and memory with scanned and rematerialised blocks: a table for one model.

    python benchmarks/scan_layers.py [MODEL [BATCH]]

Compiles the loss and gradient of a full-size model at its published input size, without running
them. Prints for every policy, unrolled and scanned, the seconds to trace and compile, and the
compiler's estimate of temporary memory. Recorded in benchmarks/results/scan_layers.txt.
"""

import json
import sys
import time

import jax
import jax.numpy as jnp

from cv_jax import models
from cv_jax.models.encoder import REMAT_POLICIES


def measure(name: str, batch: int, **fields) -> dict:
    """Return the compile seconds and the GiB of one gradient."""
    model = models.create(name, **fields)
    inputs = jax.eval_shape(lambda: models.dummy_inputs(name, batch))
    variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)

    def loss(variables, *inputs):
        logits, _ = model.apply(variables, *inputs, train=True)
        return jnp.mean(logits**2)

    start = time.perf_counter()
    compiled = jax.jit(jax.grad(loss)).lower(variables, *inputs).compile()
    seconds = time.perf_counter() - start
    return dict(
        compile_seconds=round(seconds, 1),
        temporary_gib=round(compiled.memory_analysis().temp_size_in_bytes / 2**30, 2),
    )


def main():
    """Measure and print."""
    name = sys.argv[1] if len(sys.argv) > 1 else "vit_l16"
    batch = int(sys.argv[2]) if len(sys.argv) > 2 else 8
    print(f"{name}, batch {batch}, float32, {jax.default_backend()}, jax {jax.__version__}")
    for policy in REMAT_POLICIES:
        for scan in (False, True):
            result = measure(name, batch, scan_layers=scan, remat_policy=policy)
            row = dict(layers="scanned" if scan else "unrolled", remat_policy=policy, **result)
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
