"""Files that are written whole or not at all, whenever the program is killed, on a disk or in a
bucket; and files too large to be in memory."""

import json
import mmap
import os
import pathlib
import tempfile
from typing import Any

import numpy as np

from mspn_jax.storage import paths


def read_text(path: str | os.PathLike) -> str:
    """A file's text; raises OSError (FileNotFoundError) and, of a bucket, StorageError."""
    return paths.read_bytes(paths.path(path)).decode()


def write_text(path: str | os.PathLike, text: str) -> None:
    """Replaces a file by one with `text` in it; if it raises, the old one stands.

    Raises:
      OSError: of a disk.
      StorageError: of a bucket.
    """
    path = paths.path(path)
    if not isinstance(path, pathlib.Path):
        paths.upload(path, text.encode())
        return
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def write_json(path: str | os.PathLike, content: Any, indent: int | None = None) -> None:
    """Likewise with json; TypeError for what it cannot hold."""
    write_text(path, json.dumps(content, indent=indent) + "\n")


def release(array: np.ndarray) -> None:
    """Gives back the memory of a file that a large array is a window into, and the array stays.

    The system still has what was read, but it no longer counts as this process's memory. Any other
    array, also a window that can be written to, is left alone.
    """
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if (
        isinstance(owner, mmap.mmap)
        and array.nbytes >= 1 << 20  # small ones would cost a system call each
        and memoryview(owner).readonly
        and hasattr(mmap, "MADV_DONTNEED")
    ):
        owner.madvise(mmap.MADV_DONTNEED)
