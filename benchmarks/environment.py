"""Versions, devices and the speed of a matrix product; a process of other benchmarks."""

import argparse
import json
import os
import subprocess
import time

from benchmarks import turns
from cv_jax.devices import start


def product_tflops(side: int, dtype: str) -> float:
    """Return the TFLOP/s of a product of two square matrices of random numbers."""
    import jax

    a = jax.random.normal(jax.random.key(0), (side, side), dtype)
    product = jax.jit(lambda a: a @ a)
    product(a).block_until_ready()
    began = time.perf_counter()
    for _ in range(10):
        result = product(a)
    result.block_until_ready()
    return 2 * side**3 * 10 / (time.perf_counter() - began) / 1e12


def driver() -> str | None:
    """Return name, driver, memory and clock of the GPUs; `None` without NVIDIA's tool."""
    query = "--query-gpu=name,driver_version,memory.total,clocks.sm"
    try:
        found = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def main():
    """Report the environment."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=8192, help="of the matrices")
    parser.add_argument("--dtype", default="bfloat16")
    flags = parser.parse_args()
    start.load_jax()
    from cv_jax.run import provenance

    turns.hold_device()
    found = json.loads(json.dumps(provenance.environment()))
    turns.report(
        **found,
        cores=os.cpu_count(),
        load=os.getloadavg()[0],
        driver=driver(),
        matrix_product={
            "side": flags.side,
            "dtype": flags.dtype,
            "tflops": product_tflops(flags.side, flags.dtype),
        },
    )


if __name__ == "__main__":
    main()
