"""Discovery of the processes of a run: flags, Slurm, Open MPI, Kubernetes or a TPU pod."""

import os
import re
from typing import NamedTuple

from jax._src import clusters  # the public API reports a cluster only by starting it

from cv_jax.errors import InputError, one_line

MOST_PROCESSES = 2**20
START_SECONDS = 300  # time limit until all processes have connected


class Cluster(NamedTuple):
    """Rank of this process among the processes of a run.

    Attributes:
      coordinator: HOST:PORT on which process 0 listens.
      count: number of processes.
      index: index of this process.
      local_devices: ids of this process's devices on its host; `None` for all visible devices.
    """

    coordinator: str
    count: int
    index: int
    local_devices: list[int] | None = None


def stated(coordinator: str | None, count: int | None, index: int | None) -> Cluster | None:
    """Return the cluster of `--coordinator`, `--num_processes` and `--process_id`, if given.

    Raises:
      InputError: some of the flags are missing or invalid.
    """
    if (coordinator, count, index) == (None, None, None):
        return None
    if None in (coordinator, count, index):
        raise InputError("--coordinator, --num_processes and --process_id must be given together")
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise InputError(f"--coordinator={coordinator} is not HOST:PORT")
    if not 1 <= count <= MOST_PROCESSES:
        raise InputError(f"--num_processes={count} must be at least 1 and at most {MOST_PROCESSES}")
    if not 0 <= index < count:
        raise InputError(f"--process_id={index} is not in 0…{count - 1}: --num_processes={count}")
    return Cluster(coordinator, count, index)


def found() -> Cluster | None:
    """Return the cluster in the environment of Slurm, Open MPI, Kubernetes or a TPU pod.

    `None` for a single process, for an interactive Slurm allocation, and for a Kubernetes pod
    outside an indexed job.

    Raises:
      InputError: JAX cannot read the environment.
    """
    try:
        for kind in clusters.ClusterEnv._cluster_types:
            outside = kind is clusters.K8sCluster and "JOB_COMPLETION_INDEX" not in os.environ
            if kind.opt_in_only_method or outside or not kind.is_env_present():
                continue
            count = kind.get_process_count()
            if kind is clusters.SlurmCluster:  # a job step can have fewer tasks than its allocation
                count = int(os.environ.get("SLURM_STEP_NUM_TASKS", count))
            if count == 1:
                return None
            address = kind.get_coordinator_address(
                timeout_secs=START_SECONDS,
                override_coordinator_port=os.environ.get("JAX_COORDINATOR_PORT"),
            )
            return Cluster(address, count, kind.get_process_id(), _local_devices(kind))
    except (RuntimeError, ValueError, KeyError, OSError, ImportError) as error:
        raise InputError(f"{kind.__name__} cannot be read: {one_line(error, 300)}") from None
    return None


def _local_devices(kind: type) -> list[int] | None:
    """Return one GPU for each task where the tasks of a host all see the same GPUs."""
    local = kind.get_local_process_id()
    if kind is clusters.SlurmCluster:
        counts = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "1")  # such as 2(x3),1
        tasks = [
            int(n)
            for n, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", counts)
            for _ in range(int(times or 1))
        ]
        beside = tasks[min(int(os.environ.get("SLURM_NODEID", 0)), len(tasks) - 1)]
    else:
        beside = int(os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", 1))
    bound = os.environ.get("CUDA_VISIBLE_DEVICES", ",").count(",") == 0
    return None if local is None or beside == 1 or bound else [local]
