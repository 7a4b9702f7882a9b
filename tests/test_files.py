"""Files on a disk: releasing mapped memory, replacing atomically, errors that name the file."""

import mmap
import pathlib
import re

import numpy as np
import pytest

from mspn_jax.storage import files

SIZE = 1 << 25


def resident_file_bytes() -> int:
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"RssFile:\s+(\d+) kB", status)[1]) * 1024


@pytest.fixture
def path(tmp_path):
    (tmp_path / "large").write_bytes(b"\1" * SIZE)
    return tmp_path / "large"


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="the system has no such call")
@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="nothing to measure by")
def test_a_window_s_memory_is_given_back_and_the_window_stays(path):
    window = np.memmap(path, mode="r").reshape(4, -1).T
    assert window.sum(dtype=np.int64) == SIZE
    before = resident_file_bytes()
    files.release(window)
    assert resident_file_bytes() < before - SIZE // 2
    assert window.sum(dtype=np.int64) == SIZE


def test_what_was_changed_stays_changed(path):
    for array in (np.memmap(path, mode="c"), np.zeros(SIZE, np.uint8)):
        array[:] = 7
        files.release(array)
        array.flags.writeable = False
        files.release(array)
        assert (array == 7).all()


def test_a_file_is_replaced_only_if_all_of_it_was_written(tmp_path):
    path = tmp_path / "a.json"
    files.write_text(path, "old")
    full = pytest.raises(OSError, match=r"No space left on device: '.*a\.json'")
    with full as told, files.replaced(path) as partial:
        partial.write_text("half")
        raise OSError(28, "No space left on device")
    assert told.value.filename == str(path) and path.read_text() == "old"
    without_number = pytest.raises(
        OSError, match=r"cannot be written \(4 requested and 0 written\)"
    )
    with without_number, files.replaced(path):
        raise OSError("4 requested and 0 written")  # as NumPy's
    with pytest.raises(FileNotFoundError) as told:
        files.write_bytes(tmp_path / "none" / "b", b"")
    assert told.value.filename == str(tmp_path / "none" / "b")
    files.write_json(path, {"a": 1})
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]
    assert path.read_text() == '{"a": 1}\n'


def test_a_listing_is_complete_after_every_entry(tmp_path, monkeypatch):
    path = tmp_path / "list.json"
    with files.Listing(path, b"[", b"\n]\n") as listing:
        assert path.read_text() == "[\n]\n"
        listing.add(b"\n1")
        write = listing._write
        monkeypatch.setattr(listing, "_write", lambda data: fails_within(listing, data, write))
        with pytest.raises(OSError, match=r"No space left on device: '.*list\.json'"):
            listing.add(b",\n" + b"2" * 100)
        monkeypatch.undo()
        assert path.read_text() == "[\n1\n]\n"
        listing.add(b",\n3")
    assert path.read_text() == "[\n1,\n3\n]\n"


def fails_within(listing: files.Listing, data: bytes, write) -> None:
    """Plays a disk that becomes full in the middle of an entry."""
    write(data[:10])
    if len(data) > 10:
        raise OSError(28, "No space left on device")
