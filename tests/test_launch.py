"""A process's rank, from flags and from launchers' environment variables."""

import ctypes
import re

import pytest

from mspn_jax.commands import launch
from mspn_jax.errors import LaunchError

# Task 11 of 16 on two nodes of 8 GPUs, by srun; process 11 of 16 by the other two.
SRUN = {
    "SLURM_JOB_ID": "5000",
    "SLURM_STEP_ID": "1",
    "SLURM_STEP_NODELIST": "n[07-09,12],m3",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_PROCID": "11",
    "SLURM_LOCALID": "3",
    "SLURM_GTIDS": "8,9,10,11,12,13,14,15",
}
TORCHRUN = {
    "WORLD_SIZE": "16",
    "RANK": "11",
    "LOCAL_WORLD_SIZE": "8",
    "LOCAL_RANK": "3",
    "MASTER_ADDR": "host0",
    "MASTER_PORT": "29500",
}
MPIRUN = {
    "OMPI_COMM_WORLD_SIZE": "16",
    "OMPI_COMM_WORLD_RANK": "11",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "3",
}
# The same two nodes with one task on each, and with two on each.
ONE_A_NODE = SRUN | {
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_GTIDS": "1",
}
TWO_A_NODE = SRUN | {
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_GTIDS": "2,3",
}
SRUN_PORT = 61440 + 5001 % 4096


def arguments(environ=(), gpus=0, coordinator=None, num_processes=None, process_id=None):
    return launch.arguments(
        dict(environ), coordinator, num_processes, process_id, count_gpus=lambda: gpus
    )


def place(found: dict) -> tuple[str, int, int]:
    """What JAX is told where it detects no cluster."""
    assert found["cluster_detection_method"] == "deactivate"
    return found["coordinator_address"], found["process_id"], found["num_processes"]


def test_flags_alone():
    found = arguments({}, gpus=8, coordinator="h:1", num_processes=2, process_id=1)
    assert place(found) == ("h:1", 1, 2)
    assert "local_device_ids" not in found


def test_a_tpu_pod_is_left_to_jax():
    assert arguments({"TPU_WORKER_ID": "0"}) == {}


@pytest.mark.parametrize(
    ("environ", "coordinator", "expected"),
    [
        (SRUN, None, (f"n07:{SRUN_PORT}", 11, 16)),
        (ONE_A_NODE, None, (f"n07:{SRUN_PORT}", 1, 2)),
        (TORCHRUN, None, ("host0:29500", 11, 16)),
        (TORCHRUN | {"TORCHELASTIC_USE_AGENT_STORE": "True"}, None, ("host0:29501", 11, 16)),
        (MPIRUN, "host0:7000", ("host0:7000", 11, 16)),
        (MPIRUN | {"JAX_COORDINATOR_ADDRESS": "host0:1"}, None, ("host0:1", 11, 16)),
        # srun may have started the others, one a node: its variables then count those.
        (ONE_A_NODE | TORCHRUN, None, ("host0:29500", 11, 16)),
        (ONE_A_NODE | MPIRUN, "host0:7000", ("host0:7000", 11, 16)),
    ],
)
def test_the_place_that_a_launcher_tells(environ, coordinator, expected):
    assert place(arguments(environ, coordinator=coordinator)) == expected


def test_flags_go_before_the_environment():
    found = arguments(SRUN, coordinator="h:1", num_processes=20, process_id=19)
    assert place(found) == ("h:1", 19, 20)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n1", "n1"),
        ("n1,n2", "n1"),
        ("n[7]", "n7"),
        ("n[001-015],h2", "n001"),
        ("n[001,007-015],h2", "n001"),
        ("r[1-2]-ib", "r1-ib"),
        ("a[1-2]b[3,4]-x,c", "a1b3-x"),
    ],
)
def test_the_first_host_of_slurms_list(nodes, first):
    found = arguments(SRUN | {"SLURM_STEP_NODELIST": nodes})
    assert found["coordinator_address"] == f"{first}:{SRUN_PORT}"


@pytest.mark.parametrize(
    ("environ", "seen", "expected"),
    [
        # SLURM: one GPU bound to each task, all visible to each, one task a node.
        (SRUN | {"SLURM_GPUS_ON_NODE": "8"}, 1, None),
        (SRUN | {"SLURM_GPUS_ON_NODE": "8"}, 8, [3]),
        (ONE_A_NODE | {"SLURM_GPUS_ON_NODE": "8"}, 8, None),
        # Two tasks: four GPUs bound to each, all eight visible, two visible.
        (TWO_A_NODE | {"SLURM_GPUS_ON_NODE": "8"}, 4, None),
        (TWO_A_NODE | {"SLURM_GPUS_ON_NODE": "8"}, 8, [4, 5, 6, 7]),
        (TWO_A_NODE | {"SLURM_GPUS_ON_NODE": "2"}, 2, [1]),
        # Launchers that say nothing of GPUs.
        (SRUN, 8, [3]),
        (TORCHRUN, 8, [3]),
        (MPIRUN | {"JAX_COORDINATOR_ADDRESS": "h:1"}, 16, [6, 7]),
        (TORCHRUN, 1, None),  # a wrapper has set CUDA_VISIBLE_DEVICES
        (TORCHRUN, 0, None),
        (SRUN | {"JAX_LOCAL_DEVICE_IDS": "5"}, 8, None),
    ],
)
def test_the_gpus_of_a_process(environ, seen, expected):
    found = arguments(environ, gpus=seen)
    assert found.get("local_device_ids") == expected
    assert "local_device_ids" in found or expected is None


FLAGS = {"coordinator": "h:1", "num_processes": 2, "process_id": 0}


@pytest.mark.parametrize(
    ("environ", "gpus", "flags", "message"),
    [
        ({}, 0, {"num_processes": 2}, "--coordinator, --process_id: neither given"),
        ({}, 0, {"coordinator": "h:1", "process_id": 0}, "--num_processes: neither given"),
        ({}, 0, {"coordinator": "h:1", "num_processes": 2}, "--process_id: neither given"),
        (MPIRUN, 0, {}, "--coordinator: neither given"),
        ({}, 0, FLAGS | {"coordinator": "host0"}, "--coordinator host0: must be host:port"),
        ({}, 0, FLAGS | {"coordinator": ":1"}, "--coordinator :1: must be host:port"),
        ({}, 0, FLAGS | {"coordinator": "h:0"}, "--coordinator h:0: must be host:port"),
        ({}, 0, FLAGS | {"coordinator": "h:65536"}, "--coordinator h:65536: must be"),
        ({}, 0, FLAGS | {"process_id": 2}, "process 2 of 2: the processes are numbered from 0"),
        ({}, 0, FLAGS | {"process_id": -1}, "process -1 of 2: "),
        ({}, 0, FLAGS | {"num_processes": 0}, "process 0 of 0: "),
        (SRUN, 0, {"num_processes": 4}, "process 11 of 4 (SLURM_PROCID, SLURM_STEP_NUM_TASKS)"),
        (SRUN | {"SLURM_PROCID": "16"}, 0, {}, "process 16 of 16 (SLURM_PROCID, "),
        (SRUN | {"SLURM_PROCID": "x"}, 0, {}, "SLURM_PROCID=x: must be a number"),
        (SRUN | {"SLURM_JOB_ID": "x"}, 0, {}, "SLURM_JOB_ID=x: must be a number"),
        (SRUN | {"SLURM_LOCALID": "8"}, 0, {}, "SLURM_LOCALID=8: but there are 8 processes"),
        (TORCHRUN | {"RANK": "-1"}, 0, {}, "RANK=-1: must be a number"),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "3"}, 0, {}, "LOCAL_RANK=3: but there are 3 processes"),
        # What sbatch tells a script, which is no task.
        (
            {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_GTIDS": "0"},
            0,
            {},
            "SLURM_PROCID set, but not SLURM_STEP_NUM_TASKS; start the command by srun",
        ),
        (
            SRUN | {"SLURM_GPUS_ON_NODE": "4"},
            4,
            {},
            "8 processes on this machine have 4 GPUs (SLURM_GPUS_ON_NODE), and each sees 4: start",
        ),
        (SRUN | {"SLURM_GPUS_ON_NODE": "8"}, 4, {}, "have 8 GPUs (SLURM_GPUS_ON_NODE), and each"),
        (TWO_A_NODE, 3, {}, "2 processes on this machine cannot share 3 GPUs evenly"),
    ],
)
def test_what_contradicts_itself_is_refused(environ, gpus, flags, message):
    with pytest.raises(LaunchError, match=re.escape(message)):
        arguments(environ, gpus, **flags)


class Cuda:
    """libcuda, of a machine with so many GPUs."""

    def __init__(self, gpus: int, failure: int = 0):
        self.gpus, self.failure = gpus, failure

    def cuInit(self, flags):
        return self.failure

    def cuDeviceGetCount(self, count):
        count._obj.value = self.gpus
        return 0


@pytest.mark.parametrize(
    ("cuda", "platforms", "expected"),
    [
        (Cuda(8), None, 8),
        (Cuda(8), "cuda,cpu", 8),
        (Cuda(8), "cpu", 0),
        (Cuda(8, failure=100), None, 0),
        (OSError("no such library"), None, 0),
    ],
)
def test_counting_gpus(monkeypatch, cuda, platforms, expected):
    def load(name):
        if isinstance(cuda, OSError):
            raise cuda
        return cuda

    class Config:
        jax_platforms = platforms

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(launch.jax, "config", Config)
    assert launch.count_gpus() == expected


def test_jax_gives_up_later_than_join_does(monkeypatch):
    """JAX would end the process with a stack trace. For a TPU pod it gets no other argument."""
    given = {}
    monkeypatch.setattr(launch.jax.distributed, "initialize", lambda **kwargs: given.update(kwargs))
    launch.join({}, seconds=7)
    assert given == {"initialization_timeout": 7 + 60}
