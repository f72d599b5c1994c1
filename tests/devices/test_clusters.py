"""Discovery of processes from flags and clusters; `test_processes.py` starts real processes."""

import warnings

import pytest
from jax._src.clusters import cloud_tpu_cluster
from jax._src.clusters.k8s_cluster import K8sCluster

from cv_jax.devices import clusters, processes
from cv_jax.devices.clusters import Cluster
from cv_jax.errors import InputError

# Environment from `srun` of the fourth of eight tasks on two hosts.
SLURM = {
    "SLURM_JOB_ID": "4097",
    "SLURM_STEP_NODELIST": "node[007-008]",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_NODEID": "0",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "3",
}
# Environment from Open MPI's `mpirun` of the second of two processes on one host.
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}


@pytest.fixture
def environment(monkeypatch):
    """`environment(values)` sets variables, without the variables of other clusters."""
    for name in [*SLURM, *OPEN_MPI, "CUDA_VISIBLE_DEVICES", "KUBERNETES_SERVICE_HOST"]:
        monkeypatch.delenv(name, raising=False)

    def change(values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return change


def test_a_process_without_a_cluster(environment):
    assert clusters.found() is None
    assert processes.is_main()
    assert not processes.several()
    assert processes.agreed(3) == 3
    assert processes.gathered("x") == ["x"]
    processes.require_same("config", {"seed": 1})


def test_slurm_tasks_that_share_gpus_take_one_each(environment):
    environment(SLURM)
    assert clusters.found() == Cluster("node007:61441", 8, 3, [3])


@pytest.mark.parametrize(
    "values",
    [
        {"CUDA_VISIBLE_DEVICES": "2"},  # bound by Slurm
        {"SLURM_STEP_TASKS_PER_NODE": "4,1(x4)", "SLURM_NODEID": "2", "SLURM_LOCALID": "0"},
    ],
)
def test_a_task_with_its_own_gpus_takes_all_of_them(environment, values):
    environment({**SLURM, **values})
    assert clusters.found().local_devices is None


@pytest.mark.parametrize("values", [{"SLURM_STEP_NUM_TASKS": "1"}, {"SLURM_NTASKS": "1"}])
def test_a_single_slurm_task_has_no_cluster(environment, values, monkeypatch):
    environment({**SLURM, **values})
    if "SLURM_NTASKS" in values:
        monkeypatch.delenv("SLURM_STEP_NUM_TASKS")
    assert clusters.found() is None


def test_a_batch_script_has_no_cluster(environment, monkeypatch):
    environment(SLURM)
    monkeypatch.delenv("SLURM_STEP_NODELIST")
    assert clusters.found() is None


def test_open_mpi(environment):
    environment(OPEN_MPI)
    address, count, index, devices = clusters.found()
    assert address.startswith("10.96.0.1:")
    assert (count, index, devices) == (2, 1, [1])


def test_a_kubernetes_pod_has_a_cluster_only_in_an_indexed_job(environment, monkeypatch):
    environment({"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # JAX's own detection would warn about a package
        assert clusters.found() is None
    environment({"JOB_COMPLETION_INDEX": "1"})
    monkeypatch.setattr(K8sCluster, "is_env_present", lambda: True)
    monkeypatch.setattr(K8sCluster, "get_process_id", lambda: 1)
    monkeypatch.setattr(K8sCluster, "get_process_count", lambda: 4)
    monkeypatch.setattr(K8sCluster, "get_coordinator_address", lambda **_: "job-0.pods:55527")
    assert clusters.found() == Cluster("job-0.pods:55527", 4, 1)

    def refused():
        raise RuntimeError("Kubernetes API Error: 403")

    monkeypatch.setattr(K8sCluster, "get_process_count", refused)
    with pytest.raises(InputError, match="K8sCluster cannot be read: Kubernetes API Error: 403"):
        clusters.found()


def test_hosts_of_a_tpu_slice(environment, monkeypatch):
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("MEGASCALE_COORDINATOR_ADDRESS", "localhost")
    monkeypatch.setenv("MEGASCALE_NUM_SLICES", "2")
    monkeypatch.setenv("MEGASCALE_SLICE_ID", "1")
    monkeypatch.setenv("TPU_WORKER_ID", "1")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost,elsewhere")
    assert clusters.found() == Cluster("localhost:8482", 4, 3)
    monkeypatch.setenv("MEGASCALE_NUM_SLICES", "1")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    assert clusters.found() is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("a:1", 2, None), "must be given together"),
        (("a", 2, 0), "--coordinator=a is not HOST:PORT"),
        ((":80", 2, 0), "is not HOST:PORT"),
        (("a:99999", 2, 0), "is not HOST:PORT"),
        (("a:1", 2, 2), "--process_id=2 is not in 0…1"),
        (("a:1", 0, 0), "--num_processes=0"),
    ],
)
def test_invalid_flags(flags, message):
    with pytest.raises(InputError, match=message):
        clusters.stated(*flags)


def test_flags():
    assert clusters.stated(None, None, None) is None
    assert clusters.stated("host:1234", 4, 3) == Cluster("host:1234", 4, 3)
