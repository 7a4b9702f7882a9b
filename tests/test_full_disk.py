"""Every command on a full disk: one line with the file's name, nothing half-written, no hang."""

import pathlib
import shutil
import subprocess

import numpy as np
import pytest
import small_disk
import tool_exports as tools
from imported import SHOTS
from test_pictures import write_video

from commands import HERE, command, environment, error_of, metrics_of, variables_at

pytestmark = pytest.mark.slow
SECONDS = 240


@pytest.fixture
def disk(tmp_path) -> pathlib.Path:
    """A disk of 2 MB."""
    try:
        with small_disk.mounted(tmp_path / "disk", "size=2m") as folder:
            yield folder
    except small_disk.CannotMount as reason:
        pytest.skip(str(reason))


def fill(disk: pathlib.Path, free: int) -> None:
    """Leaves so many bytes free."""
    with open(disk / "other", "wb", buffering=0) as file:
        file.write(bytes(shutil.disk_usage(disk).free - free))


def run(program: str, *arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(program, *arguments),
        capture_output=True,
        text=True,
        env=environment(),
        cwd=HERE,
        timeout=SECONDS,
    )


def names_in(folder: pathlib.Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_training_ends_with_a_line_and_goes_on_when_there_is_room(workdir, config, disk):
    arguments = ("--config", config, "--workdir", disk / "run")
    done = run("train.py", *arguments)
    line = error_of(done)
    assert f"{disk}/run/checkpoints: step " in line and "no space left on the disk" in line
    assert "the same command " in line
    assert not list((disk / "run" / "checkpoints").glob("*tmp*"))
    small_disk.resize(disk, "100m")
    again = run("train.py", *arguments)
    assert again.returncode == 0, again.stderr
    for mine, theirs in zip(variables_at(disk / "run", 12), variables_at(workdir, 12), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert metrics_of(disk / "run") == metrics_of(workdir)


def test_a_log_that_cannot_be_written_stops_nothing(config, disk, tmp_path):
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    fill(disk, 0)
    (run_folder / "metrics.jsonl").symlink_to(disk / "metrics.jsonl")
    done = run("train.py", "--config", config, "--workdir", run_folder, "--config.num_steps=4")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("metrics.jsonl: cannot be written (No space left on device)") == 1


def test_records(config, root, disk, tmp_path):
    fill(disk, 100_000)
    arguments = ("--config", config, "--workdir", tmp_path / "run")
    done = run("train.py", *arguments, f"--config.data.records_dir={disk}")
    assert f"{disk}: " in error_of(done) and "make room or name another place" in error_of(done)
    assert names_in(disk) <= {"other"} | {path for path in names_in(disk) if path.endswith(".lock")}


def test_import_and_split(disk, tmp_path):
    root = tools.cvat(tmp_path / "task", SHOTS[:4])
    fill(disk, 8192)
    done = run("mspn_jax", "import", root, "--output", disk / "new", "--copy")
    line = error_of(done)
    assert f"error: {disk}/new: " in line and "No space left on device" in line
    assert names_in(disk) == {"other"}
    small_disk.resize(disk, "10m")
    done = run("mspn_jax", "import", root, "--output", disk / "new", "--copy")
    assert done.returncode == 0, done.stderr
    fill_again = disk / "more"
    fill_again.write_bytes(bytes(shutil.disk_usage(disk).free))
    before = names_in(disk)
    line = error_of(run("mspn_jax", "split", disk / "new"))
    assert "person_keypoints_train.json: No space left on device; make room" in line
    assert names_in(disk) == before


def test_check(config, disk):
    fill(disk, 0)
    done = run("mspn_jax", "check", "--config", config, "--output", disk)
    assert f"error: {disk}/check_train2017.json: No space left on device" in error_of(done)
    assert names_in(disk) == {"other"}


@pytest.mark.parametrize(
    "flag, name", [("output", "keypoints_results.json"), ("report", "metrics.json")]
)
def test_evaluation(workdir, config, disk, flag, name):
    fill(disk, 0)
    done = run("eval.py", "--config", config, "--checkpoint", workdir, f"--{flag}={disk}")
    assert error_of(done) == (
        f"error: {disk}/{name}: No space left on device; make room, and run the same command again"
    )
    assert names_in(disk) == {"other"}


def test_browse(config, disk):
    fill(disk, 0)
    done = run("browse.py", "--config", config, "--output", disk, "--people", 4)
    assert f"error: {disk}/browse." in error_of(done) and "No space left" in error_of(done)
    assert names_in(disk) == {"other"}


def test_export(workdir, disk):
    fill(disk, 0)
    output = disk / "model.stablehlo"
    done = run("export.py", "--checkpoint", workdir, "--format=stablehlo", "--output", output)
    assert f"error: {output}: No space left on device" in error_of(done)
    assert names_in(disk) == {"other"}


@pytest.mark.parametrize("free, to", [(0, "checkpoint"), (200_000, "checkpoint"), (0, "torch")])
def test_convert(workdir, disk, free, to):
    fill(disk, free)
    done = run("convert.py", "--source", workdir, "--output", disk / "new", "--to", to)
    assert f"error: {disk}/new: cannot be written: No space left on device" in error_of(done)
    assert names_in(disk) == {"other"}


@pytest.mark.parametrize("free, kept", [(0, set()), (16384, {"keypoints.json", "keypoints.csv"})])
def test_predict(workdir, root, disk, free, kept):
    fill(disk, free)
    source = root / "val2017"
    done = run("predict.py", source, "--checkpoint", workdir, "--output", disk, "--whole_picture")
    line = error_of(done)
    assert f"error: {disk}/" in line and "No space left on device" in line
    pictures = {name for name in names_in(disk) if name.endswith(".jpg")}
    assert names_in(disk) - pictures == {"other"} | kept


def test_predict_of_a_video(workdir, disk, tmp_path):
    write_video(tmp_path / "walk.avi", 9)
    fill(disk, 12288)
    source = tmp_path / "walk.avi"
    done = run("predict.py", source, "--checkpoint", workdir, "--output", disk, "--whole_picture")
    assert f"error: {disk}/" in error_of(done) and "make room" in error_of(done)
    assert names_in(disk) <= {"other", "keypoints.json", "keypoints.csv"}
