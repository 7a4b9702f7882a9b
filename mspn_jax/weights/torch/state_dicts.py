"""Reads PyTorch checkpoints into NumPy, without torch and without running anything in the file.

What a caller sees, and the arrays. How the files are laid out is in `layouts`, the pickle
inside most of them in `unpickling`.
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

# Of the three names of each the last is safetensors'.
_SAFETENSORS_KINDS = {dtype: name for name, dtype in DTYPES.items()}


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
        contents = parse(data)
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
                f"has {quoted(name)} far larger than "
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
            for name, value in parse(data).notes.items()
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


def _state_dict(top: Any) -> dict:
    require(isinstance(top, dict), f"holds {_described(top)}, not a dict: save its state_dict()")
    inner = [top[name] for name in ("state_dict", "model") if isinstance(top.get(name), dict)]
    return inner[0] if inner else top


def _described(node: object) -> str:
    if isinstance(node, Foreign):
        return quoted(f"{node.module:.40}.{node.name:.40}")
    return f"an object of type {type(node).__name__.lstrip('_').lower()}"


def _view(name: str, tensor: object, contents: Contents, data: mmap.mmap) -> np.ndarray:
    """The tensor as a window into the file. Every number is only the file's word, and is checked
    in Python's integers: NumPy's own check of strides can overflow."""
    require(
        isinstance(tensor, Tensor),
        f"holds {_described(tensor)} as {quoted(name)}, not a tensor: save `model.state_dict()`",
    )
    storage, kind, offset, size, stride = tensor
    dtype, storage_dtype = DTYPES.get(kind), DTYPES.get(storage.kind)
    require(
        dtype and storage_dtype,
        f"has {quoted(name)} in {quoted(kind)}, which cannot be read: save it as float32",
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
    # The step along an axis of one is never taken, and can be anything.
    strides = [step * dtype.itemsize if n > 1 else 0 for n, step in steps]
    return np.ndarray(size, dtype, buffer=data, offset=start, strides=strides)
