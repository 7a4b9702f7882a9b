"""Runs commands as users type them, each in its own process."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import jax
import numpy as np

from mspn_jax.storage import files, paths
from mspn_jax.weights import checkpoints

HERE = pathlib.Path(__file__).parents[1]
CONFIG = """
from mspn_jax.configs import default


def get_config():
    config = default.get_config("tiny", num_stages=1)
    config.crop_hw = (64, 64)
    config.model.blocks_per_unit = (1, 1, 1, 1)
    config.model.stem_channels = 8
    config.model.unit_channels = 16
    config.data.root = "ROOT"
    config.batch_size = 8
    config.num_steps = 12
    config.optimizer.learning_rate = 0.1
    config.optimizer.warmup_steps = 3
    config.eval.every_epochs = 1
    config.eval.batch_size = 16
    config.checkpoint.every_steps = 3
    config.log_every_steps = 2
    return config
"""

TINY = (  # flags for the network of CONFIG
    "--config.model.blocks_per_unit=(1,1,1,1)",
    "--config.model.stem_channels=8",
    "--config.model.unit_channels=16",
)


def shown_in(page: str, section: str) -> list[list[str]]:
    """Returns the words after `mspn` of each command in a section's first block of shell."""
    text = (HERE / "docs" / page).read_text().partition(f"\n## {section}\n")[2]
    block = re.search(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert block, f"{page} has no commands in {section!r}"
    lines = block[1].replace("\\\n", " ").splitlines()
    commands = list(filter(None, (shlex.split(line, comments=True) for line in lines)))
    assert {words[0] for words in commands} == {"mspn"}
    return [words[1:] for words in commands]


def command(program: str, *arguments: object) -> list[str]:
    """Returns the command line. `program` is a file of the checkout or a module."""
    path = [str(HERE / program)] if program.endswith(".py") else ["-m", program]
    return [sys.executable, *path, *map(str, arguments)]


def environment(devices: int = 1) -> dict[str, str]:
    """Returns the environment of a process with virtual devices."""
    return os.environ | {
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": str(HERE),
    }


def run(program: str, *arguments: object, devices: int = 1) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(program, *arguments),
        capture_output=True,
        text=True,
        env=environment(devices),
        cwd=HERE,
    )


def start(program: str, *arguments: object, devices: int = 1) -> subprocess.Popen:
    """Starts a command. Its log can be read from `stderr`."""
    return subprocess.Popen(
        command(program, *arguments),
        stderr=subprocess.PIPE,
        text=True,
        env=environment(devices),
        cwd=HERE,
    )


def error_of(done: subprocess.CompletedProcess) -> str:
    """Returns the one line that says why a command failed."""
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return line


# A fork has JAX imported, and no other program's flags.
_FORKS = """
import contextlib, io, json, multiprocessing, os, runpy, sys
import jax, mspn_jax.training

def outcome(words):
    out, said = io.StringIO(), io.StringIO()
    status = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
        try:
            if words[0] == "-m":
                sys.argv = words[1:]
                runpy.run_module(words[1], run_name="__main__", alter_sys=True)
            else:
                sys.argv = words
                sys.path.insert(0, os.path.dirname(words[0]))
                runpy.run_path(words[0], run_name="__main__")
        except SystemExit as end:
            status = end.code
            if isinstance(status, str):
                print(status, file=said)
                status = 1
    return status or 0, out.getvalue(), said.getvalue()

with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
    print(json.dumps(pool.map(outcome, json.load(sys.stdin), chunksize=1)))
"""


def run_all(programs: list[tuple[str, ...]]) -> list[subprocess.CompletedProcess]:
    """Runs short commands, each a file or ("-m", module) with its arguments, in forks."""
    done = subprocess.run(
        [sys.executable, "-c", _FORKS],
        input=json.dumps(programs),
        capture_output=True,
        text=True,
        env=environment(),
        cwd=HERE,
    )
    assert done.returncode == 0, done.stderr
    outcomes = zip(programs, json.loads(done.stdout), strict=True)
    return [subprocess.CompletedProcess(words, *outcome) for words, outcome in outcomes]


def help_of(programs: list[tuple[str, ...]]) -> list[str]:
    """Returns what each program, a file or ("-m", module, ...), prints with --help."""
    done = run_all([(*words, "--help") for words in programs])
    assert {each.returncode for each in done} == {0}, done
    return [each.stdout for each in done]


def metrics_of(workdir: paths.Path) -> list[dict]:
    """Returns the lines of `metrics.jsonl` without timings, which differ between runs."""
    lines = [json.loads(line) for line in files.read_text(workdir / "metrics.jsonl").splitlines()]
    for line in lines:
        line.pop("crops_per_second", None)
        line.pop("data_wait", None)
    return lines


def variables_at(workdir: paths.Path, step: int) -> list[np.ndarray]:
    return jax.tree.leaves(checkpoints.load(workdir / "checkpoints" / str(step))[1])
