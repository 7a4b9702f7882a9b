"""Injects faults into training runs, and compares each run with an undisturbed one.

    python tests/stress/faults.py [--kills 20] [--steps 60] [--workdir DIR]

A tiny network trains on drawn people, once undisturbed, then with each of the faults. "same" means
that the final parameters, statistics, optimiser state and metrics are bit-identical.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import jax
import numpy as np

from mspn_jax.synthetic import people
from mspn_jax.weights import checkpoints

CONFIG = """
from mspn_jax.configs import default


def get_config():
    config = default.get_config("tiny", num_stages=1)
    config.crop_hw = (64, 64)
    config.model.blocks_per_unit = (1, 1, 1, 1)
    config.model.stem_channels = 8
    config.model.unit_channels = 16
    config.data.root = {root!r}
    config.batch_size = 8
    config.num_steps = {steps}
    config.ema_decay = 0.9
    config.eval.every_epochs = 2
    config.eval.batch_size = 16
    config.checkpoint.every_steps = 4
    config.log_every_steps = 2
    return config
"""


@dataclasses.dataclass
class Trial:
    """Runs of one config. `folder` holds data, config and workdirs."""

    folder: pathlib.Path
    steps: int

    def start(self, workdir: pathlib.Path, *arguments: str, **more) -> subprocess.Popen:
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            # Without this cache, compiling takes most of the time of a restart.
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        return subprocess.Popen(
            [
                sys.executable,
                str(ROOT / "train.py"),
                "--config",
                str(self.folder / "tiny.py"),
                "--workdir",
                str(workdir),
                *arguments,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment | more.pop("env", {}),
            **more,
        )

    def run(self, workdir: pathlib.Path, *arguments: str, **more) -> tuple[int, str]:
        """Returns the exit status and the output."""
        process = self.start(workdir, *arguments, **more)
        _, said = process.communicate()
        return process.returncode, said

    def is_like(self, workdir: pathlib.Path, expected: pathlib.Path) -> bool:
        """Whether two runs ended with bit-identical arrays and equal metrics."""
        sums = [
            (path / "checkpoints" / str(self.steps) / "checksums" / "metadata").read_text()
            for path in (workdir, expected)
        ]
        arrays = [
            jax.tree.leaves(checkpoints.load(path / "checkpoints" / str(self.steps))[1])
            for path in (workdir, expected)
        ]
        same = all(np.array_equal(a, b) for a, b in zip(*arrays, strict=True))
        return same and sums[0] == sums[1] and metrics_of(workdir) == metrics_of(expected)


def metrics_of(workdir: pathlib.Path) -> list[dict]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    timed = ("crops_per_second", "data_wait", "device_memory_gb")
    return [{k: v for k, v in line.items() if k not in timed} for line in lines]


def error_in(said: str) -> str:
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    if len(lines) != 1 or "Traceback" in said:
        return f"NOT ONE CLEAR LINE: {said[-300:]}"
    return lines[0]


def warning_in(said: str, words: str) -> str:
    return next((line for line in said.splitlines() if words in line), f"NOT SAID: {words}")


def many_kills(trial: Trial, expected: pathlib.Path, count: int, seconds: float) -> str:
    """Kills a run at random instants and resumes it each time; the last resumes to its end."""
    workdir, rng = trial.folder / "kills", random.Random(0)
    reached = []
    while len(reached) < count:
        process = trial.start(workdir)
        try:
            process.wait(rng.uniform(0.3, 1.3) * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
        steps = [int(p.name) for p in workdir.glob("checkpoints/*") if p.name.isdecimal()]
        reached.append(max(steps, default=0))
        if reached[-1] == trial.steps and len(reached) < count:  # the run has ended: start another
            if not trial.is_like(workdir, expected):
                return f"DIFFERENT after {len(reached)} kills at steps {reached}"
            shutil.rmtree(workdir)
    status, _ = trial.run(workdir)
    same = "same" if trial.is_like(workdir, expected) else "DIFFERENT"
    return f"{same}; status {status}; last saved steps at the kills: {reached}"


def signalled(trial: Trial, expected: pathlib.Path, number: int) -> str:
    workdir = trial.folder / signal.Signals(number).name
    process = trial.start(workdir)
    for line in process.stderr:
        if line.startswith("step 10/"):
            process.send_signal(number)
            sent = time.monotonic()
    process.wait()
    took = time.monotonic() - sent
    trial.run(workdir)
    same = "same" if trial.is_like(workdir, expected) else "DIFFERENT"
    return f"{same}; left with status {process.returncode} after {took:.1f} s"


def damaged_checkpoint(trial: Trial, expected: pathlib.Path) -> str:
    workdir = trial.folder / "damaged"
    trial.run(workdir, f"--config.num_steps={trial.steps // 2}")
    newest = workdir / "checkpoints" / str(trial.steps // 2)
    path = max(newest.rglob("d/*"), key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    _, said = trial.run(workdir)
    # The undisturbed run does not evaluate midway, so only its parameters are compared.
    arrays = [
        jax.tree.leaves(checkpoints.load(path / "checkpoints" / str(trial.steps))[1])
        for path in (workdir, expected)
    ]
    same = all(np.array_equal(a, b) for a, b in zip(*arrays, strict=True))
    return f"{'same' if same else 'DIFFERENT'}; {warning_in(said, 'going back')}"


def damaged_records(trial: Trial, expected: pathlib.Path) -> str:
    workdir, root = trial.folder / "records_run", trial.folder / "records_root"
    shutil.copytree(trial.folder / "data", root)
    at = f"--config.data.root={root}"
    trial.run(workdir, at, f"--config.num_steps={trial.steps // 2}")
    (path,) = root.glob("records/*/train2017*/*/*.array_record*")
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    status, said = trial.run(workdir, at)
    return f"status {status}: {error_in(said)}" if status else "not read, so not met"


class NotTried(Exception):
    """A fault that this user or machine cannot inject."""


@contextlib.contextmanager
def small_disk(mount: pathlib.Path, options: str) -> Iterator[pathlib.Path]:
    """Mounts a file system in memory on an empty folder."""
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(mount)]
    if subprocess.run(command, capture_output=True).returncode:
        raise NotTried("this user cannot mount a disk")
    try:
        yield mount
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def full_disk(trial: Trial, expected: pathlib.Path) -> str:
    with small_disk(trial.folder / "small_disk", "size=6m") as disk:
        status, said = trial.run(disk / "run")
        line = error_in(said)
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
        trial.run(disk / "run")
        same = "same" if trial.is_like(disk / "run", expected) else "DIFFERENT"
        return f"status {status}: {line}; with room again: {same}"


def read_only(trial: Trial, expected: pathlib.Path) -> str:
    with small_disk(trial.folder / "read_only", "size=1m,ro") as disk:
        status, said = trial.run(disk / "run")
        return f"status {status}: {error_in(said)}"


def clock_set_back(trial: Trial, expected: pathlib.Path) -> str:
    workdir, patch = trial.folder / "clock", trial.folder / "patch"
    patch.mkdir()
    (patch / "sitecustomize.py").write_text(
        "import time; now = time.time; time.time = lambda: now() - 365 * 86400"
    )
    process = trial.start(workdir)
    for line in process.stderr:
        if line.startswith("step 10/"):
            process.kill()
    process.wait()
    trial.run(workdir, env={"PYTHONPATH": f"{ROOT}:{patch}"})
    return "same" if trial.is_like(workdir, expected) else "DIFFERENT"


def two_trainers(trial: Trial, expected: pathlib.Path) -> str:
    workdir = trial.folder / "two"
    first = trial.start(workdir)
    for line in first.stderr:
        if line.startswith("step 2/"):
            break
    status, said = trial.run(workdir)
    first.communicate()
    same = "same" if trial.is_like(workdir, expected) else "DIFFERENT"
    return f"{same}; the second: status {status}: {error_in(said)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument(
        "--workdir", type=pathlib.Path, help="folder to keep; default: a temporary folder"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        trial = Trial(options.workdir or pathlib.Path(temporary), options.steps)
        root = trial.folder / "data"
        people.write_dataset(root, {"train2017": 40, "val2017": 12})
        config = CONFIG.format(root=str(root), steps=options.steps)
        (trial.folder / "tiny.py").write_text(config)

        expected = trial.folder / "undisturbed"
        trial.run(trial.folder / "first")  # builds the records, fills the compilation cache
        start = time.monotonic()
        status, _ = trial.run(expected)
        seconds = time.monotonic() - start
        print(f"undisturbed: {options.steps} steps, status {status}, {seconds:.1f} s\n")
        faults = {
            f"{options.kills} times SIGKILL": lambda *a: many_kills(*a, options.kills, seconds),
            "SIGTERM": lambda *a: signalled(*a, signal.SIGTERM),
            "Ctrl-C": lambda *a: signalled(*a, signal.SIGINT),
            "a bit flipped in the newest checkpoint": damaged_checkpoint,
            "a bit flipped in the records": damaged_records,
            "disk full": full_disk,
            "workdir read-only": read_only,
            "clock set back by a year": clock_set_back,
            "a second run in the workdir": two_trainers,
        }
        bad = 0
        for name, fault in faults.items():
            try:
                outcome = fault(trial, expected)
            except NotTried as reason:
                outcome = f"not tried: {reason}"
            outcome = re.sub(re.escape(str(trial.folder)), "...", outcome)
            bad += any(word in outcome for word in ("DIFFERENT", "NOT "))
            print(f"- {name}: {outcome}", flush=True)
        sys.exit(bad)


if __name__ == "__main__":
    main()
