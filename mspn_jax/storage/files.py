"""The one way to write a file: atomically, with its name in the error; and files that grow."""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import mmap
import os
import pathlib
import shutil
import stat
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from mspn_jax.storage import leaving, paths

log = logging.getLogger(__name__)


def read_text(path: str | os.PathLike) -> str:
    """The text of a file. Raises OSError, of a missing file FileNotFoundError, and StorageError."""
    return paths.read_bytes(paths.path(path)).decode()


def sha256(path: str | os.PathLike) -> str:
    """The SHA-256 of a file on a disk, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parsed(text: str | bytes) -> Any:
    """The content of a json. Raises ValueError, also for one that is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("lists or objects are nested too deeply") from None


def size(path: pathlib.Path) -> int | None:
    """Bytes of a file; None where there is none, for example at the end of a dangling link."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def parsed_object(text: str | bytes) -> dict[str, Any]:
    """The content of a json that holds an object. Raises ValueError for any other text."""
    content = parsed(text)
    if not isinstance(content, dict):
        raise ValueError("not an object")
    return content


@contextlib.contextmanager
def replaced(path: str | os.PathLike, *, sync: bool = True) -> Iterator[pathlib.Path]:
    """Gives a temporary file beside `path`, which replaces `path` when the context ends.

    If the context raises, the temporary file is deleted and the old file stays. An OSError has the
    name of `path`. With `sync` a power cut leaves the old or the new file; many small files are
    written faster without.
    """
    path = pathlib.Path(path)
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")  # libraries look at the suffix
    try:
        with named(path), leaving.undone(partial.unlink):
            yield partial
            if sync:
                with open(partial, "rb") as file:
                    os.fsync(file.fileno())
            os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def named(path: str | os.PathLike) -> Iterator[None]:
    """Puts the file's name into an OSError: libraries, and full disks, leave it out."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or f"cannot be written ({error})"
        raise OSError(error.errno or errno.EIO, reason, os.fspath(path)) from None


@contextlib.contextmanager
def locked(path: str | os.PathLike, held: str) -> Iterator[None]:
    """In this context this process holds the lock file, which is created and stays.

    It waits while another process does, and logs what that one is doing, `held`. The system
    releases the lock when the process ends, however it ends.
    """
    with open(path, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s: waiting for it", held)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write_bytes(path: str | os.PathLike, data: bytes, *, sync: bool = True) -> None:
    """Replaces a file atomically. Where that raises OSError or StorageError, the old one stays."""
    path = paths.path(path)
    if isinstance(path, pathlib.Path):
        with replaced(path, sync=sync) as partial:
            partial.write_bytes(data)
    else:
        paths.upload(path, data)


def write_text(path: str | os.PathLike, text: str) -> None:
    """`write_bytes` of text in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike, content: Any, indent: int | None = None) -> None:
    """`write_text` of json. Raises TypeError for what json cannot hold."""
    write_text(path, json.dumps(content, indent=indent) + "\n")


class Listing:
    """A new file of entries, as a context. It is complete after every entry.

    If the disk is full, the entries before stay, and `add` raises OSError with the file's name.
    """

    def __init__(self, path: str | os.PathLike, head: bytes, tail: bytes = b""):
        self.path = pathlib.Path(path)
        self._tail, self._edge = tail, 0
        self._file = open(self.path, "wb", buffering=0)  # noqa: SIM115 (__exit__ closes it)
        try:
            self.add(head)
        except OSError:
            self._file.close()
            self.path.unlink()
            raise

    def add(self, entry: bytes) -> None:
        with named(self.path):
            try:
                self._write(entry + self._tail)
            except OSError:
                self._file.truncate(self._edge + len(self._tail))
                self._write(self._tail)
                raise
        self._edge += len(entry)

    def _write(self, data: bytes) -> None:
        self._file.seek(self._edge)
        while data:
            data = data[self._file.write(data) :]

    def __enter__(self) -> "Listing":
        return self

    def __exit__(self, *exception) -> None:
        self._file.close()


class Log:
    """A file that grows. Losing it stops nothing.

    What cannot be written is kept in memory and written with the next part. The first failure is
    logged as a warning.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        self._waiting = b""
        self._has_warned = False

    def append(self, data: bytes) -> None:
        self._waiting += data
        try:
            with open(self.path, "ab", buffering=0) as file:
                while self._waiting:
                    self._waiting = self._waiting[file.write(self._waiting) :]
        except OSError as error:
            if not self._has_warned:
                log.warning(
                    "%s: cannot be written (%s); continuing without it, and trying again with the"
                    " next entry",
                    self.path,
                    error.strerror,
                )
            self._has_warned = True


def remove_unfinished(folder: pathlib.Path) -> None:
    """Deletes a folder that threads of a library still write to for a moment after they failed."""
    quiet = 0
    for _ in range(40):
        shutil.rmtree(folder, ignore_errors=True)
        quiet = 0 if folder.exists() else quiet + 1
        if quiet == 5:
            break
        time.sleep(0.1)


def release(array: np.ndarray) -> None:
    """Drops the pages of a memory-mapped array from this process's memory. The array stays usable.

    The system's cache keeps them. Arrays that are small, writable or not memory-mapped are left
    alone.
    """
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if (
        isinstance(owner, mmap.mmap)
        and array.nbytes >= 1 << 20  # a system call costs more than small arrays take
        and memoryview(owner).readonly
        and hasattr(mmap, "MADV_DONTNEED")
    ):
        owner.madvise(mmap.MADV_DONTNEED)
