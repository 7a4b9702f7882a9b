"""Handmade checkpoints, valid ones and ones that torch never writes."""

import json
import pickle
import struct
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from mspn_jax.errors import TorchFileError
from mspn_jax.weights.torch.state_dicts import read

FIXTURES = Path(__file__).parent / "torch_fixtures"


def expected() -> dict[str, dict[str, np.ndarray]]:
    files = {}
    with np.load(FIXTURES / "expected.npz") as arrays:
        for key, array in arrays.items():
            file, name, *bits = key.split(":")
            array = array.view(ml_dtypes.bfloat16) if bits else array
            files.setdefault(file, {})[name] = array
    return files


DEEP = b")" + b"\x85" * 300_000  # tuples in tuples: enough for Python to crash on their hash
EXPECTED = expected()


def code(value: object) -> bytes:
    """The instructions that push a plain value."""
    return pickle.dumps(value, protocol=2)[2:-1]


def storage_code(numel: int = 6, key: object = "0", kind: str = "Float") -> bytes:
    return (
        b"("
        + code("storage")
        + f"ctorch\n{kind}Storage\n".encode()
        + code(key)
        + code("cpu")
        + code(numel)
        + b"tQ"
    )


def tensor_code(size=(2, 3), stride=(3, 1), offset=0, storage: bytes | None = None) -> bytes:
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + (storage or storage_code())
        + code(offset)
        + code(size)
        + code(stride)
        + b"\x89}tR"
    )


def dict_code(**values: bytes) -> bytes:
    return b"}(" + b"".join(code(name) + value for name, value in values.items()) + b"u"


def write_zip(path: Path, program: bytes, storages: dict[str, bytes] | None = None) -> Path:
    """A checkpoint with this pickle, and by default one storage of six float32, 0 to 5."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02" + program + b".")
        if storages is None:
            storages = {"0": np.arange(6, dtype="<f4").tobytes()}
        for key, data in storages.items():
            file.writestr(f"a/data/{key}", data)
    return path


def write_pth(path: Path, state_dict: dict[str, np.ndarray]) -> Path:
    """A checkpoint as torch writes it, without torch."""
    program, storages = {}, {}
    for key, (name, array) in enumerate(state_dict.items()):
        kind = "Long" if array.dtype == np.int64 else "Float"
        stride = tuple(step // array.itemsize for step in array.strides)
        storage = storage_code(array.size, str(key), kind)
        program[name] = tensor_code(array.shape, stride, storage=storage)
        storages[str(key)] = array.tobytes()
    return write_zip(path, dict_code(state_dict=dict_code(**program)), storages)


def write_safetensors(path: Path, header: object, data: bytes = bytes(8)) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def refused(path: Path) -> str:
    """The reason with which a file is refused: one line, after the file's name."""
    with pytest.raises(TorchFileError) as caught:
        read(path)
    file, reason = str(caught.value)[: len(str(path))], str(caught.value)[len(str(path)) + 2 :]
    assert file == str(path) and len(reason.splitlines()) == 1 and len(reason) < 300
    assert ": " in reason, "no remedy"
    return reason
