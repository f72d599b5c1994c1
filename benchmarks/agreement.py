"""What it costs several processes to agree: a word of process 0 through the coordination service,
as `processes.Agreement` sends it, against a collective of one number over the devices.

    python benchmarks/agreement.py [--processes 2] [--output benchmarks/results/agreement.json]

The processes run on this machine over loopback (CPU, gloo). Seconds are medians over 500 turns,
in which each waits for what the others have to say.
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
    """Median over the turns."""
    taken = []
    for turn in range(TURNS):
        begun = time.perf_counter()
        function(turn)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def process(address: str, count: int, index: int) -> None:
    """One of the processes; the first prints what it found."""
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
    # Process 0 does not wait for the others: it is their time that counts.
    word = processes.gathered(seconds(processes.agreed))
    devices = processes.gathered(seconds(collective))
    found = {"processes": count, "word_seconds": max(word), "collective_seconds": max(devices)}
    print(json.dumps(found))
    processes.finish(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path)
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
