"""Runs survive kills, signals, full and damaged disks, and a second run in the same workdir."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import time

import jax
import numpy as np
import pytest

from commands import HERE, command, environment, error_of, metrics_of, run, start, variables_at
from mspn_jax.weights import checkpoints

pytestmark = pytest.mark.slow


def read_until(process: subprocess.Popen, words: str) -> str:
    """What a run says, up to and including the line with these words."""
    said = ""
    for line in process.stderr:
        said += line
        if words in line:
            return said
    raise AssertionError(f"the run ended without {words!r}: {said}")


def assert_ends_like(workdir: pathlib.Path, expected: pathlib.Path) -> None:
    for mine, theirs in zip(variables_at(workdir, 12), variables_at(expected, 12), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert metrics_of(workdir) == metrics_of(expected)


def wait_for(pattern: str, folder: pathlib.Path, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not list(folder.glob(pattern)):
        assert time.monotonic() < deadline, f"no {pattern} in {folder}"
        time.sleep(0.001)


def test_killed_while_it_saves_and_while_it_evaluates(workdir, config, tmp_path):
    arguments = ("--config", config, "--workdir", tmp_path)
    with start("train.py", *arguments) as process:  # orbax writes under another name first
        wait_for("checkpoints/*orbax-checkpoint-tmp*", tmp_path)
        process.kill()
    with start("train.py", *arguments) as process:  # a step is saved before it is evaluated
        wait_for("checkpoints/9", tmp_path)
        process.kill()
    again = run("train.py", *arguments)
    assert again.returncode == 0, again.stderr
    assert_ends_like(tmp_path, workdir)


def test_a_signal_during_an_evaluation_leaves_it_for_the_next_start(workdir, config, tmp_path):
    arguments = ("--config", config, "--workdir", tmp_path, "--config.eval.batch_size=1")
    with start("train.py", *arguments) as process:
        wait_for("checkpoints/9", tmp_path)  # it is saved first, and every box is a batch
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
    assert process.returncode == 128 + signal.SIGTERM, rest
    assert "left the evaluation; the same command begins it again" in rest
    assert not (tmp_path / "checkpoints" / "9" / "evaluation.json").exists()
    again = run("train.py", *arguments)
    assert again.returncode == 0 and "resuming at step 9" in again.stderr, again.stderr
    assert (tmp_path / "checkpoints" / "9" / "evaluation.json").exists()
    for mine, theirs in zip(variables_at(tmp_path, 12), variables_at(workdir, 12), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    evaluated = [
        [line["step"] for line in metrics_of(folder) if "AP" in line]
        for folder in (tmp_path, workdir)
    ]
    assert evaluated[0] == evaluated[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_schedulers_signal_saves_and_leaves_with_a_status_of_its_own(
    workdir, config, tmp_path, number
):
    arguments = ("--config", config, "--workdir", tmp_path)
    with start("train.py", *arguments) as process:
        read_until(process, "step 2/")
        process.send_signal(number)
        rest = process.stderr.read()
    assert process.returncode == 128 + number, rest
    (saved,) = re.findall(r"saved at step (\d+)", rest)
    assert (tmp_path / "checkpoints" / saved).is_dir()
    again = run("train.py", *arguments)
    assert f"resuming at step {saved}" in again.stderr
    assert_ends_like(tmp_path, workdir)


def test_one_processs_signal_stops_all_at_the_same_step(config, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [
        start(
            "train.py",
            "--config",
            config,
            "--workdir",
            tmp_path,
            "--config.num_steps=400",
            "--coordinator",
            f"localhost:{port}",
            "--num_processes",
            2,
            "--process_id",
            i,
        )
        for i in range(2)
    ]
    first, second = processes
    read_until(first, "step 2/")
    second.send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [143, 143], said
    (step,) = re.findall(r"saved at step (\d+)", said[0])
    assert 2 < int(step) < 400
    checkpoints.load(tmp_path / "checkpoints" / step)


def test_a_second_run_in_a_workdir_is_refused(config, tmp_path):
    arguments = ("--config", config, "--workdir", tmp_path)
    with start("train.py", *arguments, "--config.num_steps=1000") as process:
        read_until(process, "step 2/")
        second = run("train.py", *arguments)
        assert process.poll() is None
        process.kill()
    assert second.returncode == 1
    assert f"another run is at work in it (process {process.pid} on" in second.stderr


@pytest.mark.parametrize(
    ("changed", "began", "remedy"),
    [
        ("batch_size=4", "began with batch_size 8", "accumulate"),
        ("crop_hw=(96,64)", "began with crop_hw [64, 64]", "another --workdir"),
    ],
)
def test_a_run_cannot_continue_with(changed, began, remedy, workdir, config):
    before = (workdir / "config.json").read_text()
    done = run("train.py", "--config", config, "--workdir", workdir, f"--config.{changed}")
    assert done.returncode == 1
    assert began in done.stderr and remedy in done.stderr
    assert (workdir / "config.json").read_text() == before


@pytest.mark.parametrize("content", ["[]", '{"batch_size": 8', "\xff"])
def test_a_damaged_config_json_is_one_clear_line(workdir, config, tmp_path, content):
    shutil.copytree(workdir, tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text(content, encoding="latin-1")
    done = run("train.py", "--config", config, "--workdir", tmp_path / "run")
    line = error_of(done)
    assert f"{tmp_path}/run/config.json: damaged (" in line and "If it was 8, delete" in line


def test_a_run_that_diverges_is_ended_and_its_checkpoint_kept(config, tmp_path):
    done = run(
        "train.py",
        "--config",
        config,
        "--workdir",
        tmp_path,
        "--config.num_steps=200",
        "--config.optimizer.learning_rate=1e25",
        "--config.max_skipped_in_a_row=4",
        "--config.checkpoint.every_steps=1",
    )
    assert "skipped (4 in a row" in done.stderr
    assert "no finite loss and gradients for 4 steps in a row" in error_of(done)
    for leaf in jax.tree.leaves(checkpoints.load(tmp_path)[1]["params"]):
        assert np.isfinite(leaf).all()


def test_averages_and_accumulation_resume_to_the_very_same_numbers(config, tmp_path):
    settings = (
        "--config.ema_decay=0.9",
        "--config.accumulate=2",
        "--config.clip_norm=10.0",
        "--config.remat=True",
    )
    for workdir, num_steps in (("whole", 12), ("parts", 5), ("parts", 12)):
        last = f"--config.num_steps={num_steps}"
        done = run("train.py", "--config", config, "--workdir", tmp_path / workdir, *settings, last)
        assert done.returncode == 0, done.stderr
    for mine, theirs in zip(
        *(variables_at(tmp_path / workdir, 12) for workdir in ("whole", "parts")), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)
    done = run(
        "train.py", "--config", config, "--workdir", tmp_path / "parts", "--config.num_steps=13"
    )
    assert done.returncode == 1 and "trained with other settings" in done.stderr


def test_a_checkpoint_goes_on_with_more_and_with_fewer_devices(workdir, config, tmp_path):
    for before, after in ((4, 1), (1, 4)):
        arguments = (
            "--config",
            config,
            "--workdir",
            tmp_path / str(before),
            "--config.sync_batch_norm=True",
        )
        done = run("train.py", *arguments, "--config.num_steps=6", devices=before)
        assert done.returncode == 0, done.stderr
        done = run("train.py", *arguments, devices=after)
        assert done.returncode == 0, done.stderr
        assert "resuming at step 6" in done.stderr and f"on {after} " in done.stderr
    losses = [
        [line["loss"] for line in metrics_of(tmp_path / before) if "loss" in line]
        for before in ("4", "1")
    ]
    np.testing.assert_allclose(*losses, rtol=0.05)


def test_damaged_records_are_named(config, root, tmp_path):
    copy = tmp_path / "root"
    shutil.copytree(root, copy)
    arguments = ("--config", config, "--workdir", tmp_path / "run", f"--config.data.root={copy}")
    done = run("train.py", *arguments, "--config.num_steps=3")
    assert done.returncode == 0, done.stderr
    (path,) = copy.glob("records/*/train2017*/*/*.array_record*")
    content = bytearray(path.read_bytes())
    content[len(content) // 3 :: 4096] = b"x" * len(content[len(content) // 3 :: 4096])
    path.write_bytes(content)
    done = run("train.py", *arguments)
    line = error_of(done)
    assert str(path.parent) in line and "delete" in line
    shutil.rmtree(path.parent)
    done = run("train.py", *arguments)
    assert done.returncode == 0 and "resuming at step 3" in done.stderr


def test_a_trace_and_samples_are_written(config, tmp_path):
    done = run("train.py", "--config", config, "--workdir", tmp_path, "--profile")
    assert done.returncode == 0, done.stderr
    assert "the trace of steps 6 to 10" in done.stderr
    assert list(tmp_path.glob("plugins/profile/*/*.xplane.pb"))
    (events,) = tmp_path.glob("events.out.tfevents.*")
    assert b"samples" in events.read_bytes() and b"\x89PNG" in events.read_bytes()


def test_a_clock_that_goes_back_is_no_matter(workdir, config, tmp_path):
    """Between two parts of a run it is set back by a year."""
    patch = tmp_path / "patch"
    patch.mkdir()
    (patch / "sitecustomize.py").write_text(
        "import time; now = time.time; time.time = lambda: now() - 365 * 86400"
    )
    arguments = ("--config", config, "--workdir", tmp_path / "run")
    done = run("train.py", *arguments, "--config.num_steps=6")
    assert done.returncode == 0, done.stderr
    early = subprocess.run(
        command("train.py", *arguments),
        capture_output=True,
        text=True,
        cwd=HERE,
        env=environment() | {"PYTHONPATH": os.pathsep.join([str(HERE), str(patch)])},
    )
    assert early.returncode == 0, early.stderr
    for mine, theirs in zip(
        variables_at(tmp_path / "run", 12), variables_at(workdir, 12), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["num_steps"] == 12
