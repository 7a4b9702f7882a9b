"""Reading torch's own files (torch_fixtures), and refusing what torch never writes (built here).

Damaged files are in test_torch_layouts."""

import os
import pickle
import shutil
import struct
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from torch_files import (
    DEEP,
    EXPECTED,
    FIXTURES,
    code,
    dict_code,
    refused,
    storage_code,
    tensor_code,
    write_zip,
)

from mspn_jax.errors import TorchFileError
from mspn_jax.weights.torch import layouts, state_dicts, unpickling
from mspn_jax.weights.torch.state_dicts import metadata, read


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.pth"


# --- what torch writes ----------------------------------------------------------------------------


@pytest.mark.parametrize("file", EXPECTED)
def test_reads_what_torch_reads(file):
    arrays = read(FIXTURES / file)
    assert sorted(arrays) == sorted(EXPECTED[file])
    for name, array in EXPECTED[file].items():
        assert arrays[name].dtype == array.dtype, name
        assert arrays[name].shape == array.shape, name
        assert arrays[name].tobytes() == array.tobytes(), name
        assert arrays[name].flags.carray, f"{name} is not contiguous and writable"


@pytest.mark.parametrize("file", EXPECTED)
def test_windows_show_what_copies_hold_also_of_a_file_removed(file, tmp_path):
    shutil.copy(FIXTURES / file, tmp_path)
    arrays = read(tmp_path / file, copy=False)
    (tmp_path / file).unlink()
    assert sorted(arrays) == sorted(EXPECTED[file])
    for name, array in EXPECTED[file].items():
        assert (arrays[name].dtype, arrays[name].shape) == (array.dtype, array.shape), name
        assert arrays[name].tobytes() == array.tobytes(), name
    floats = [array for array in arrays.values() if array.dtype == np.float32 and array.size]
    if "big_endian" not in file:
        assert not any(array.flags.owndata or array.flags.writeable for array in floats)


def test_the_fixtures_hold_what_they_are_for():
    plain = EXPECTED["plain_zip.pth"]
    assert {str(array.dtype) for array in plain.values()} == {
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "bool",
    }
    assert {array.shape for array in plain.values()} >= {(), (0,), (3, 0, 2), (7, 5)}
    assert len(EXPECTED) == 11


def test_tied_tensors_do_not_share_memory():
    arrays = read(FIXTURES / "plain_zip.pth")
    arrays["tied_a"][:] = 0
    np.testing.assert_array_equal(arrays["tied_b"], EXPECTED["plain_zip.pth"]["tied_b"])


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_metadata_of_mmcv(layout):
    notes = metadata(FIXTURES / f"mmcv_{layout}.pth")
    assert notes == {"mmpose_version": "0.11.0", "epoch": 210, "lr": 5e-3, "big": 1 << 70}


def test_metadata_of_others():
    assert metadata(FIXTURES / "authors_legacy.pth") == {"iteration": 9}
    assert metadata(FIXTURES / "plain.safetensors") == {"format": "pt"}
    with pytest.raises(TorchFileError, match="not a file"):
        metadata(FIXTURES / "missing.pth")


def test_finds_the_state_dict(path):
    a, b, c = (dict_code(**{name: tensor_code()}) for name in "abc")
    assert list(read(write_zip(path, dict_code(model=b, state_dict=a, optimizer=c)))) == ["a"]
    assert list(read(write_zip(path, dict_code(model=b, optimizer=c)))) == ["b"]
    assert list(read(write_zip(path, dict_code(model=tensor_code())))) == ["model"]


def test_module_prefix_goes_only_from_all(path):
    both = dict_code(**{"module.a": tensor_code(), "module.b": tensor_code()})
    assert list(read(write_zip(path, both))) == ["a", "b"]
    one = dict_code(**{"module.a": tensor_code(), "b": tensor_code()})
    assert list(read(write_zip(path, one))) == ["module.a", "b"]


def test_none_and_metadata_are_no_tensors(path):
    program = dict_code(a=tensor_code(), none=b"N", _metadata=code({"version": 1}))
    assert list(read(write_zip(path, program))) == ["a"]


def test_any_byte_but_zero_is_true(path):
    program = dict_code(a=tensor_code((3,), (1,), storage=storage_code(3, kind="Bool")))
    array = read(write_zip(path, program, {"0": b"\0\1\2"}))["a"]
    assert array.dtype == bool and array.tobytes() == b"\0\1\1"


def test_the_step_along_one_can_be_anything(path):
    array = read(write_zip(path, dict_code(a=tensor_code((1, 3), ((1 << 62) - 1, 2)))))["a"]
    np.testing.assert_array_equal(array, [[0, 2, 4]])


def test_memory_and_time_stay_near_the_file_s_size(path):
    count = 16 << 20
    program = dict_code(a=tensor_code((count // 4, 4), (4, 1), storage=storage_code(count)))
    write_zip(path, program, {"0": bytes(4 * count)})
    tracemalloc.start()
    start = time.perf_counter()
    array = read(path)["a"]
    seconds, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert array.shape == (count // 4, 4)
    # The mapped file itself is not among these, and is at most as much again.
    assert peak < 1.1 * path.stat().st_size
    assert seconds < 2


def test_writes_safetensors_of_every_dtype(tmp_path):
    path, arrays = tmp_path / "a.safetensors", EXPECTED["plain.safetensors"]
    arrays = arrays | {"transposed again": arrays["base"].T}
    state_dicts.write_safetensors(path, arrays, {"format": "pt"})
    assert metadata(path) == {"format": "pt"}
    (length,) = struct.unpack_from("<Q", path.read_bytes())
    assert length % 8 == 0, "the format wants the arrays aligned"
    back = read(path)
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype and back[name].shape == array.shape, name
        assert back[name].tobytes() == array.tobytes(), name


# --- state dicts that are none --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (
            "refused_model_legacy.pth",
            r"holds '__main__.Network', not a dict: save its state_dict\(\)",
        ),
        (
            "refused_sparse_zip.pth",
            r"holds 'torch._utils._rebuild_sparse_tensor' as 'x', not a tensor",
        ),
        ("refused_negated_zip.pth", "holds 'torch._utils._rebuild_tensor_v2' as 'x', not a tensor"),
        ("refused_float8_zip.pth", "has 'x' in 'float8_e4m3fn', which is not supported"),
    ],
)
def test_refuses_what_is_no_plain_tensor(file, reason):
    with pytest.raises(TorchFileError, match=reason):
        read(FIXTURES / file)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (
            dict_code(a=tensor_code(), epoch=code(3)),
            "an object of type int as 'epoch', not a tensor",
        ),
        (dict_code(a=tensor_code(), b=dict_code(c=tensor_code())), "type dict as 'b'"),
        (dict_code(a=tensor_code(), b=storage_code()), "type storage as 'b'"),
        (
            dict_code(a=tensor_code())[:-1] + b"K\0" + tensor_code() + b"u",
            "whose name is not a string",
        ),
        (dict_code(state_dict=dict_code(), a=tensor_code()), "holds no tensors"),
        (dict_code(meta=code({"epoch": 1}), a=tensor_code()), "type dict as 'meta'"),
        (code([1]), "type list, not a dict"),
        (dict_code(**{"line\nbreak" * 99: code(1)}), r"line\nbreak"),
    ],
)
def test_refuses_other_entries_by_name(path, program, reason):
    assert reason in refused(write_zip(path, program))


# --- programs that mean harm ----------------------------------------------------------------------


class Harm:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


def test_runs_nothing(path, tmp_path):
    marker = tmp_path / "harmed"
    harm = pickle.dumps(Harm(marker), protocol=2)
    assert "posix.system" in refused(write_zip(path, harm[2:-1]))
    assert "posix.system" in refused(write_zip(path, dict_code(a=tensor_code(), b=harm[2:-1])))
    beside = write_zip(path, dict_code(meta=harm[2:-1], model=dict_code(a=tensor_code())))
    assert list(read(beside)) == ["a"]
    legacy = pickle.dumps(layouts.LEGACY_MAGIC, 2) + pickle.dumps(1001, 2) + harm + harm
    path.write_bytes(legacy + pickle.dumps([], 2))
    assert "posix.system" in refused(path)
    assert not marker.exists()
    pickle.loads(harm)
    assert marker.exists(), "the hostile code has no effect: this test could not fail"


DEEP_KIND = (
    b"("
    + code("storage")
    + code("torch")
    + DEEP
    + b"\x93"
    + code("0")
    + code("cpu")
    + code(6)
    + b"tQ"
)
PAIRS = b"](" + b"".join(b"](" + code(f"k{i}") + b"Ne" for i in range(3000)) + b"e"


@pytest.mark.slow
@pytest.mark.parametrize(
    "program",
    [
        pytest.param(b"Nr\xff\xff\xff\x7f", id="memo number"),
        pytest.param(b"}" + DEEP + b"Ns", id="deep key"),
        pytest.param(b"}))\x86" + b"2\x86" * 200 + b"Ns", id="doubled by DUP"),
        pytest.param(b"})q\0" + b"h\0h\0\x86q\0" * 200 + b"Ns", id="doubled key"),
        pytest.param(b"}" * 100_000 + b"N" * 100_000, id="many dicts"),
        pytest.param(b"]" * 100_000 + b"a" * 99_999, id="deep list"),
        pytest.param(b"(" * 100_000, id="marks"),
        pytest.param(dict_code(a=tensor_code(storage=DEEP_KIND)), id="deep kind of storage"),
        pytest.param(b"\x8e" + struct.pack("<Q", 1 << 40), id="bytes that are not there"),
        pytest.param(b"\x96" + struct.pack("<Q", 1 << 40), id="bytearray that is not there"),
        pytest.param(b"\x8b" + struct.pack("<i", 1 << 30), id="number that is not there"),
        pytest.param(b"\x8b" + struct.pack("<i", -1), id="number of negative length"),
        pytest.param(b"I" + b"9" * 1_000_000 + b"\n", id="number of a million digits"),
        pytest.param(b"\x82\1", id="extension"),
        pytest.param(b"\x97", id="buffer from outside"),
        pytest.param(b"R", id="empty stack"),
        pytest.param(b"t", id="no mark"),
        pytest.param(b"h\7", id="empty memo"),
        pytest.param(b"\xff", id="no instruction"),
        pytest.param(code("a" * 100) + b"q\1\x8c\1bq\0" + b"h\1h\0\x93" * 1000, id="long name"),
        pytest.param(
            b"ccollections\nOrderedDict\nq\7" + PAIRS + b"\x85q\x08" + b"h\7h\x08R" * 3000,
            id="dict built again and again",
        ),
        pytest.param(b"ctorch._utils\n_rebuild_tensor_v2\n}b", id="build on a function"),
        pytest.param(b"ccollections\nOrderedDict\n}" + code("a") + b"Nsb", id="build on a class"),
        pytest.param(dict_code(a=tensor_code(storage=storage_code(key=[1]))), id="key of a list"),
        pytest.param(
            dict_code(a=tensor_code(storage=storage_code(numel="6"))), id="textual length"
        ),
        pytest.param(dict_code(a=tensor_code(storage=b"N")), id="tensor without storage"),
        pytest.param(dict_code(a=b"ctorch._utils\n_rebuild_parameter\n)R"), id="empty parameter"),
    ],
)
def test_hostile_programs_cost_little(path, program):
    write_zip(path, program)
    tracemalloc.start()
    refused(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * path.stat().st_size + (4 << 20)


def test_programs_are_bounded(path, monkeypatch):
    write_zip(path, dict_code(a=tensor_code()))
    read(path)
    monkeypatch.setattr(unpickling, "_MAX_OPCODES", 20)
    assert "holds far more than weights" in refused(path)


# --- tensors that are not in the file -------------------------------------------------------------


HUGE = 1 << 61


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (tensor_code((3, 3)), "reach past its storage"),
        (tensor_code(offset=1), "reach past its storage"),
        (tensor_code((2, 3), (4, 1)), "reach past its storage"),
        (tensor_code((5,), (HUGE,)), "reach past its storage"),  # wraps around in 64 bits
        (tensor_code((3,), (1,), offset=HUGE), "reach past its storage"),
        (tensor_code((1,), (1,), offset=6), "reach past its storage"),
        (tensor_code((-2, -3)), "impossible shape"),
        (tensor_code((2, 3), (-3, 1)), "impossible shape"),
        (tensor_code(offset=-1), "impossible shape"),
        (tensor_code((2, 3), (3,)), "impossible shape"),
        (tensor_code((1,) * 33, (1,) * 33), "impossible shape"),
        (tensor_code((1 << 9999, 0), (1, 1)), "impossible shape"),
        (tensor_code((2.0, 3)), "impossible shape"),
        (tensor_code([2, 3]), "impossible shape"),
        (tensor_code((0, HUGE, HUGE), (1, 1, 1)), "is damaged"),
        (tensor_code((10**6, 10**6), (0, 0)), "far larger than the file"),
        (tensor_code((HUGE, HUGE), (0, 0)), "is damaged"),
        (tensor_code(storage=storage_code(7)), "lacks 'a' or a part of it"),
        (tensor_code(storage=storage_code(5)), "lacks 'a' or a part of it"),
        (tensor_code(storage=storage_code(-6)), "impossible shape"),
        (tensor_code(storage=storage_code(1 << 9999)), "impossible shape"),
        (tensor_code(storage=storage_code(key="1")), "lacks 'a' or a part of it"),
        (tensor_code(storage=storage_code(kind="ComplexFloat")), "which is not supported"),
    ],
)
def test_refuses_tensors_beyond_the_file(path, tensor, reason):
    assert reason in refused(write_zip(path, dict_code(a=tensor)))


def test_expansion_is_bounded_over_all_tensors(path):
    """One tensor of 0.6 MB that takes 4 bytes in the file is fine; two are too many."""
    expanded = tensor_code((600_000 // 4,), (0,))
    assert read(write_zip(path, dict_code(a=expanded)))["a"].shape == (150_000,)
    assert "has 'b' far larger" in refused(write_zip(path, dict_code(a=expanded, b=expanded)))
