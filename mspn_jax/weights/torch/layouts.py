"""The three layouts of a checkpoint file, and where in it the bytes of each tensor are.

- zip: `torch.save` since 1.6 (`_save` in `torch/serialization.py`, written by
  `caffe2/serialize/inline_container.cc`);
- legacy: `torch.save` before 1.6 (`_legacy_save` in the same file); the published MSPN files;
- safetensors: https://huggingface.co/docs/safetensors.

`unpickling` reads the pickle inside the first two, `state_dicts` the tensors.
"""

import io
import itertools
import json
import math
import mmap
import struct
import zlib
from typing import NamedTuple

import ml_dtypes
import numpy as np

from mspn_jax.storage import files
from mspn_jax.weights.torch.unpickling import AGAIN, Storage, Tensor, require, unpickle

# The names are torch's, those of torch's storage classes, and safetensors'.
DTYPES = {
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
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# About five times what a training checkpoint of the largest model needs. It bounds the memory and
# time that a hostile file can take.
MAX_HEADER_BYTES = 1 << 24


class Contents(NamedTuple):
    """What a file holds, before its tensors are read."""

    top: object  # the object that was saved
    extents: dict[str, range]  # key of a storage -> its bytes in the file
    notes: dict  # entries beside the tensors
    big_endian: bool = False


def parse(data: mmap.mmap) -> Contents:
    """Finds out the layout of a file and reads everything but its tensors."""
    head = data[:512]
    if head.startswith(b"PK"):
        return _zip(data)
    if head[6:9] == b"\0\0{":  # the end of a length, and JSON
        return _safetensors(data)
    require(
        head[257:262] != b"ustar",
        "is a tar, from torch before 0.1.10: load it with torch 1.x and save it again",
    )
    require(
        not head.startswith(b"version https://git-lfs"),
        "is a git-lfs pointer, not the file itself: run `git lfs pull`",
    )
    require(
        not head.lstrip().startswith(b"<"),
        f"is a web page saved in place of the checkpoint: {AGAIN}",
    )
    require(
        head.startswith((b"\x80", b"L")),  # how a pickle begins; L is protocol 1
        "is not a checkpoint: give torch's .pth or .pt, or a .safetensors",
    )
    return _legacy(data)


def _zip(data: mmap.mmap) -> Contents:
    """`<any>/data.pkl`, `<any>/data/<key>` for each storage, and perhaps `<any>/byteorder`."""
    records = zip_records(data)
    pickles = [name for name in records if name.endswith("/data.pkl") and name.count("/") == 1]
    require(len(pickles) == 1, "is a zip without torch's data.pkl: give a .pth from torch.save")
    where = records[pickles[0]]
    top, _ = unpickle(io.BytesIO(data[where.start : where.stop]))
    folder = pickles[0].removesuffix("data.pkl")
    extents = {
        name.removeprefix(folder + "data/"): extent
        for name, extent in records.items()
        if name.startswith(folder + "data/")
    }
    order = records.get(folder + "byteorder", range(0))
    return Contents(top, extents, _notes(top), data[order.start : order.stop] == b"big")


def zip_records(data: mmap.mmap) -> dict[str, range]:
    """Name of each record -> its bytes in the file.

    torch never compresses, so a record is a slice of the file, and there is no zip bomb to unpack.
    Records may not overlap, so the work is bounded by the file's size.
    """
    end = data.rfind(b"PK\5\6", max(0, len(data) - 22 - 0xFFFF))
    require(0 <= end <= len(data) - 22, f"is a truncated zip: {AGAIN}")
    size, directory = struct.unpack_from("<LL", data, end + 12)
    require(
        directory + size <= end and size <= MAX_HEADER_BYTES,
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
            f"is a zip with a damaged record {quoted(name)}: {AGAIN}",
        )
        require(
            method == 0 and packed == length,
            f"holds {quoted(name)} compressed, which torch never does: unpack it, load it with"
            " torch and save it again",
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
        # 0 means that torch was told to compute no checksums.
        require(
            sums[name] in (0, zlib.crc32(record)),
            f"has a wrong checksum for {quoted(name)}: {AGAIN}",
        )
        files.release(record)
    return records


def _legacy(data: mmap.mmap) -> Contents:
    """Five pickles (magic number, protocol, system, the object, the storages' keys), then each
    storage as an int64 count and its bytes, little-endian on every machine."""
    require(unpickle(data)[0] == LEGACY_MAGIC, "is a pickle, but not torch's: use torch.save")
    require(unpickle(data)[0] == 1001, "has an unknown protocol: save it again with torch")
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
            storage.kind in DTYPES,
            f"holds a {quoted(storage.kind)}, which is not supported: save the state dict only, as"
            " float32",
        )
        count, start = data.read(8), data.tell()
        extent = range(start, start + storage.numel * DTYPES[storage.kind].itemsize)
        require(
            count == struct.pack("<q", storage.numel) and extent.stop <= len(data),
            f"ends before or within storage {quoted(key)}: {AGAIN}",
        )
        data.seek(extent.stop)
        extents[key] = extent
    return Contents(top, extents, _notes(top))


def _safetensors(data: mmap.mmap) -> Contents:
    """A uint64 length, that many bytes of JSON, and the tensors, which fill the rest exactly."""
    (length,) = struct.unpack_from("<Q", data)
    require(
        length <= min(len(data) - 8, MAX_HEADER_BYTES),
        f"has a header longer than the file: {AGAIN}",
    )
    header = json.loads(data[8 : 8 + length].decode(), object_pairs_hook=_dict_without_duplicates)
    notes = header.pop("__metadata__", {})
    top, extents = {}, {}
    for name, entry in header.items():
        kind, size, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        require(are_counts(size), f"gives {quoted(name)} an impossible shape: {AGAIN}")
        stride = tuple(math.prod(size[axis + 1 :]) for axis in range(len(size)))
        storage = Storage(kind, name, math.prod(size), 0, math.prod(size))
        top[name] = Tensor(storage, kind, 0, size, stride)
        extents[name] = range(8 + length + start, 8 + length + stop)
    edge = 8 + length
    for extent in sorted(extents.values(), key=lambda extent: (extent.start, extent.stop)):
        require(extent.start == edge <= extent.stop, f"has tensors that overlap: {AGAIN}")
        edge = extent.stop
    require(edge == len(data), f"is shorter or longer than its tensors: {AGAIN}")
    return Contents(top, extents, notes)


def _dict_without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    require(len(pairs) == len(dict(pairs)), f"names a tensor twice: {AGAIN}")
    return dict(pairs)


def _notes(top: object) -> dict:
    top = top if isinstance(top, dict) else {}
    return top | (top["meta"] if isinstance(top.get("meta"), dict) else {})


def quoted(text: str) -> str:
    """Text from a file as one short line of ASCII."""
    return ascii(text[:80])


def are_counts(numbers: object) -> bool:
    """Whether these are at most 32 integers from 0 to 2^62: a shape, strides or offsets."""
    return (
        isinstance(numbers, tuple)
        and len(numbers) <= 32
        and all(type(number) is int and 0 <= number < 1 << 62 for number in numbers)
    )
