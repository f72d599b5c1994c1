"""Train or evaluate one run after another, as one of the processes of `test_processes.py`.

    processes.py COORDINATOR COUNT INDEX JOBS

JOBS is a JSON list of ["train" or "score", config file, overrides, workdir].
"""

import json
import pathlib
import sys

from cv_jax import config as configs
from cv_jax.devices import clusters, processes
from cv_jax.training import experiment, loop
from cv_jax.training.evaluate import evaluate


def run(what, reference, overrides, workdir):
    """Run one job, and return its exit code."""
    texts = {key: str(value) for key, value in overrides.items()}
    parts = experiment.build(configs.load(reference, texts))
    if what == "score":
        return evaluate(parts, pathlib.Path(workdir))
    return loop.train(parts, pathlib.Path(workdir), "")


if __name__ == "__main__":
    coordinator, count, index, jobs = sys.argv[1:]
    processes.start(clusters.stated(coordinator, int(count), int(index)), 60)
    try:
        for job in json.loads(jobs):
            assert run(*job) == 0
    except Exception as error:
        processes.fail(1, repr(error))
    processes.finish(0)
