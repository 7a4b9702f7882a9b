"""train.py on drawn people: train, stop, resume, refuse; two processes."""

import json
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


@pytest.mark.slow
def test_a_run_leaves_what_it_promises(workdir):
    names = {path.name for path in workdir.iterdir()}
    assert {"checkpoints", "metrics.jsonl", "config.json"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    lines = metrics_of(workdir)
    losses = [line for line in lines if "loss" in line]
    assert [line["step"] for line in losses] == [2, 4, 6, 8, 10, 12]
    for line in losses:
        terms = [line[f"stage0_unit{unit}"] for unit in range(4)]
        assert sum(terms) == pytest.approx(line["loss"], rel=1e-5)
    assert losses[-1]["loss"] < losses[0]["loss"]
    assert [line["step"] for line in lines if "AP" in line][-1] == 12
    description, _, step = checkpoints.load(workdir)
    assert description.variant == "tiny" and description.crop_hw == (64, 64)
    assert step.parent == workdir / "checkpoints"


@pytest.mark.slow
def test_a_run_stopped_and_started_again_ends_in_the_very_same_numbers(workdir, config, tmp_path):
    arguments = ("--config", config, "--workdir", tmp_path)
    with start("train.py", *arguments) as process:
        for line in process.stderr:
            if line.startswith("step 4/"):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
    assert process.returncode == 128 + signal.SIGINT, rest
    assert "saved at step" in rest and "goes on from there" in rest
    again = run("train.py", *arguments, "--config.log_every_steps=4")
    assert again.returncode == 0, again.stderr
    assert "resuming at step" in again.stderr
    assert "config.log_every_steps was 2 when this run began, and is now 4" in again.stderr
    for mine, expected in zip(variables_at(tmp_path, 12), variables_at(workdir, 12), strict=True):
        np.testing.assert_array_equal(mine, expected)
    assert [m for m in metrics_of(tmp_path) if "AP" in m][-1] == (
        [m for m in metrics_of(workdir) if "AP" in m][-1]
    )
    finished = run("train.py", *arguments)
    assert finished.returncode == 0
    assert "has done its 12 steps" in finished.stderr


@pytest.mark.slow
def test_a_run_killed_without_warning_ends_in_the_very_same_numbers(workdir, config, new_workdir):
    arguments = ("--config", config, "--workdir", new_workdir)
    with start("train.py", *arguments) as process:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            steps = (new_workdir / "checkpoints").glob("[0-9]*")
            if any(path.name.isdecimal() for path in steps):
                break
            time.sleep(0.05)
        process.kill()
    again = run("train.py", *arguments)
    assert again.returncode == 0, again.stderr
    leaves = zip(variables_at(new_workdir, 12), variables_at(workdir, 12), strict=True)
    for mine, expected in leaves:
        np.testing.assert_array_equal(mine, expected)
    assert metrics_of(new_workdir) == metrics_of(workdir)


@pytest.mark.slow
def test_a_run_starts_from_another_ones_weights(workdir, config, tmp_path):
    arguments = ("--config", config, "--workdir", tmp_path, "--config.num_steps=1")
    both = run(
        "train.py",
        *arguments,
        f"--config.init.checkpoint={workdir}",
        "--config.init.from_torch=mspn.pth",
    )
    assert both.returncode == 1 and "one start at most" in both.stderr
    last = workdir / "checkpoints" / "12"
    done = run("train.py", *arguments, f"--config.init.checkpoint={last}")
    assert done.returncode == 0, done.stderr
    assert f"starting from {last}: an MSPN of" in done.stderr
    given, now = (
        jax.tree.leaves(checkpoints.load(step)[1]["params"])
        for step in (last, tmp_path / "checkpoints" / "1")
    )
    for mine, expected in zip(now, given, strict=True):  # one step at the warm-up's first rate
        np.testing.assert_allclose(mine, expected, atol=1e-5)


@pytest.mark.slow
def test_a_run_ends_when_ap_does_not_rise_and_reports_on_its_best(config, tmp_path):
    workdir = tmp_path / "run"
    arguments = ("--config", config, "--workdir", workdir, "--config.stop_after=1")
    begun = run("train.py", *arguments, "--config.num_steps=3", "--config.eval.every_epochs=0")
    assert begun.returncode == 0, begun.stderr
    evaluation = workdir / "checkpoints" / "3" / "evaluation.json"
    metrics = json.loads(evaluation.read_text())
    evaluation.write_text(json.dumps(metrics | {"AP": 0.99}))
    more = ("--config.num_steps=1000", "--config.eval.report=True")
    ended = run("train.py", *arguments, *more, "--config.eval.metrics=('PCK@0.2',)")
    assert ended.returncode == 0, ended.stderr
    assert "AP has not risen since step 3, for 1 evaluations" in ended.stderr
    assert "AP was best at step 3 of " in ended.stderr
    last = max(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdecimal())
    assert last < 100
    report = json.loads((workdir / "report" / "metrics.json").read_text())
    assert report["about"]["checkpoint"].endswith("step 3") and 0 <= report["PCK@0.2"] <= 1
    assert report["AP"] == pytest.approx(metrics["AP"], abs=1e-6)
    shutil.rmtree(workdir / "report")  # as if it had been stopped while it wrote this
    again = run("train.py", *arguments, *more)
    assert again.returncode == 0, again.stderr
    assert (workdir / "report" / "report.html").is_file()
    assert f"ended at step {last}" in again.stderr and f"step {last + 1}/" not in again.stderr


@pytest.mark.slow
def test_a_schedule_that_does_not_fit_the_run_is_told(config, tmp_path):
    def told(name, *flags):
        done = run("train.py", "--config", config, "--workdir", tmp_path / name, *flags)
        assert done.returncode == 0, done.stderr
        return done.stderr

    short = ("--config.num_steps=2", "--config.eval.every_epochs=0")
    long = told("long", *short, "--config.optimizer.warmup_steps=500")
    assert (
        "the warm-up is 500 steps (config.optimizer.warmup_steps), and the run ends at step 2"
        in (long)
    )
    flat = told("flat", *short, "--config.optimizer.warmup_steps=1")
    assert "the learning rate never falls" in flat
    fits = told("fits", *short, "--config.optimizer.schedule=cosine")
    assert "the learning rate" not in fits


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config.sead=1"], 'Did you mean "seed"'),
        (["--config.batch_size=many"], "invalid literal for int"),
        (["--config.data.root=nowhere"], "nowhere: no such folder"),
        (["--config.data.val_split=val2027"], "person_keypoints_val2027.json: no such"),
        (["--config.crop_hw=(60,64)"], "multiples of 32"),
        (["--config.skeleton=dog"], "no skeleton 'dog'"),
    ],
)
def test_what_cannot_be_trained_is_one_clear_line(config, tmp_path, arguments, message):
    done = run("train.py", "--config", config, "--workdir", tmp_path / "new", *arguments)
    assert message in error_of(done)
    assert not (tmp_path / "new" / "checkpoints").exists()


@pytest.mark.slow
def test_a_batch_that_does_not_divide_among_devices_is_refused(config, tmp_path):
    done = run("train.py", "--config", config, "--workdir", tmp_path, devices=3)
    assert done.returncode == 1
    assert "batch_size 8 does not divide among 3 devices" in done.stderr


@pytest.mark.slow
def test_a_workdir_of_another_variant_is_refused(workdir, config):
    done = run(
        "train.py", "--config", config, "--workdir", workdir, "--config.model.unit_channels=24"
    )
    assert done.returncode == 1 and "of another model" in done.stderr


def together(program: str, *arguments: object) -> list[subprocess.CompletedProcess]:
    """The same command as two processes that work as one."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [
        subprocess.Popen(
            command(
                program,
                *arguments,
                "--coordinator",
                f"localhost:{port}",
                "--num_processes",
                2,
                "--process_id",
                i,
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            cwd=HERE,
        )
        for i in range(2)
    ]
    outputs = [process.communicate(timeout=600) for process in processes]
    return [
        subprocess.CompletedProcess(p.args, p.returncode, *output)
        for p, output in zip(processes, outputs)
    ]


@pytest.mark.slow
def test_two_processes_are_as_one_with_two_devices(config, tmp_path):
    arguments = ("--config", config, "--config.num_steps=4", "--config.log_every_steps=1")
    alone = run("train.py", *arguments, "--workdir", tmp_path / "one", devices=2)
    assert alone.returncode == 0, alone.stderr
    for done in together("train.py", *arguments, "--workdir", tmp_path / "two"):
        assert done.returncode == 0, done.stderr
    losses = [
        [line["loss"] for line in metrics_of(tmp_path / workdir) if "loss" in line]
        for workdir in ("one", "two")
    ]
    assert len(losses[0]) == 4
    np.testing.assert_allclose(losses[0][0], losses[1][0], rtol=1e-6)
    np.testing.assert_allclose(*losses, rtol=1e-3)

    evaluate = ("eval.py", "--config", config, "--checkpoint", tmp_path / "two")
    alone = run(*evaluate, "--output", tmp_path / "e1")
    first, second = together(*evaluate, "--output", tmp_path / "e2")
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert first.stdout.count("Average") == 10 and "Average" not in second.stdout
    results = [
        json.loads((tmp_path / output / "keypoints_results.json").read_text())
        for output in ("e1", "e2")
    ]
    for one, two in zip(*results, strict=True):
        assert one["image_id"] == two["image_id"] and one["bbox"] == two["bbox"]
        np.testing.assert_allclose(one["score"], two["score"], rtol=1e-4)
