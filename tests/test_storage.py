"""Paths on a disk and in a bucket; atomic reads and writes."""

import json
import pathlib
import subprocess
import sys

import pytest
from bucket_server import refuse_writing

from mspn_jax.errors import StorageError
from mspn_jax.storage import files, paths


def test_paths_are_those_of_the_disk_unless_they_are_in_a_bucket(bucket):
    assert paths.path("runs/one") == pathlib.Path("runs/one")
    assert paths.absolute("runs/one") == pathlib.Path("runs/one").absolute()
    assert str(paths.absolute(f"{bucket}/run/") / "x") == f"{bucket}/run/x"


@pytest.mark.parametrize(
    "name",
    ["s3://bucket/run", "gs:/bucket/run", "gs://", "gs://b/x", "gs://A-b-c", "http://host/x"],
)
def test_other_urls_are_refused(name):
    with pytest.raises(StorageError, match=r"neither a path nor a gs://|is not a bucket's name"):
        paths.path(name)


def test_without_gcsfs_a_line_says_what_to_install(monkeypatch):
    paths._set_up.cache_clear()
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(StorageError, match=r"pip install 'mspn-jax\[gcs\]'"):
        paths.path("gs://bucket/run")


def test_paths_on_a_disk_import_nothing_for_buckets():
    program = """
import sys
from mspn_jax.commands import program
from mspn_jax.storage import files, lease, mirror, paths
from mspn_jax.weights import checkpoints
paths.absolute("runs/one")
print([name for name in ("gcsfs", "google.cloud.storage", "aiohttp") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_file_is_replaced_whole_or_not_at_all(bucket, buckets):
    path = bucket / "run" / "config.json"
    with pytest.raises(FileNotFoundError) as missing:
        files.read_text(path)
    assert missing.value.filename == str(path)
    files.write_json(path, {"a": 1})
    assert json.loads(files.read_text(path)) == {"a": 1}
    with pytest.raises(TypeError):
        files.write_json(path, {"a": object()})
    buckets.refuse = refuse_writing
    with pytest.raises(StorageError, match="refuses access; check credentials"):
        files.write_json(path, {"a": 2})
    buckets.refuse = lambda *request: 401
    with pytest.raises(StorageError, match="gcloud auth application-default login"):
        files.read_text(path)
    buckets.refuse = lambda *request: None
    assert json.loads(files.read_text(path)) == {"a": 1}
    with pytest.raises(StorageError, match=r"no such bucket: gs://nowhere$"):
        files.write_text("gs://nowhere/run/x", "")


def test_what_others_write_and_remove_is_seen_at_once(bucket, buckets):
    folder = bucket / "run" / "checkpoints"
    buckets.put(bucket.name, "run/checkpoints/3/a", b"", {})
    assert [path.name for path in folder.iterdir()] == ["3"]
    assert not (folder / "6").exists()
    buckets.put(bucket.name, "run/checkpoints/6/a", b"", {})
    assert (folder / "6").exists()
    assert sorted(path.name for path in folder.iterdir()) == ["3", "6"]
    buckets.buckets[bucket.name].clear()
    assert not (folder / "3").exists()


def test_errors_of_other_libraries_are_not_taken_for_a_buckets():
    assert "refuses access" in (paths.reason_of(OSError("Forbidden: x")) or "")
    for text in ("UNAVAILABLE: x", "ABORTED: Error " + "x" * 300 + ": All 7 retry attempts failed"):
        assert "no answer from the bucket" in (paths.reason_of(ValueError(text)) or "")
    for error in (
        FileNotFoundError(2, "x"),
        ValueError("x"),
        RuntimeError("UNAVAILABLE: a peer"),
        StorageError("UNAVAILABLE"),
    ):
        assert paths.reason_of(error) is None
