"""Damaged files and files that are not checkpoints are refused with one line."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from torch_files import (
    DEEP,
    FIXTURES,
    code,
    dict_code,
    refused,
    tensor_code,
    write_safetensors,
    write_zip,
)

from mspn_jax.errors import TorchFileError
from mspn_jax.weights.torch import layouts
from mspn_jax.weights.torch.state_dicts import read

FUZZER = Path(__file__).parents[1] / "tests" / "stress" / "fuzz_torch_checkpoint.py"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.pth"


# --- damaged files --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file",
    [
        "protocol5_zip.pt",
        "without_sums_zip.pth",
        "authors_legacy.pth",
        "storage_views_legacy.pth",
        "plain.safetensors",
    ],
)
def test_refuses_every_truncation(path, file):
    data = (FIXTURES / file).read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        refused(path)


def test_refuses_flipped_weights(path):
    data = bytearray((FIXTURES / "protocol5_zip.pt").read_bytes())
    at = data.index(np.float32([1.5, -2.5]).tobytes())
    data[at] ^= 1
    path.write_bytes(data)
    assert "wrong checksum for 'archive/data/1'" in refused(path)


def test_refuses_compressed_records(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", bytes(10_000_000))
    assert "compressed" in refused(path)


def test_refuses_zips_of_other_kinds(path):
    np.savez(path.with_suffix(".npz"), a=np.zeros(3))
    assert "without torch's data.pkl" in refused(path.with_suffix(".npz"))


def rezipped(path: Path, old: bytes, new: bytes, count: int = 2) -> Path:
    data = write_zip(path, dict_code(a=tensor_code()), {"0": bytes(24), "1": bytes(24)})
    data = data.read_bytes()
    assert data.count(old) == count
    path.write_bytes(data.replace(old, new))
    return path


def test_refuses_records_of_one_name(path):
    assert "damaged record 'a/data/0'" in refused(rezipped(path, b"a/data/1", b"a/data/0"))


def test_refuses_records_without_their_mark(path):
    assert "damaged record" in refused(rezipped(path, b"PK\1\2", b"PK\1\3", count=3))
    assert "damaged record" in refused(rezipped(path, b"PK\3\4", b"PK\3\5", count=3))


def test_refuses_records_that_overlap(path):
    data = write_zip(path, dict_code(a=tensor_code()), {"0": bytes(24), "1": bytes(24)})
    data = data.read_bytes()
    first, second = (data.index(b"PK\3\4", data.index(b"a/data.pkl")), data.rindex(b"PK\3\4"))
    rezipped(
        path,
        struct.pack("<L", second) + b"a/data/1",
        struct.pack("<L", first) + b"a/data/1",
        count=1,
    )
    assert "overlaps" in refused(path)


def test_refuses_a_directory_that_is_too_long(path, monkeypatch):
    write_zip(path, dict_code(a=tensor_code()))
    read(path)
    monkeypatch.setattr(layouts, "MAX_HEADER_BYTES", 100)
    assert "damaged directory" in refused(path)


def test_refuses_legacy_storages_out_of_order(path):
    data = (FIXTURES / "storage_views_legacy.pth").read_bytes()
    path.write_bytes(data.replace(struct.pack("<q", 6), struct.pack("<q", 5)))
    assert "ends before or within storage '1'" in refused(path)
    keys = pickle.dumps(["1"], protocol=2)
    for wrong in (code(["1", "1"]), code(["2"]), b"]" + DEEP + b"a"):
        path.write_bytes(data.replace(keys, b"\x80\x02" + wrong + b"."))
        assert "lists storages that no tensor names" in refused(path)
    path.write_bytes(data[:-1])
    assert "ends before or within storage '1'" in refused(path)
    path.write_bytes(data.replace(pickle.dumps(1001, 2), pickle.dumps(1002, 2)))
    assert "unknown protocol" in refused(path)


def entry(start=0, stop=8, shape=(2,), dtype="F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"a": entry(), "b": entry()}, "overlap"),
        ({"a": entry(4, 8, (1,))}, "overlap"),
        ({"a": entry(0, 5, (1,)), "b": entry(4, 8, (1,))}, "overlap"),
        ({"a": entry(0, 8), "b": entry(8, 4)}, "overlap"),
        ({"a": entry(-8, 0)}, "overlap"),
        ({"a": entry(0, 16, (4,))}, "shorter or longer than its tensors"),
        ({"a": entry(0, 4, (1,))}, "shorter or longer than its tensors"),
        ({"a": entry(0, 1 << 70)}, "shorter or longer than its tensors"),
        ({"a": entry(shape=(3,))}, "lacks 'a' or a part of it"),
        ({"a": entry(shape=(-2,))}, "impossible shape"),
        ({"a": entry(shape=(10**4000,) * 30)}, "impossible shape"),
        ({"a": entry(shape=(1,) * 40)}, "impossible shape"),
        ({"a": entry(shape=(True, 2))}, "impossible shape"),
        ({"a": entry(dtype="F8_E4M3", shape=(8,))}, "which is not supported"),
        ({"a": entry(dtype=[])}, "is damaged"),
        ({"a": entry(stop=8.0)}, "is damaged"),
        ({"a": {}}, "is damaged"),
        ({"a": 3}, "is damaged"),
        ({}, "shorter or longer"),
        (b'{"a": %b, "a": %b}' % (2 * (json.dumps(entry()).encode(),)), "names a tensor twice"),
        (b'{"a": ' + b"[" * 200_000, "is damaged"),
        (b"{" + b'"\xff"', "is damaged"),
    ],
)
def test_refuses_bad_safetensors(tmp_path, header, reason):
    assert reason in refused(write_safetensors(tmp_path / "a.safetensors", header))


def test_reads_safetensors_of_eight_bytes(tmp_path):
    """What the bad ones above are made from is good."""
    array = read(write_safetensors(tmp_path / "a.safetensors", {"a": entry()}))["a"]
    assert array.dtype == np.float32 and array.shape == (2,)


def test_refuses_a_safetensors_header_longer_than_the_file(path):
    path.write_bytes(struct.pack("<Q", 1 << 40) + b'{"a": 1}')
    assert "header longer than the file" in refused(path)


# --- files that are no checkpoints ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "run `git lfs pull`",
        ),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"\n  <html>", "web page"),
        (b"hello", "is not a checkpoint"),
        (b"\x89PNG\r\n", "is not a checkpoint"),
        (pickle.dumps({"a": np.zeros(3)}), "not torch's"),
        (b"\x80", "is damaged"),
        (b"PK\3\4", "truncated zip"),
    ],
)
def test_names_what_is_no_checkpoint(path, data, reason):
    path.write_bytes(data)
    assert reason in refused(path)


def test_names_the_tar_of_old(path):
    with tarfile.open(path, "w") as file:
        file.addfile(tarfile.TarInfo("sys_info"), io.BytesIO())
    assert "before 0.1.10" in refused(path)


def test_names_what_is_no_file(tmp_path):
    assert "is not a file" in refused(tmp_path)
    assert "is not a file" in refused(tmp_path / "missing.pth")
    os.mkfifo(tmp_path / "pipe")
    assert "is not a file" in refused(tmp_path / "pipe")


def test_names_what_cannot_be_read(path, monkeypatch):
    path.write_bytes(b"x")

    def denied(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    with pytest.raises(TorchFileError, match="cannot be read: Permission denied"):
        read(path)


def test_fuzzed():
    """In a process of its own: audit hooks and limits stay for good."""
    result = subprocess.run(
        [sys.executable, FUZZER, "--files", "2000", "--seed", "1"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert " 0 crashes" in result.stdout
