"""Data, checkpoints and whole commands in a bucket."""

import json
import logging
import pathlib
import subprocess
import threading
import time

import jax
import numpy as np
import pytest
from test_checkpoints import DESCRIPTION

from commands import error_of, metrics_of, run, start, variables_at
from mspn_jax.data import records
from mspn_jax.errors import CheckpointError, DamagedCheckpointError, DataError, StorageError
from mspn_jax.skeletons import COCO
from mspn_jax.storage import files, paths
from mspn_jax.variables import initial_variables
from mspn_jax.weights import checkpoints


def upload_folder(local: pathlib.Path, folder) -> None:
    for path in local.rglob("*"):
        if path.is_file():
            paths.upload(folder / path.relative_to(local).as_posix(), path.read_bytes())


def same_records(mine, expected) -> None:
    np.testing.assert_array_equal(mine.image_ids, expected.image_ids)
    np.testing.assert_array_equal(mine.people.boxes_xyxy, expected.people.boxes_xyxy)
    assert len(mine.source) == len(expected.source)
    for i in range(len(mine.source)):
        assert mine.source[i]["image"] == expected.source[i]["image"]


def test_records_are_made_of_a_root_in_a_bucket_and_kept_in_one(
    bucket, buckets, drawn_copy, tmp_path, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    upload_folder(drawn_copy, bucket / "coco")
    expected = records.open_records(root=drawn_copy, split="train2017", skeleton=COCO)
    arguments = {
        "root": bucket / "coco",
        "split": "train2017",
        "skeleton": COCO,
        "records_dir": bucket / "records",
    }
    same_records(records.open_records(**arguments), expected)
    (last,) = [name for name in buckets.objects(bucket / "records") if records.WHOLE in name]
    buckets.reads()

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another_host"))
    caplog.clear()
    same_records(records.open_records(**arguments), expected)
    assert "making records" not in caplog.text
    assert not [name for name in buckets.reads() if name.endswith("jpg")]

    # An incomplete copy is made and sent again.
    del buckets.buckets[bucket.name][f"records/{last}"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "third_host"))
    same_records(records.open_records(**arguments), expected)
    assert "making records" in caplog.text and last in buckets.objects(bucket / "records")


def test_a_root_in_a_bucket_is_refused_as_one_on_a_disk(bucket, buckets, drawn_copy):
    with pytest.raises(DataError, match=r"gs://.*/coco: no such folder"):
        records.open_records(root=bucket / "coco", split="train2017", skeleton=COCO)
    upload_folder(drawn_copy / "annotations", bucket / "coco" / "annotations")
    with pytest.raises(DataError, match=r"gs://.*/coco/train2017: no such folder of pictures"):
        records.open_records(root=bucket / "coco", split="train2017", skeleton=COCO)
    buckets.refuse = lambda *request: 403
    with pytest.raises(StorageError, match="refuses access"):
        records.open_records(root=bucket / "coco", split="train2017", skeleton=COCO)


def test_weights_are_kept_in_a_bucket(bucket, buckets):
    variables = initial_variables(DESCRIPTION.new_model(), 0, (64, 64))
    checkpoints.save_variables(bucket / "weights", DESCRIPTION, variables)
    description, loaded, step = checkpoints.load(bucket / "weights")
    assert description == DESCRIPTION and str(step) == f"{bucket}/weights/0"
    for mine, expected in zip(*map(jax.tree.leaves, (loaded, variables)), strict=True):
        np.testing.assert_array_equal(mine, expected)

    # A step without the object that is written last does not count.
    found = buckets.objects(bucket / "weights")
    mark = buckets.buckets[bucket.name].pop("weights/0/commit_success.txt")
    with pytest.raises(CheckpointError, match="no checkpoint was saved there yet"):
        checkpoints.load(bucket / "weights")
    buckets.buckets[bucket.name]["weights/0/commit_success.txt"] = mark

    # A bucket that refuses access or does not answer is not damage.
    largest = max((name for name in found if "/d/" in name), key=lambda n: len(found[n].data))
    buckets.refuse = lambda method, path, query: 403 if path.endswith(largest) else None
    with pytest.raises(StorageError, match="refuses access"):
        checkpoints.load(bucket / "weights")
    buckets.refuse = lambda *request: None
    content = bytearray(found[largest].data)
    content[len(content) // 2] ^= 1
    found[largest].data = bytes(content)
    with pytest.raises(DamagedCheckpointError, match=r"weights/0: damaged"):
        checkpoints.load(bucket / "weights")


# Whole commands


def assert_ends_like(run_in_bucket, expected: pathlib.Path) -> None:
    leaves = zip(variables_at(run_in_bucket, 12), variables_at(expected, 12), strict=True)
    for mine, theirs in leaves:
        np.testing.assert_array_equal(mine, theirs)
    assert metrics_of(run_in_bucket) == metrics_of(expected)


@pytest.mark.slow
def test_a_run_killed_while_it_saves_and_then_damaged_ends_in_the_very_same_numbers(
    workdir, config, root, bucket, buckets
):
    for folder in ("annotations", "train2017", "val2017"):
        upload_folder(root / folder, bucket / "coco" / folder)
    arguments = (
        "--config",
        config,
        "--workdir",
        bucket / "run",
        f"--config.data.root={bucket}/coco",
    )
    with start("train.py", *arguments) as process:

        def kill(method: str, path: str, query: dict) -> None:
            if query.get("name", "").startswith("run/checkpoints/9/training"):
                process.kill()

        buckets.refuse = kill
        process.stderr.read()
    buckets.refuse = lambda *request: None
    found = buckets.objects(bucket / "run")
    assert ".lease" in found and any(name.startswith("checkpoints/9/") for name in found)
    assert "checkpoints/9/commit_success.txt" not in found
    assert checkpoints.find(bucket / "run")[0].name == "6"

    damaged = found["checkpoints/6/checksums/metadata"]
    damaged.data = damaged.data.replace(b": 1", b": 2", 1)
    again = run("train.py", *arguments)
    assert again.returncode == 0, again.stderr
    assert "checkpoints/6: damaged" in again.stderr and "resuming at step 3" in again.stderr
    found = buckets.objects(bucket / "run")
    assert "damaged-6/checksums/metadata" in found and ".lease" not in found
    assert any(name.startswith("events.out.tfevents") for name in found)
    assert json.loads(found["config.json"].data)["num_steps"] == 12
    evaluation = json.loads(found["checkpoints/12/evaluation.json"].data)
    assert evaluation == checkpoints.metrics_of(workdir / "checkpoints" / "12")
    assert_ends_like(bucket / "run", workdir)


@pytest.mark.slow
def test_a_second_run_is_refused_and_a_bucket_that_goes_away_leaves_what_was_saved(
    workdir, config, bucket, buckets
):
    arguments = ("--config", config, "--workdir", bucket / "run")
    stays, stopped = threading.Event(), threading.Event()

    def away(method: str, path: str, query: dict) -> int | None:
        """At step 6 the run waits for the second one; after that the bucket can only be read."""
        if query.get("name", "").startswith("run/checkpoints/6/"):
            stopped.set()
            stays.wait(120)
        return 403 if stays.is_set() and method != "GET" else None

    buckets.refuse = away
    with start("train.py", *arguments) as process:
        assert stopped.wait(120)
        second = run("train.py", *arguments)
        assert f"another run is at work in it (process {process.pid} on" in error_of(second)
        stays.set()
        said = process.stderr.read()
    ended = subprocess.CompletedProcess(arguments, process.returncode, stderr=said)
    assert "refuses access" in error_of(ended) and "the last whole one is step 3" in said
    buckets.refuse = lambda *request: None
    again = run("train.py", *arguments)
    assert again.returncode == 0 and "resuming at step 3" in again.stderr, again.stderr
    assert_ends_like(bucket / "run", workdir)


@pytest.mark.slow
def test_the_other_commands_read_and_write_a_bucket(workdir, config, root, bucket, buckets):
    weights = bucket / "weights"
    done = run("convert.py", "--source", workdir, "--output", weights)
    assert done.returncode == 0, done.stderr
    again = run("convert.py", "--source", workdir, "--output", weights)
    assert "exists; give another" in error_of(again)

    done = run(
        "eval.py",
        "--config",
        config,
        "--checkpoint",
        weights,
        "--output",
        bucket / "eval",
        "--report",
        bucket / "page",
        "--pictures",
        3,
    )
    assert done.returncode == 0, done.stderr
    expected = checkpoints.metrics_of(checkpoints.find(workdir)[0])
    metrics = json.loads(files.read_text(bucket / "eval" / "metrics.json"))
    assert metrics == pytest.approx(expected, abs=1e-6)
    assert {"keypoints_results.json", "metrics.json", "pictures.jpg"} == (
        buckets.objects(bucket / "eval").keys()
    )
    assert "report.html" in buckets.objects(bucket / "page")

    picture = next((root / "val2017").iterdir())
    output = bucket / "people"
    done = run("predict.py", picture, "--model", weights, "--whole_picture", "--output", output)
    assert done.returncode == 0, done.stderr
    assert {picture.name, "keypoints.json", "keypoints.csv"} == (
        buckets.objects(bucket / "people").keys()
    )

    done = run("convert.py", "--source", weights, "--output", bucket / "torch", "--to", "torch")
    assert done.returncode == 0, done.stderr
    (name,) = [n for n in buckets.objects(bucket / "torch") if n.endswith(".safetensors")]
    done = run("convert.py", "--source", bucket / "torch" / name, "--output", bucket / "back")
    assert done.returncode == 0, done.stderr
    for mine, theirs in zip(
        *(jax.tree.leaves(checkpoints.load(each)[1]) for each in (bucket / "back", weights))
    ):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, status, message",
    [
        ("gs://nowhere/run", None, "no such bucket: gs://nowhere"),
        ("{bucket}/run", 403, "refuses access; check credentials"),
        ("{bucket}/run", 401, "refuses access; check credentials"),
        ("s3://bucket/run", None, "s3://bucket/run: neither a path nor a gs:// URL"),
    ],
)
def test_what_a_bucket_refuses_is_one_clear_line(config, bucket, buckets, name, status, message):
    buckets.refuse = lambda *request: status
    begin = time.monotonic()
    done = run("train.py", "--config", config, "--workdir", name.format(bucket=bucket))
    assert message in error_of(done)
    assert time.monotonic() - begin < 60
    assert "nowhere" not in buckets.buckets
