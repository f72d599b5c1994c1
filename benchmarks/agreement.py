"""Time for several processes to agree on one value, by two methods.

    python benchmarks/agreement.py [--processes 2] [--output benchmarks/results/agreement.json]

One method is a message of process 0 through the coordination service, as in `processes.Agreement`;
the other is a collective of one number over the devices. The processes run on one machine over
loopback (CPU, gloo). Seconds are medians over 500 messages or collectives.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

TURNS = 500


def seconds(function) -> float:
    """Return the median seconds of `TURNS` calls."""
    taken = []
    for turn in range(TURNS):
        begun = time.perf_counter()
        function(turn)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def process(address: str, count: int, index: int) -> None:
    """Measure in one process; process 0 prints the result."""
    import jax
    import numpy as np

    from cv_jax.devices import clusters, processes
    from cv_jax.devices import mesh as meshes

    processes.start(clusters.stated(address, count, index), 60)
    mesh = meshes.make_mesh()
    largest = jax.jit(lambda x: x.max(), out_shardings=meshes.replicated(mesh))

    def collective(turn):
        return jax.device_get(largest(meshes.to_global(mesh, np.full(1, turn, np.int32))))

    collective(0)  # compiles
    processes.barrier()
    # Process 0 sends without waiting, so the largest time of all processes counts.
    word = processes.gathered(seconds(processes.agreed))
    devices = processes.gathered(seconds(collective))
    found = {"processes": count, "word_seconds": max(word), "collective_seconds": max(devices)}
    print(json.dumps(found))
    processes.finish(0)


def main() -> None:
    """Start the processes, and print the result of process 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2, help="number of processes")
    parser.add_argument("--output", type=Path, help="write the result to this JSON file")
    flags = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    started = [
        subprocess.Popen(
            [sys.executable, __file__, address, str(flags.processes), str(index)],
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(flags.processes)
    ]
    outputs = [process.communicate()[0] for process in started]
    found = json.loads(outputs[0].splitlines()[-1])

    from cv_jax.run import provenance

    record = {**provenance.environment(), "load": os.getloadavg()[0], **found}
    print(json.dumps(record, indent=2))
    if flags.output:
        flags.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    if len(sys.argv) == 4 and ":" in sys.argv[1]:
        process(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
