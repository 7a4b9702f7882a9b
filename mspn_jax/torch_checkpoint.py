"""Reads PyTorch checkpoints into NumPy, without torch and without running anything in the file.

Top to bottom: what a caller sees, which kind of file it is, the zip of torch 1.6 and later, the
stream of torch before that ("legacy"; the published MSPN files are of this kind), safetensors, and
at last the arrays. The pickle inside the first two is read by `torch_pickle`.
"""

import contextlib
import io
import itertools
import json
import math
import mmap
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from mspn_jax import files
from mspn_jax.torch_pickle import AGAIN, Foreign, Storage, Tensor, TorchFileError, require, unpickle

# By the names of torch, of torch's storage classes and of safetensors.
_DTYPES = {
    name: np.dtype(dtype)
    for dtype, names in {
        np.float64: "float64 DoubleStorage F64",
        np.float32: "float32 FloatStorage F32",
        np.float16: "float16 HalfStorage F16",
        ml_dtypes.bfloat16: "bfloat16 BFloat16Storage BF16",
        np.int64: "int64 LongStorage I64",
        np.int32: "int32 IntStorage I32",
        np.int16: "int16 ShortStorage I16",
        np.int8: "int8 CharStorage I8",
        np.uint64: "uint64 U64",
        np.uint32: "uint32 U32",
        np.uint16: "uint16 U16",
        np.uint8: "uint8 ByteStorage UntypedStorage U8",
        np.bool_: "bool BoolStorage BOOL",
    }.items()
    for name in names.split()
}
# Of the three names of each the last is safetensors'.
_SAFETENSORS_KINDS = {dtype: name for name, dtype in _DTYPES.items()}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# Some five times what a training checkpoint of the largest model needs: it bounds the memory and
# the seconds that a hostile file can take.
_MAX_HEADER_BYTES = 1 << 24


class _Contents(NamedTuple):
    """The object saved, the bytes of each storage in the file, and what else there is to know."""

    top: object
    extents: dict[str, range]
    notes: dict
    big_endian: bool = False


def read(path: str | os.PathLike, copy: bool = True) -> dict[str, np.ndarray]:
    """Reads the state dict out of a `.pth` or `.pt` file in either of torch's layouts, or of a
    `.safetensors` file.

    The state dict is the entry `state_dict` (mmcv, mmengine) or `model` (the authors) if the file
    has one, else the whole; what lies beside it is not read. A `module.` that every name begins
    with is taken off.

    Returns: name -> array in torch's shape and dtype, contiguous and writable, each with memory of
    its own, also where torch shared it. bfloat16 is `ml_dtypes.bfloat16`. Without `copy` they are
    windows into the file, which then must stay as it is: read-only, perhaps not contiguous, and in
    memory no longer than until `files.release` (bool and big-endian ones are copies still).

    Raises: TorchFileError, a ValueError, if the file is missing, damaged, of another kind, or
    holds anything but tensors (or None) in its state dict.
    """
    with _mapped(path) as data:
        contents = _contents(data)
        arrays, total = {}, 0
        for name, entry in _state_dict(contents.top).items():
            require(isinstance(name, str), "has a tensor whose name is no text: rename it")
            if entry is None or name == "_metadata":
                continue
            view = _view(name, entry, contents, data)
            # A window with stride 0 is as large as it says it is, whatever the file holds.
            total += view.nbytes
            require(
                total <= max(2 * len(data), 1 << 20),
                f"has {_quoted(name)} far larger than "
                "the file: save it with `.clone()`, or distrust it",
            )
            if contents.big_endian:
                view = view.byteswap()
            if view.dtype == bool:  # any byte but 0 is true to torch; NumPy wants a 1
                view = view.view(np.uint8) != 0
            arrays[name] = np.array(view, order="C") if copy else view
            files.release(view)
        require(arrays, "holds no tensors: save `model.state_dict()`")
        if all(name.startswith("module.") for name in arrays):
            arrays = {name.removeprefix("module."): array for name, array in arrays.items()}
        return arrays


def metadata(path: str | os.PathLike) -> dict[str, str | int | float | bool]:
    """Returns the texts and numbers that the file keeps beside its tensors, such as mmcv's
    `mmpose_version` and `config`: those of the top level and of `meta`, or of safetensors'
    `__metadata__`. Raises TorchFileError as `read` does."""
    with _mapped(path) as data:
        return {
            name: value
            for name, value in _contents(data).notes.items()
            if isinstance(name, str) and isinstance(value, str | int | float)
        }


def write_safetensors(
    path: str | os.PathLike, arrays: Mapping[str, np.ndarray], notes: Mapping[str, str]
) -> None:
    """Writes name -> array as a `.safetensors` file; `notes` become its `__metadata__`.

    The format is a length, a JSON header padded with spaces to eight bytes, and the arrays edge to
    edge (https://huggingface.co/docs/safetensors). Raises: OSError as writing any file does,
    KeyError for a dtype that `read` does not know.
    """
    header: dict[str, Any] = {"__metadata__": dict(notes)}
    edge = 0
    for name, array in arrays.items():
        offsets = [edge, edge := edge + array.nbytes]
        kind = _SAFETENSORS_KINDS[array.dtype]
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": offsets}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in arrays.values():
            file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())


@contextlib.contextmanager
def _mapped(path: str | os.PathLike) -> Iterator[mmap.mmap]:
    """The file's bytes. What goes wrong with them inside becomes one line that names the file."""
    try:
        require(Path(path).is_file(), "is not a file: give the path of a .pth or .safetensors")
        with open(path, "rb") as file:
            require(os.fstat(file.fileno()).st_size, f"is empty: {AGAIN}")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        yield data
    except TorchFileError as error:
        raise TorchFileError(f"{path}: {error}") from None
    except OSError as error:
        raise TorchFileError(f"{path}: cannot be read: {error.strerror}") from error
    except MemoryError as error:
        raise TorchFileError(f"{path}: needs more memory than this machine gives") from error
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
        struct.error,
    ) as error:
        raise TorchFileError(f"{path}: is damaged: {AGAIN}") from error


def _quoted(text: str) -> str:
    """On one line, and short, whatever the file says."""
    return ascii(text[:80])


def _contents(data: mmap.mmap) -> _Contents:
    head = data[:512]
    if head.startswith(b"PK"):
        return _zip(data)
    if head[6:9] == b"\0\0{":  # the end of a length, and JSON: no text has zero bytes
        return _safetensors(data)
    require(
        head[257:262] != b"ustar",
        "is a tar, of torch before 0.1.10: load it with torch 1.x and save it again",
    )
    require(
        not head.startswith(b"version https://git-lfs"),
        "is a git-lfs pointer and not the file itself: run `git lfs pull`",
    )
    require(
        not head.lstrip().startswith(b"<"),
        f"is a web page saved in the checkpoint's place: {AGAIN}",
    )
    require(
        head.startswith((b"\x80", b"L")),  # how a pickle begins; L is protocol 1
        "is no checkpoint: give torch's .pth or .pt, or a .safetensors",
    )
    return _legacy(data)


# --- the zip of torch 1.6 and later ---------------------------------------------------------------


def _zip(data: mmap.mmap) -> _Contents:
    """`<any>/data.pkl`, `<any>/data/<key>` for each storage, and perhaps `<any>/byteorder`."""
    records = _zip_records(data)
    pickles = [name for name in records if name.endswith("/data.pkl") and name.count("/") == 1]
    require(len(pickles) == 1, "is a zip without torch's data.pkl: give a .pth of torch.save")
    where = records[pickles[0]]
    top, _ = unpickle(io.BytesIO(data[where.start : where.stop]))
    folder = pickles[0].removesuffix("data.pkl")
    extents = {
        name.removeprefix(folder + "data/"): extent
        for name, extent in records.items()
        if name.startswith(folder + "data/")
    }
    order = records.get(folder + "byteorder", range(0))
    return _Contents(top, extents, _notes(top), data[order.start : order.stop] == b"big")


def _zip_records(data: mmap.mmap) -> dict[str, range]:
    """Where each record lies. torch never compresses, so a record is a slice of the file and a bomb
    has nothing to unpack; that no two overlap keeps all work below the file's size."""
    end = data.rfind(b"PK\5\6", max(0, len(data) - 22 - 0xFFFF))
    require(0 <= end <= len(data) - 22, f"is a zip that was cut short: {AGAIN}")
    size, directory = struct.unpack_from("<LL", data, end + 12)
    require(
        directory + size <= end and size <= _MAX_HEADER_BYTES,
        f"is a zip with a damaged directory, or over 4 GiB: {AGAIN}",
    )
    records, sums, at, edges = {}, {}, directory, [(directory, directory)]
    while at < directory + size:
        magic, method, crc, packed, length, name_size, extra_size, comment_size, header = (
            struct.unpack_from("<4s6xH4xLLLHHH8xL", data, at)
        )
        name = data[at + 46 : at + 46 + name_size].decode()
        at += 46 + name_size + extra_size + comment_size
        local_magic, *local_sizes = struct.unpack_from("<4s22xHH", data, header)
        start = header + 30 + sum(local_sizes)
        require(
            (magic, local_magic) == (b"PK\1\2", b"PK\3\4") and name not in records,
            f"is a zip with a damaged record {_quoted(name)}: {AGAIN}",
        )
        require(
            method == 0 and packed == length,
            f"holds {_quoted(name)} compressed, which "
            "torch never does: unpack it, load it with torch and save it again",
        )
        records[name], sums[name] = range(start, start + length), crc
        edges.append((header, start + length))
    edges.sort()
    require(
        all(stop <= header for (_, stop), (header, _) in itertools.pairwise(edges))
        and edges[-1] == (directory, directory),
        f"is a zip with overlaps: {AGAIN}",
    )
    for name, where in records.items():
        record = np.ndarray(len(where), np.uint8, data, where.start)
        # torch writes a sum of 0 where it was told not to compute any.
        require(
            sums[name] in (0, zlib.crc32(record)),
            f"has a wrong checksum for {_quoted(name)}: {AGAIN}",
        )
        files.release(record)
    return records


# --- the stream of torch before 1.6 ---------------------------------------------------------------


def _legacy(data: mmap.mmap) -> _Contents:
    """Five pickles one after another (magic number, protocol, system, the object, the storages'
    keys), then each storage as an int64 count and its bytes, little-endian on every machine."""
    require(unpickle(data)[0] == _LEGACY_MAGIC, "is a pickle, but not torch's: use torch.save")
    require(unpickle(data)[0] == 1001, "is of an unknown protocol: save it again with torch")
    unpickle(data)
    top, storages = unpickle(data)
    extents = {}
    for key in unpickle(data)[0]:
        require(
            isinstance(key, str) and key in storages and key not in extents,
            f"lists storages that no tensor names: {AGAIN}",
        )
        storage = storages[key]
        require(
            storage.kind in _DTYPES,
            f"holds a {_quoted(storage.kind)}, which cannot be "
            "read: save the state dict alone, as float32",
        )
        count, start = data.read(8), data.tell()
        extent = range(start, start + storage.numel * _DTYPES[storage.kind].itemsize)
        require(
            count == struct.pack("<q", storage.numel) and extent.stop <= len(data),
            f"ends before or within storage {_quoted(key)}: {AGAIN}",
        )
        data.seek(extent.stop)
        extents[key] = extent
    return _Contents(top, extents, _notes(top))


# --- safetensors ----------------------------------------------------------------------------------


def _safetensors(data: mmap.mmap) -> _Contents:
    """A length, that many bytes of JSON, and the tensors, which fill the rest edge to edge."""
    (length,) = struct.unpack_from("<Q", data)
    require(
        length <= min(len(data) - 8, _MAX_HEADER_BYTES),
        f"has a header longer than the file: {AGAIN}",
    )
    header = json.loads(data[8 : 8 + length].decode(), object_pairs_hook=_dict_without_duplicates)
    notes = header.pop("__metadata__", {})
    top, extents = {}, {}
    for name, entry in header.items():
        kind, size, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        require(_are_counts(size), f"gives {_quoted(name)} an impossible shape: {AGAIN}")
        stride = tuple(math.prod(size[axis + 1 :]) for axis in range(len(size)))
        storage = Storage(kind, name, math.prod(size), 0, math.prod(size))
        top[name] = Tensor(storage, kind, 0, size, stride)
        extents[name] = range(8 + length + start, 8 + length + stop)
    edge = 8 + length
    for extent in sorted(extents.values(), key=lambda extent: (extent.start, extent.stop)):
        require(extent.start == edge <= extent.stop, f"has tensors that overlap: {AGAIN}")
        edge = extent.stop
    require(edge == len(data), f"is shorter or longer than its tensors: {AGAIN}")
    return _Contents(top, extents, notes)


def _dict_without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    require(len(pairs) == len(dict(pairs)), f"names a tensor twice: {AGAIN}")
    return dict(pairs)


# --- tensors --------------------------------------------------------------------------------------


def _state_dict(top: Any) -> dict:
    require(isinstance(top, dict), f"holds {_described(top)}, not a dict: save its state_dict()")
    inner = [top[name] for name in ("state_dict", "model") if isinstance(top.get(name), dict)]
    return inner[0] if inner else top


def _notes(top: object) -> dict:
    top = top if isinstance(top, dict) else {}
    return top | (top["meta"] if isinstance(top.get("meta"), dict) else {})


def _described(node: object) -> str:
    if isinstance(node, Foreign):
        return _quoted(f"{node.module:.40}.{node.name:.40}")
    return f"an object of type {type(node).__name__.lstrip('_').lower()}"


def _view(name: str, tensor: object, contents: _Contents, data: mmap.mmap) -> np.ndarray:
    """The tensor as a window into the file. Every number is only the file's word, and is checked
    in Python's integers: NumPy's own check of strides can overflow."""
    quoted = _quoted(name)
    require(
        isinstance(tensor, Tensor),
        f"holds {_described(tensor)} as {quoted}, not a tensor: save `model.state_dict()`",
    )
    storage, kind, offset, size, stride = tensor
    dtype, storage_dtype = _DTYPES.get(kind), _DTYPES.get(storage.kind)
    require(
        dtype and storage_dtype,
        f"has {quoted} in {_quoted(kind)}, which cannot be read: save it as float32",
    )
    require(
        _are_counts(size)
        and _are_counts(stride)
        and len(size) == len(stride)
        and _are_counts((offset, storage.numel, storage.first, storage.length)),
        f"gives {quoted} an impossible shape: {AGAIN}",
    )
    extent = contents.extents.get(storage.key)
    require(
        extent is not None and len(extent) == storage.numel * storage_dtype.itemsize,
        f"lacks {quoted} or a part of it: {AGAIN}",
    )
    if 0 in size:
        return np.empty(size, dtype)
    steps = list(zip(size, stride, strict=True))
    reach = offset + sum((n - 1) * step for n, step in steps) + 1
    require(
        reach * dtype.itemsize <= storage.length * storage_dtype.itemsize
        and storage.first + storage.length <= storage.numel,
        f"has {quoted} reach past its storage: {AGAIN}",
    )
    start = extent.start + storage.first * storage_dtype.itemsize + offset * dtype.itemsize
    # The step along an axis of one is never taken, and can be anything.
    strides = [step * dtype.itemsize if n > 1 else 0 for n, step in steps]
    return np.ndarray(size, dtype, buffer=data, offset=start, strides=strides)


def _are_counts(numbers: object) -> bool:
    """Few and small enough to reckon with."""
    return (
        isinstance(numbers, tuple)
        and len(numbers) <= 32
        and all(type(number) is int and 0 <= number < 1 << 62 for number in numbers)
    )
