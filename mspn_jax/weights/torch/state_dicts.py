"""Reads and writes state dicts as NumPy arrays, without torch; no code in a file is run.

`layouts` knows how the files are laid out, `unpickling` reads the pickle inside most of them.
"""

import contextlib
import json
import mmap
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mspn_jax.errors import TorchFileError
from mspn_jax.storage import files
from mspn_jax.weights.torch.layouts import DTYPES, Contents, are_counts, parse, quoted
from mspn_jax.weights.torch.unpickling import AGAIN, Foreign, Tensor, require

# The last of a dtype's names is safetensors'.
_SAFETENSORS_KINDS = {dtype: name for name, dtype in DTYPES.items()}


def read(path: str | os.PathLike, *, copy: bool = True) -> dict[str, np.ndarray]:
    """Reads the state dict in a `.pth`, `.pt` or `.safetensors` file.

    The state dict is the entry `state_dict` (mmcv, mmengine) or `model` (the authors) if the file
    has one, else the whole object. Other entries are not read. A prefix `module.` of all names is
    removed.

    Args:
      copy: return arrays that are contiguous, writable and share no memory. Otherwise they are
        read-only views of the memory-mapped file, which must not change; `files.release` drops
        their pages. (bool and big-endian tensors are always copies.)

    Returns:
      name -> array in torch's shape and dtype. bfloat16 is `ml_dtypes.bfloat16`.

    Raises:
      TorchFileError: the file is missing, damaged, of another kind, or its state dict holds
        anything but tensors and None.
    """
    with _mapped(path) as data:
        contents = parse(data)
        arrays, total = {}, 0
        for name, entry in _state_dict(contents.top).items():
            require(isinstance(name, str), "has a tensor whose name is not a string: rename it")
            if entry is None or name == "_metadata":
                continue
            view = _view(name, entry, contents, data)
            # A view with stride 0 can be far larger than the file.
            total += view.nbytes
            require(
                total <= max(2 * len(data), 1 << 20),
                f"has {quoted(name)} far larger than the file: save it with `.clone()`, or distrust"
                " it",
            )
            if contents.big_endian:
                view = view.byteswap()
            if view.dtype == bool:  # in torch any byte but 0 is true, in NumPy only 1
                view = view.view(np.uint8) != 0
            arrays[name] = np.array(view, order="C") if copy else view
            files.release(view)
        require(arrays, "holds no tensors: save `model.state_dict()`")
        if all(name.startswith("module.") for name in arrays):
            arrays = {name.removeprefix("module."): array for name, array in arrays.items()}
        return arrays


def metadata(path: str | os.PathLike) -> dict[str, str | int | float | bool]:
    """Strings and numbers that a file holds beside its tensors, such as mmcv's `mmpose_version`.

    They are the entries of the top level and of `meta`, or of safetensors' `__metadata__`.
    Errors are those of `read`.
    """
    with _mapped(path) as data:
        return {
            name: value
            for name, value in parse(data).notes.items()
            if isinstance(name, str) and isinstance(value, str | int | float)
        }


def write_safetensors(
    path: str | os.PathLike, arrays: Mapping[str, np.ndarray], notes: Mapping[str, str]
) -> None:
    """Writes a `.safetensors` file; `notes` become its `__metadata__`.

    The format is a uint64 length, a JSON header padded with spaces to eight bytes, and the arrays
    without gaps (https://huggingface.co/docs/safetensors).

    Raises:
      OSError: the file cannot be written.
      KeyError: an array has a dtype that `read` does not know.
    """
    header: dict[str, Any] = {"__metadata__": dict(notes)}
    edge = 0
    for name, array in arrays.items():
        offsets = [edge, edge := edge + array.nbytes]
        kind = _SAFETENSORS_KINDS[array.dtype]
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": offsets}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with files.replaced(path) as partial, open(partial, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in arrays.values():
            file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())


def write_pth(
    path: str | os.PathLike, arrays: Mapping[str, np.ndarray], notes: Mapping[str, str]
) -> None:
    """Writes name -> array as torch and mmengine do: `notes` as `meta` beside `state_dict`.

    Raises:
      ImportError: torch is not installed.
    """
    import torch

    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    with files.replaced(path) as partial:
        torch.save({"meta": dict(notes), "state_dict": tensors}, partial)


@contextlib.contextmanager
def _mapped(path: str | os.PathLike) -> Iterator[mmap.mmap]:
    """The bytes of a file. Errors inside the context become TorchFileErrors that name the file."""
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
        raise TorchFileError(f"{path}: needs more memory than this machine has") from error
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


def _state_dict(top: Any) -> dict:
    require(isinstance(top, dict), f"holds {_described(top)}, not a dict: save its state_dict()")
    inner = [top[name] for name in ("state_dict", "model") if isinstance(top.get(name), dict)]
    return inner[0] if inner else top


def _described(node: object) -> str:
    if isinstance(node, Foreign):
        return quoted(f"{node.module:.40}.{node.name:.40}")
    return f"an object of type {type(node).__name__.lstrip('_').lower()}"


def _view(name: str, tensor: object, contents: Contents, data: mmap.mmap) -> np.ndarray:
    """A tensor as a view of the file.

    All numbers come from the file and are checked as Python integers: NumPy's own check of strides
    can overflow.
    """
    require(
        isinstance(tensor, Tensor),
        f"holds {_described(tensor)} as {quoted(name)}, not a tensor: save `model.state_dict()`",
    )
    storage, kind, offset, size, stride = tensor
    dtype, storage_dtype = DTYPES.get(kind), DTYPES.get(storage.kind)
    require(
        dtype and storage_dtype,
        f"has {quoted(name)} in {quoted(kind)}, which is not supported: save it as float32",
    )
    require(
        are_counts(size)
        and are_counts(stride)
        and len(size) == len(stride)
        and are_counts((offset, storage.numel, storage.first, storage.length)),
        f"gives {quoted(name)} an impossible shape: {AGAIN}",
    )
    extent = contents.extents.get(storage.key)
    require(
        extent is not None and len(extent) == storage.numel * storage_dtype.itemsize,
        f"lacks {quoted(name)} or a part of it: {AGAIN}",
    )
    if 0 in size:
        return np.empty(size, dtype)
    steps = list(zip(size, stride, strict=True))
    reach = offset + sum((n - 1) * step for n, step in steps) + 1
    require(
        reach * dtype.itemsize <= storage.length * storage_dtype.itemsize
        and storage.first + storage.length <= storage.numel,
        f"has {quoted(name)} reach past its storage: {AGAIN}",
    )
    start = extent.start + storage.first * storage_dtype.itemsize + offset * dtype.itemsize
    # The stride of an axis of length 1 is never used, and can be any number.
    strides = [step * dtype.itemsize if n > 1 else 0 for n, step in steps]
    return np.ndarray(size, dtype, buffer=data, offset=start, strides=strides)
