"""Processes that join one run on this machine, and their errors."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys

import pytest

from commands import HERE, environment, run

# A command that runs as several processes and does what its flag says.
COMMAND = """
import os, signal
import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils
from mspn_jax.commands import program
from mspn_jax.errors import UsageError

DO = flags.DEFINE_enum("do", "nothing", ["nothing", "sigterm", "error"], "")

def main():
    together = multihost_utils.process_allgather(np.array(jax.process_index()))
    print(jax.process_index(), jax.process_count(), together.tolist(), flush=True)
    if DO.value == "sigterm":
        os.kill(os.getpid(), signal.SIGTERM)
    if DO.value == "error" and jax.process_index() == 1:
        raise UsageError("of one process")
    while DO.value == "error":
        multihost_utils.process_allgather(np.array(0))

program.run(main, several_processes=True)
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("launch") / "command.py"
    path.write_text(COMMAND)
    return path


def processes(
    command: pathlib.Path, *arguments: object, environ: dict | None = None, numbers=(0, 1)
) -> list[subprocess.CompletedProcess]:
    """The command as processes of these numbers. Each replaces # in its arguments and variables."""
    environ = {"JAX_PLATFORMS": "cpu"} | (environ or {})
    started = [
        subprocess.Popen(
            [sys.executable, command, *(str(a).replace("#", str(i)) for a in arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=HERE,
            env=environment() | {k: v.replace("#", str(i)) for k, v in environ.items()},
        )
        for i in numbers
    ]
    try:
        outputs = [process.communicate(timeout=60) for process in started]
    finally:
        for process in started:
            process.kill()
    return [
        subprocess.CompletedProcess(p.args, p.returncode, *output)
        for p, output in zip(started, outputs)
    ]


def used_port() -> int:
    """A free port with a connection left from before, as when a run is restarted."""
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("localhost", port)):
            server.accept()[0].close()
    return port


def flags(port: int) -> tuple[str, ...]:
    return f"--coordinator=localhost:{port}", "--num_processes=2", "--process_id=#"


LAUNCHED = {
    "flags": {},
    "srun": {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_PROCID": "#",
        "SLURM_LOCALID": "#",
        "SLURM_GTIDS": "0,1",
    },
    "torchrun": {
        "WORLD_SIZE": "2",
        "RANK": "#",
        "LOCAL_WORLD_SIZE": "2",
        "LOCAL_RANK": "#",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "PORT",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    },
    "mpirun": {
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": "#",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
        "OMPI_COMM_WORLD_LOCAL_RANK": "#",
        "JAX_COORDINATOR_ADDRESS": "localhost:PORT",
    },
}


@pytest.mark.parametrize("launcher", LAUNCHED)
def test_two_processes_find_each_other(command, launcher):
    port = used_port()
    given = flags(port) if launcher == "flags" else ("--distributed",)
    environ = {k: v.replace("PORT", str(port)) for k, v in LAUNCHED[launcher].items()}
    with contextlib.ExitStack() as stack:
        if launcher == "torchrun":
            stack.enter_context(socket.create_server(("localhost", port)))
        for i, done in enumerate(processes(command, *given, environ=environ)):
            assert done.returncode == 0, done.stderr
            assert done.stdout.splitlines()[-1] == f"{i} 2 [0, 1]"


def assert_one_line(done: subprocess.CompletedProcess, start: str) -> None:
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {start}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (0, "process 0 of 2: not all 2 processes came to localhost:{port} within 2 s"),
        (1, "process 1 of 2: no process 0 at localhost:{port} within 2 s (--join_timeout): "),
    ],
)
def test_a_process_without_the_other_gives_up(command, number, message):
    port = used_port()
    (done,) = processes(command, *flags(port), "--join_timeout=2", numbers=[number])
    assert_one_line(done, message.format(port=port))


def test_a_coordinator_whose_name_is_not_known(command):
    arguments = ("--coordinator=no-such-host.invalid:1", "--num_processes=2", "--process_id=1")
    (done,) = processes(command, *arguments, "--join_timeout=2", numbers=[1])
    assert_one_line(done, "process 1 of 2: the coordinator's host no-such-host.invalid: ")


def test_a_port_in_use_is_refused(command):
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        (done,) = processes(command, *flags(port), numbers=[0])
    assert_one_line(done, f"--coordinator localhost:{port}: Address already in use; give another")


def test_no_cluster_at_all(command):
    (done,) = processes(command, "--distributed", numbers=[0], environ={"TPU_SKIP_MDS_QUERY": "1"})
    assert_one_line(done, "--distributed: JAX finds no cluster (")


def test_sigterm_still_ends_a_process(command):
    for done in processes(command, *flags(used_port()), "--do=sigterm"):
        assert done.returncode == 128 + 15 and done.stderr.endswith("SIGTERM: stopped\n")


@pytest.mark.slow
def test_an_error_in_one_process_ends_all(command):
    """Otherwise JAX waits 300 s for the others, and they wait for it in their step."""
    first, second = processes(command, *flags(used_port()), "--do=error")
    assert second.returncode == 1
    assert "error: of one process\n" in second.stderr
    assert first.returncode != 0


@pytest.mark.parametrize("program", ["train.py", "eval.py"])
def test_the_flags_are_in_the_help_of_what_runs_as_several_processes(program):
    done = run(program, "--help")
    assert done.returncode == 0
    for flag in ("coordinator", "num_processes", "process_id", "[no]distributed", "join_timeout"):
        assert f"  --{flag}: " in done.stdout
    assert "  --config: " in done.stdout and "python " + program in done.stdout


def test_what_runs_as_one_process_refuses_them(tmp_path):
    assert "--coordinator" not in run("convert.py", "--help").stdout
    done = run("convert.py", "--source", "x", "--output", tmp_path / "y", "--num_processes", 2)
    assert done.returncode == 1
    assert done.stderr == (
        "error: this command runs as one process; train.py and eval.py run as several\n"
    )
