"""Copies of bucket folders on the local disk, in both directions."""

import time

import pytest
from bucket_server import refuse_writing

from mspn_jax.errors import HeldError, StorageError
from mspn_jax.storage import files, mirror


def test_a_mirror_of_a_folder_on_disk_is_that_folder(tmp_path):
    with mirror.Mirror(tmp_path / "new" / "folder", take=["x"], seconds=0.01) as output:
        assert output.local == tmp_path / "new" / "folder"
        (output.local / "a").write_text("1")
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["a"]


def test_a_mirror_copies_what_changed_and_goes_on_with_what_is_there(bucket, buckets):
    folder = bucket / "run"
    files.write_text(folder / "log", "1\n")
    with mirror.Mirror(folder, take=["log", "none"]) as output:
        with (output.local / "log").open("a") as log:
            log.write("2\n")
        (output.local / "deep").mkdir()
        (output.local / "deep" / "b").write_text("b")
        assert buckets.objects(folder)["log"].data == b"1\n"
        output.sync()
        kept = buckets.objects(folder)["deep/b"].generation
        with (output.local / "log").open("a") as log:
            log.write("3\n")
        local = output.local
    found = buckets.objects(folder)
    assert found["log"].data == b"1\n2\n3\n" and found["deep/b"].generation == kept
    assert sorted(found) == ["deep/b", "log"] and not local.exists()


def test_a_mirrors_thread_copies_and_gets_over_an_outage(bucket, buckets, caplog):
    with mirror.Mirror(bucket / "run", seconds=0.1) as output:
        buckets.refuse = refuse_writing
        (output.local / "log").write_text("1")
        wait(lambda: "were not copied" in caplog.text)
        buckets.refuse = lambda *request: None
        wait(lambda: "log" in buckets.objects(bucket / "run"))


def wait(condition, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_a_mirror_whose_lease_is_lost_writes_no_more(bucket, buckets):
    def lost() -> None:
        raise HeldError("another run")

    with pytest.raises(HeldError), mirror.Mirror(bucket / "run", check=lost) as output:
        (output.local / "log").write_text("1")
    assert not buckets.objects(bucket / "run")


def test_what_could_not_be_copied_at_the_end_stays_and_is_named(bucket, buckets):
    with pytest.raises(StorageError) as told, mirror.Mirror(bucket / "out") as output:
        (output.local / "results").write_text("1")
        buckets.refuse = refuse_writing
    assert (output.local / "results").read_text() == "1"
    assert str(output.local) in str(told.value) and "refuses access" in str(told.value)
    with pytest.raises(StorageError, match="refuses access"), mirror.Mirror(bucket / "out"):
        raise AssertionError("it is refused before any work")


def test_an_error_is_not_hidden_by_what_could_not_be_copied(bucket, buckets, caplog):
    with pytest.raises(KeyError), mirror.Mirror(bucket / "out") as output:
        (output.local / "results").write_text("1")
        buckets.refuse = refuse_writing
        raise KeyError
    assert str(output.local) in caplog.text


def test_a_folder_is_copied_once_and_again_where_it_changed(bucket, buckets, tmp_path):
    folder = bucket / "data"
    for name in ("a", "deep/b", "c"):
        files.write_text(folder / name, name)
    local = mirror.fetched(folder)
    assert local == tmp_path / "cache" / "mspn_jax" / "buckets" / bucket.name / "data"
    assert (local / "deep" / "b").read_text() == "deep/b"
    assert len(buckets.reads()) == 3
    assert mirror.fetched(folder) == local and buckets.reads() == []
    files.write_text(folder / "a", "A")  # of the same size
    (local / "c").unlink()
    mirror.fetched(folder)
    assert buckets.reads() == ["data/a", "data/c"] and (local / "a").read_text() == "A"

    assert mirror.fetched(folder / "c") == local / "c"
    files.write_text(folder / "d", "d")
    files.write_text(folder / "e", "e")
    mirror.fetched(folder, names={"d"})
    assert (local / "d").exists() and not (local / "e").exists()
    with pytest.raises(FileNotFoundError, match="data/none"):
        mirror.fetched(folder / "none")
    assert mirror.fetched(tmp_path / "on_disk") == tmp_path / "on_disk"


def test_an_interrupted_copy_goes_on_and_a_cut_file_is_none(bucket, buckets, monkeypatch):
    monkeypatch.setattr(mirror, "_BATCH", 2)
    for name in "abcd":
        files.write_text(bucket / "data" / name, name * 9)
    buckets.refuse = lambda method, path, query: (
        403 if path.endswith("data/c") and "media" in query.get("alt", "") else None
    )
    with pytest.raises(StorageError, match="refuses access"):
        mirror.fetched(bucket / "data")
    buckets.refuse = lambda *request: None
    buckets.reads()
    local = mirror.fetched(bucket / "data")
    assert set(buckets.reads()) == {"data/c", "data/d"}  # d maybe twice, once from before
    assert {path.name for path in local.iterdir()} == set("abcd")

    found = buckets.objects(bucket / "data")
    monkeypatch.setattr(files, "size", lambda path: 8)
    with pytest.raises(StorageError, match=r"data/a: changed or was cut"):
        mirror.fetched(bucket / "data")
    assert found["a"].data == (local / "a").read_bytes()


def test_a_disk_without_room_is_named(bucket, monkeypatch):
    files.write_text(bucket / "data" / "a", "a")
    usage = mirror.shutil.disk_usage("/")._replace(free=0)
    monkeypatch.setattr(mirror.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StorageError, match=r"0\.0 GB free; MSPN_HOME names"):
        mirror.fetched(bucket / "data")
