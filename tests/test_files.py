"""What is given back of a mapped file, and what must not be."""

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
