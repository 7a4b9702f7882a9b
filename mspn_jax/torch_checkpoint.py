"""Reads PyTorch checkpoints into NumPy, without torch and without running anything in the file.

Top to bottom: what a caller sees, which kind of file it is, the zip of torch 1.6 and later, the
stream of torch before that ("legacy"; the published MSPN files are of this kind), safetensors, the
pickle inside the first two, and at last the arrays.

A pickle is a program for a small stack machine. Python's own machine is not safe to lend to a
stranger even where no class can be looked up: nested tuples as a dict's key overflow its C stack,
and ten bytes with a large memo number take gigabytes. So `_unpickle` runs the program itself, and
with it a call calls nothing.
"""

import contextlib
import io
import json
import math
import mmap
import os
import pickletools
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

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
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# Some five times what a training checkpoint of the largest model needs: they bound the memory and
# the seconds that a hostile file can take.
_MAX_OPCODES = 2_000_000
_MAX_HEADER_BYTES = 1 << 24
_AGAIN = "download it again"


class CheckpointError(ValueError):
    """A file that cannot be read as a checkpoint: one line that names it and says what to do."""


class _Foreign(NamedTuple):
    """Stands for a class or function that a pickle names, and for whatever comes of it."""

    module: str
    name: str


class _Storage(NamedTuple):
    """A run of `numel` numbers kept beside the pickle, or what `first` and `length` cut from it."""

    kind: str
    key: str
    numel: int
    first: int
    length: int


class _Tensor(NamedTuple):
    """A strided window into a storage, counted in elements of `kind`."""

    storage: _Storage
    kind: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Contents(NamedTuple):
    """The object saved, the bytes of each storage in the file, and what else there is to know."""

    top: object
    extents: dict[str, range]
    notes: dict
    big_endian: bool = False


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the state dict out of a `.pth` or `.pt` file in either of torch's layouts, or of a
    `.safetensors` file.

    The state dict is the entry `state_dict` (mmcv, mmengine) or `model` (the authors) if the file
    has one, else the whole; what lies beside it is not read. A `module.` that every name begins
    with is taken off.

    Returns: name -> array in torch's shape and dtype, contiguous and writable, each with memory of
    its own, also where torch shared it. bfloat16 is `ml_dtypes.bfloat16`.

    Raises: CheckpointError, a ValueError, if the file is missing, damaged, of another kind, or
    holds anything but tensors (or None) in its state dict.
    """
    with _mapped(path) as data:
        contents = _contents(data)
        arrays, total = {}, 0
        for name, entry in _state_dict(contents.top).items():
            _require(isinstance(name, str), "has a tensor whose name is no text: rename it")
            if entry is None or name == "_metadata":
                continue
            view = _view(name, entry, contents, data)
            # A window with stride 0 is as large as it says it is, whatever the file holds.
            total += view.nbytes
            _require(total <= max(2 * len(data), 1 << 20), f"has {_quoted(name)} far larger than "
                     "the file: save it with `.clone()`, or distrust it")
            arrays[name] = np.array(view, order="C")
            if contents.big_endian:
                arrays[name].byteswap(inplace=True)
            if view.dtype == bool:  # any byte but 0 is true to torch; NumPy wants a 1
                arrays[name] = arrays[name].view(np.uint8) != 0
        _require(arrays, "holds no tensors: save `model.state_dict()`")
        if all(name.startswith("module.") for name in arrays):
            arrays = {name.removeprefix("module."): array for name, array in arrays.items()}
        return arrays


def metadata(path: str | os.PathLike) -> dict[str, str | int | float | bool]:
    """Returns the texts and numbers that the file keeps beside its tensors, such as mmcv's
    `mmpose_version` and `config`: those of the top level and of `meta`, or of safetensors'
    `__metadata__`. Raises CheckpointError as `read` does."""
    with _mapped(path) as data:
        return {name: value for name, value in _contents(data).notes.items()
                if isinstance(name, str) and isinstance(value, str | int | float)}


@contextlib.contextmanager
def _mapped(path: str | os.PathLike) -> Iterator[mmap.mmap]:
    """The file's bytes. What goes wrong with them inside becomes one line that names the file."""
    try:
        _require(Path(path).is_file(), "is not a file: give the path of a .pth or .safetensors")
        with open(path, "rb") as file:
            _require(os.fstat(file.fileno()).st_size, f"is empty: {_AGAIN}")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        yield data
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except MemoryError as error:
        raise CheckpointError(f"{path}: needs more memory than this machine gives") from error
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
            struct.error) as error:
        raise CheckpointError(f"{path}: is damaged: {_AGAIN}") from error


def _require(holds: object, otherwise: str) -> None:
    if not holds:
        raise CheckpointError(otherwise)


def _quoted(text: str) -> str:
    """On one line, and short, whatever the file says."""
    return ascii(text[:80])


def _contents(data: mmap.mmap) -> _Contents:
    head = data[:512]
    if head.startswith(b"PK"):
        return _zip(data)
    if head[6:9] == b"\0\0{":  # the end of a length, and JSON: no text has zero bytes
        return _safetensors(data)
    _require(head[257:262] != b"ustar",
             "is a tar, of torch before 0.1.10: load it with torch 1.x and save it again")
    _require(not head.startswith(b"version https://git-lfs"),
             "is a git-lfs pointer and not the file itself: run `git lfs pull`")
    _require(not head.lstrip().startswith(b"<"),
             f"is a web page saved in the checkpoint's place: {_AGAIN}")
    _require(head.startswith((b"\x80", b"L")),  # how a pickle begins; L is protocol 1
             "is no checkpoint: give torch's .pth or .pt, or a .safetensors")
    return _legacy(data)


# --- the zip of torch 1.6 and later ---------------------------------------------------------------


def _zip(data: mmap.mmap) -> _Contents:
    """`<any>/data.pkl`, `<any>/data/<key>` for each storage, and perhaps `<any>/byteorder`."""
    records = _zip_records(data)
    pickles = [name for name in records if name.endswith("/data.pkl") and name.count("/") == 1]
    _require(len(pickles) == 1, "is a zip without torch's data.pkl: give a .pth of torch.save")
    where = records[pickles[0]]
    top, _ = _unpickle(io.BytesIO(data[where.start : where.stop]))
    folder = pickles[0].removesuffix("data.pkl")
    extents = {name.removeprefix(folder + "data/"): extent for name, extent in records.items()
               if name.startswith(folder + "data/")}
    order = records.get(folder + "byteorder", range(0))
    return _Contents(top, extents, _notes(top), data[order.start : order.stop] == b"big")


def _zip_records(data: mmap.mmap) -> dict[str, range]:
    """Where each record lies. torch never compresses, so a record is a slice of the file and a bomb
    has nothing to unpack; that no two overlap keeps all work below the file's size."""
    end = data.rfind(b"PK\5\6", max(0, len(data) - 22 - 0xFFFF))
    _require(0 <= end <= len(data) - 22, f"is a zip that was cut short: {_AGAIN}")
    size, directory = struct.unpack_from("<LL", data, end + 12)
    _require(directory + size <= end and size <= _MAX_HEADER_BYTES,
             f"is a zip with a damaged directory, or over 4 GiB: {_AGAIN}")
    records, sums, at, edges = {}, {}, directory, [(directory, directory)]
    while at < directory + size:
        magic, method, crc, packed, length, name_size, extra_size, comment_size, header = (
            struct.unpack_from("<4s6xH4xLLLHHH8xL", data, at))
        name = data[at + 46 : at + 46 + name_size].decode()
        at += 46 + name_size + extra_size + comment_size
        local_magic, *local_sizes = struct.unpack_from("<4s22xHH", data, header)
        start = header + 30 + sum(local_sizes)
        _require((magic, local_magic) == (b"PK\1\2", b"PK\3\4") and name not in records,
                 f"is a zip with a damaged record {_quoted(name)}: {_AGAIN}")
        _require(method == 0 and packed == length, f"holds {_quoted(name)} compressed, which "
                 "torch never does: unpack it, load it with torch and save it again")
        records[name], sums[name] = range(start, start + length), crc
        edges.append((header, start + length))
    edges.sort()
    _require(all(stop <= header for (_, stop), (header, _) in zip(edges, edges[1:], strict=False))
             and edges[-1] == (directory, directory), f"is a zip with overlaps: {_AGAIN}")
    for name, where in records.items():
        # torch writes a sum of 0 where it was told not to compute any.
        _require(sums[name] in (0, zlib.crc32(memoryview(data)[where.start : where.stop])),
                 f"has a wrong checksum for {_quoted(name)}: {_AGAIN}")
    return records


# --- the stream of torch before 1.6 ---------------------------------------------------------------


def _legacy(data: mmap.mmap) -> _Contents:
    """Five pickles one after another (magic number, protocol, system, the object, the storages'
    keys), then each storage as an int64 count and its bytes, little-endian on every machine."""
    _require(_unpickle(data)[0] == _LEGACY_MAGIC, "is a pickle, but not torch's: use torch.save")
    _require(_unpickle(data)[0] == 1001, "is of an unknown protocol: save it again with torch")
    _unpickle(data)
    top, storages = _unpickle(data)
    extents = {}
    for key in _unpickle(data)[0]:
        _require(isinstance(key, str) and key in storages and key not in extents,
                 f"lists storages that no tensor names: {_AGAIN}")
        storage = storages[key]
        _require(storage.kind in _DTYPES, f"holds a {_quoted(storage.kind)}, which cannot be "
                 "read: save the state dict alone, as float32")
        count, start = data.read(8), data.tell()
        extent = range(start, start + storage.numel * _DTYPES[storage.kind].itemsize)
        _require(count == struct.pack("<q", storage.numel) and extent.stop <= len(data),
                 f"ends before or within storage {_quoted(key)}: {_AGAIN}")
        data.seek(extent.stop)
        extents[key] = extent
    return _Contents(top, extents, _notes(top))


# --- safetensors ----------------------------------------------------------------------------------


def _safetensors(data: mmap.mmap) -> _Contents:
    """A length, that many bytes of JSON, and the tensors, which fill the rest edge to edge."""
    (length,) = struct.unpack_from("<Q", data)
    _require(length <= min(len(data) - 8, _MAX_HEADER_BYTES),
             f"has a header longer than the file: {_AGAIN}")
    header = json.loads(data[8 : 8 + length].decode(), object_pairs_hook=_dict_without_duplicates)
    notes = header.pop("__metadata__", {})
    top, extents = {}, {}
    for name, entry in header.items():
        kind, size, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        _require(_are_counts(size), f"gives {_quoted(name)} an impossible shape: {_AGAIN}")
        stride = tuple(math.prod(size[axis + 1 :]) for axis in range(len(size)))
        storage = _Storage(kind, name, math.prod(size), 0, math.prod(size))
        top[name] = _Tensor(storage, kind, 0, size, stride)
        extents[name] = range(8 + length + start, 8 + length + stop)
    edge = 8 + length
    for extent in sorted(extents.values(), key=lambda extent: (extent.start, extent.stop)):
        _require(extent.start == edge <= extent.stop, f"has tensors that overlap: {_AGAIN}")
        edge = extent.stop
    _require(edge == len(data), f"is shorter or longer than its tensors: {_AGAIN}")
    return _Contents(top, extents, notes)


def _dict_without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    _require(len(pairs) == len(dict(pairs)), f"names a tensor twice: {_AGAIN}")
    return dict(pairs)


# --- the pickle -----------------------------------------------------------------------------------


def _unpickle(stream: io.BytesIO | mmap.mmap) -> tuple[object, dict[str, _Storage]]:
    """Returns the object pickled at the stream's position, and the storages it names, by key.

    Lists, tuples, dicts, texts, numbers, `_Storage` and `_Tensor` are built; everything else is a
    `_Foreign`, and what the pickle does to one is stepped over. Nothing but text is hashed, and no
    instruction costs more than the bytes and instructions that led to it.
    """
    stack, marks, memo, storages = [], [], {}, {}
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        _require(count < _MAX_OPCODES, "holds far more than weights: save the state dict alone")
        name = opcode.name
        if name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "GLOBAL":
            stack.append(_Foreign(*argument.split(" ", 1)))
        elif name in _LITERALS:
            stack.append(argument)
        elif name in _RESULTS:
            taken = []
            if _TAKES_SLICE[name]:
                start = marks.pop()
                taken = [stack[start:]]
                del stack[start:]
            start = len(stack) - _TAKES[name]
            taken[:0] = stack[start:]
            del stack[start:]
            stack.append(_RESULTS[name](*taken))
            if isinstance(stack[-1], _Storage):
                storages.setdefault(stack[-1].key, stack[-1])
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            del stack[marks.pop() :]
        else:
            _require(name in ("PROTO", "FRAME", "STOP"),
                     f"uses {name}, which torch never does: distrust it")
    return stack[-1], storages


def _extended(target: object, items: list) -> object:
    if isinstance(target, list):
        target.extend(items)
    return target


def _filled(target: object, items: list | tuple) -> object:
    """Only text stays a key: anything else could be made slow, or fatal, to hash or compare."""
    if isinstance(target, dict):
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[key if isinstance(key, str) else object()] = value
    return target


def _named(module: object, name: object) -> _Foreign:
    _require(isinstance(module, str) and isinstance(name, str), f"is damaged: {_AGAIN}")
    return _Foreign(module, name)


def _persistent(pid: object) -> _Storage | _Foreign:
    """What is kept outside the pickle."""
    match pid:
        case "storage", _Foreign(name=kind), str(key), _, int(numel):
            return _Storage(kind, key, numel, 0, numel)
        case "storage", _Foreign(name=kind), str(key), _, int(numel), view:
            _, first, length = view or (key, 0, numel)
            return _Storage(kind, key, numel, first, length)
        case "module", _Foreign() as network, _, _:  # where a whole network was saved
            return network
    return _Foreign("an", "object")


def _called(function: object, arguments: object) -> object:
    """What stands for `function(*arguments)`. Nothing is called."""
    match function, arguments:
        case _Foreign("collections", "OrderedDict"), ():
            return {}
        case _Foreign("collections", "OrderedDict"), (list(pairs),):  # as Python 2 wrote it
            items = [part for key, value in pairs for part in (key, value)]
            pairs.clear()  # lest a pickle that builds it over and over grows with the square
            return _filled({}, items)
        case _Foreign("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2"), (
            (_Storage() as storage, offset, size, stride)
            | (_Storage() as storage, offset, size, stride, _, _)
        ):
            return _Tensor(storage, storage.kind, offset, size, stride)
        case _Foreign("torch._utils", "_rebuild_tensor_v3"), (
            _Storage() as storage, offset, size, stride, _, _, _Foreign("torch", kind)
        ):
            return _Tensor(storage, kind, offset, size, stride)
        case _Foreign("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state"), (
            data, *_
        ):
            return data
    return function if isinstance(function, _Foreign) else _Foreign("an", "object")


_LITERALS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8"
    .split())
# What an instruction leaves on the stack for what it takes from there. A slice down to the last
# mark comes as one list.
_RESULTS = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": lambda: _Foreign("builtins", "set"),
    "EMPTY_TUPLE": tuple,
    "TUPLE": tuple,
    "TUPLE1": lambda *items: items,
    "TUPLE2": lambda *items: items,
    "TUPLE3": lambda *items: items,
    "FROZENSET": lambda items: _Foreign("builtins", "frozenset"),
    "APPEND": lambda target, item: _extended(target, [item]),
    "APPENDS": _extended,
    "ADDITEMS": lambda target, items: target,
    "SETITEM": lambda target, *items: _filled(target, items),
    "SETITEMS": _filled,
    "BUILD": lambda target, state: target,
    "STACK_GLOBAL": _named,
    "REDUCE": _called,
    "NEWOBJ": _called,
    "NEWOBJ_EX": lambda function, arguments, keywords: _called(function, arguments),
    "BINPERSID": _persistent,
}
_TAKES_SLICE = {opcode.name: pickletools.markobject in opcode.stack_before
                for opcode in pickletools.opcodes}
# Apart from that slice and its mark.
_TAKES = {opcode.name: len(opcode.stack_before) - 2 * _TAKES_SLICE[opcode.name]
          for opcode in pickletools.opcodes}


# --- tensors --------------------------------------------------------------------------------------


def _state_dict(top: object) -> dict:
    _require(isinstance(top, dict), f"holds {_described(top)}, not a dict: save its state_dict()")
    inner = [top[name] for name in ("state_dict", "model") if isinstance(top.get(name), dict)]
    return inner[0] if inner else top


def _notes(top: object) -> dict:
    top = top if isinstance(top, dict) else {}
    return top | (top["meta"] if isinstance(top.get("meta"), dict) else {})


def _described(node: object) -> str:
    if isinstance(node, _Foreign):
        return _quoted(f"{node.module:.40}.{node.name:.40}")
    return f"an object of type {type(node).__name__.lstrip('_').lower()}"


def _view(name: str, tensor: object, contents: _Contents, data: mmap.mmap) -> np.ndarray:
    """The tensor as a window into the file. Every number is only the file's word, and is checked
    in Python's integers: NumPy's own check of strides can overflow."""
    quoted = _quoted(name)
    _require(isinstance(tensor, _Tensor),
             f"holds {_described(tensor)} as {quoted}, not a tensor: save `model.state_dict()`")
    storage, kind, offset, size, stride = tensor
    dtype, storage_dtype = _DTYPES.get(kind), _DTYPES.get(storage.kind)
    _require(dtype and storage_dtype,
             f"has {quoted} in {_quoted(kind)}, which cannot be read: save it as float32")
    _require(_are_counts(size) and _are_counts(stride) and len(size) == len(stride)
             and _are_counts((offset, storage.numel, storage.first, storage.length)),
             f"gives {quoted} an impossible shape: {_AGAIN}")
    extent = contents.extents.get(storage.key)
    _require(extent is not None and len(extent) == storage.numel * storage_dtype.itemsize,
             f"lacks {quoted} or a part of it: {_AGAIN}")
    if 0 in size:
        return np.empty(size, dtype)
    steps = list(zip(size, stride, strict=True))
    reach = offset + sum((n - 1) * step for n, step in steps) + 1
    _require(reach * dtype.itemsize <= storage.length * storage_dtype.itemsize
             and storage.first + storage.length <= storage.numel,
             f"has {quoted} reach past its storage: {_AGAIN}")
    start = extent.start + storage.first * storage_dtype.itemsize + offset * dtype.itemsize
    # The step along an axis of one is never taken, and can be anything.
    strides = [step * dtype.itemsize if n > 1 else 0 for n, step in steps]
    return np.ndarray(size, dtype, buffer=data, offset=start, strides=strides)


def _are_counts(numbers: object) -> bool:
    """Few and small enough to reckon with."""
    return (isinstance(numbers, tuple) and len(numbers) <= 32
            and all(type(number) is int and 0 <= number < 1 << 62 for number in numbers))
