"""Joins the processes of a run, by flags or by the variables of their launcher.

JAX detects SLURM and Open MPI, and then gives each process the GPU with the process's local number.
That fails for a process that sees only its own GPU (`--gpus-per-task`), and leaves one process on a
machine of eight GPUs with one of them. So `arguments` leaves only TPU pods to JAX.
"""

import ctypes
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from mspn_jax.errors import LaunchError

JOIN_SECONDS = 300.0
# JAX's own limit ends the process with a stack trace from C++, so ours has to come before it.
_SECONDS_UNTIL_JAX_GIVES_UP = 60
_CONNECT_SECONDS = 5

# Ports for SLURM steps. Linux gives ports below these to outgoing connections.
_FIRST_PORT, _NUM_PORTS = 61440, 4096
_LAST_PORT = 65535


class _Launcher(NamedTuple):
    """A launcher's environment variables for a process's place in the run."""

    command: str
    num_processes: str
    process_id: str
    num_local: str  # how many processes are on this machine
    local_id: str  # which of them this is

    @property
    def variables(self) -> set[str]:
        return {self.num_processes, self.process_id, self.num_local, self.local_id}


_TORCHRUN = _Launcher("torchrun", "WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE", "LOCAL_RANK")
_MPIRUN = _Launcher(
    "mpirun",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "OMPI_COMM_WORLD_LOCAL_RANK",
)
# SLURM_GTIDS lists the tasks of this machine. The variables are those of a step, not of the job:
# a batch script has some of them, too, but is no task.
_SRUN = _Launcher("srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_GTIDS", "SLURM_LOCALID")

# The first whose variables are all set counts. srun comes last: it may have started torchrun or
# mpirun on each machine, and then counts these instead of their processes.
_LAUNCHERS = (_TORCHRUN, _MPIRUN, _SRUN)


def arguments(
    environ: Mapping[str, str],
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    count_gpus: Callable[[], int],
) -> dict[str, Any]:
    """The arguments for `jax.distributed.initialize`. Flags override the environment.

    Args:
      coordinator, num_processes, process_id: the flags of these names; None if not given.
      count_gpus: how many GPUs this process sees. Called only if several processes may share them.

    Returns:
      All arguments, so that JAX detects nothing; an empty dict on TPU pods, which JAX detects.
    """
    launcher = next((each for each in _LAUNCHERS if each.variables <= environ.keys()), None)
    if launcher is None:
        if coordinator is num_processes is process_id is None:
            _refuse_incomplete(environ)
            return {}
        num_local, local_id = 1, 0
    else:
        num_local, local_id = _place_on_machine(environ, launcher)
        if num_processes is None:
            num_processes = _number(environ, launcher.num_processes)
        if process_id is None:
            process_id = _number(environ, launcher.process_id)
    address = (
        coordinator or environ.get("JAX_COORDINATOR_ADDRESS") or _coordinator(environ, launcher)
    )
    if address is None or num_processes is None or process_id is None:
        given = {"coordinator": address, "num_processes": num_processes, "process_id": process_id}
        missing = ", ".join(f"--{flag}" for flag, value in given.items() if value is None)
        raise LaunchError(f"{missing}: neither given nor in the environment of a launcher")
    _check_address(address)
    if not 0 <= process_id < num_processes:
        source = f" ({launcher.process_id}, {launcher.num_processes})" if launcher else ""
        raise LaunchError(
            f"process {process_id} of {num_processes}{source}: the processes are numbered from 0;"
            " see --process_id and --num_processes"
        )
    found = {
        "coordinator_address": address,
        "num_processes": num_processes,
        "process_id": process_id,
        "cluster_detection_method": "deactivate",
    }
    gpus = _own_gpus(environ, num_local, local_id, count_gpus)
    return found if gpus is None else found | {"local_device_ids": gpus}


def _refuse_incomplete(environ: Mapping[str, str]) -> None:
    for launcher in _LAUNCHERS:
        there = launcher.variables & environ.keys()
        if there:
            missing = ", ".join(sorted(launcher.variables - there))
            raise LaunchError(
                f"--distributed: {', '.join(sorted(there))} set, but not {missing}; start the"
                f" command by {launcher.command}, or give --coordinator, --num_processes and"
                " --process_id"
            )


def _place_on_machine(environ: Mapping[str, str], launcher: _Launcher) -> tuple[int, int]:
    """The number of processes on this machine, and this process's number among them."""
    if launcher is _SRUN:  # "4,5,6,7"
        num_local = environ[launcher.num_local].count(",") + 1
    else:
        num_local = _number(environ, launcher.num_local)
    local_id = _number(environ, launcher.local_id)
    if local_id >= num_local:
        raise LaunchError(
            f"{launcher.local_id}={local_id}: but there are {num_local} processes on this machine"
            f" ({launcher.num_local}={environ[launcher.num_local]})"
        )
    return num_local, local_id


def _coordinator(environ: Mapping[str, str], launcher: _Launcher | None) -> str | None:
    """host:port from the launcher's variables; None if they are not set."""
    if launcher is _TORCHRUN and {"MASTER_ADDR", "MASTER_PORT"} <= environ.keys():
        port = _number(environ, "MASTER_PORT")
        if environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":  # torchrun listens there itself
            port += 1
        return f"{environ['MASTER_ADDR']}:{port}"
    if launcher is _SRUN and {"SLURM_STEP_NODELIST", "SLURM_JOB_ID"} <= environ.keys():
        step = _number(environ, "SLURM_STEP_ID") if "SLURM_STEP_ID" in environ else 0
        port = _FIRST_PORT + (_number(environ, "SLURM_JOB_ID") + step) % _NUM_PORTS
        return f"{_first_host(environ['SLURM_STEP_NODELIST'])}:{port}"
    return None


def _first_host(nodes: str) -> str:
    """The first host of SLURM's list: "node[07-09,12]-ib,other3" gives "node07-ib"."""
    first = re.match(r"(?:\[[^]]*\]|[^,[])*", nodes)
    assert first
    return re.sub(r"\[([^],-]+)[^]]*\]", r"\1", first[0])


def _check_address(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) <= _LAST_PORT:
        raise LaunchError(f"--coordinator {address}: must be host:port")


def _own_gpus(
    environ: Mapping[str, str], num_local: int, local_id: int, count_gpus: Callable[[], int]
) -> list[int] | None:
    """The indices of this process's GPUs among those it sees; None for all."""
    if num_local == 1 or "JAX_LOCAL_DEVICE_IDS" in environ:  # JAX reads that one
        return None
    seen = count_gpus()
    if seen == 0:
        return None
    # SLURM_GPUS_ON_NODE counts the GPUs of all the step's tasks on this machine.
    of_step = _number(environ, "SLURM_GPUS_ON_NODE") if "SLURM_GPUS_ON_NODE" in environ else None
    # Fewer than there are: the launcher or a wrapper has bound GPUs to this process.
    is_bound = seen < (num_local if of_step is None else of_step)
    if of_step is not None and (seen * num_local > of_step if is_bound else seen < num_local):
        raise LaunchError(
            f"{num_local} processes on this machine have {of_step} GPUs (SLURM_GPUS_ON_NODE), and"
            f" each sees {seen}: start one process for each GPU, as by --gpus-per-task=1, or one"
            " process for all"
        )
    if is_bound:
        return None
    if seen % num_local:
        raise LaunchError(
            f"{num_local} processes on this machine cannot share {seen} GPUs evenly: start another"
            " number, or set JAX_LOCAL_DEVICE_IDS for each"
        )
    share = seen // num_local
    return list(range(local_id * share, (local_id + 1) * share))


def _number(environ: Mapping[str, str], name: str) -> int:
    if not environ[name].isdecimal():
        raise LaunchError(f"{name}={environ[name]}: must be a number")
    return int(environ[name])


def count_gpus() -> int:
    """The number of NVIDIA GPUs that JAX would see here. Allocates no memory on them."""
    platforms = jax.config.jax_platforms  # type: ignore[attr-defined]
    if platforms and not {"cuda", "gpu"} & set(platforms.split(",")):
        return 0
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def join(found: dict[str, Any], seconds: float = JOIN_SECONDS) -> None:
    """Waits for the other processes, with what `arguments` returned.

    If they do not join in time, prints an error line and exits with status 1: JAX's wait cannot be
    interrupted.
    """
    if found.get("process_id") == 0:
        _check_port_is_free(found["coordinator_address"])

    def give_up() -> None:
        sys.stderr.write(f"error: {_why_not_joined(found, seconds)}\n")
        sys.stderr.flush()
        os._exit(1)

    on_sigterm = signal.getsignal(signal.SIGTERM)
    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            **found, initialization_timeout=int(seconds) + _SECONDS_UNTIL_JAX_GIVES_UP
        )
    except Exception as error:  # of JAX, and of the packages by which it asks a cluster
        reason = " ".join(str(error).split())
        if found:
            raise LaunchError(f"the processes cannot be joined: {reason}") from None
        raise LaunchError(
            f"--distributed: JAX finds no cluster ({reason}); give --coordinator, --num_processes"
            " and --process_id"
        ) from None
    finally:
        timer.cancel()
    # JAX now catches SIGTERM for its preemption service, in C++: it would no longer end a process.
    signal.signal(signal.SIGTERM, on_sigterm)


def _check_port_is_free(address: str) -> None:
    # JAX would share the port with process 0 of another run, or abort.
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", int(address.rpartition(":")[2])))
        except OSError as error:
            raise LaunchError(
                f"--coordinator {address}: {error.strerror}; give another port"
            ) from None


def _why_not_joined(found: dict[str, Any], seconds: float) -> str:
    within = f"within {seconds:g} s (--join_timeout)"
    if not found:
        return f"the processes did not find one another {within}"
    address, total = found["coordinator_address"], found["num_processes"]
    this = f"process {found['process_id']} of {total}"
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except socket.gaierror as error:
        return f"{this}: the coordinator's host {host}: {error.strerror}"
    except OSError as error:
        return f"{this}: no process 0 at {address} {within}: {error.strerror or error}"
    return (
        f"{this}: not all {total} processes came to {address} {within}; each needs its own"
        f" --process_id, 0 to {total - 1}"
    )
