"""Copies between a bucket and this disk.

Libraries that need files (OpenCV, array_record, TensorBoard's writer) read and write the copies.
For a path on a disk every function here returns that path.
"""

import contextlib
import logging
import os
import pathlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Collection, Iterable
from typing import Any

from tqdm import tqdm

from mspn_jax.errors import StorageError
from mspn_jax.storage import download, files, paths

log = logging.getLogger(__name__)

SECONDS = 30.0  # between two uploads of what a run writes
_AT_ONCE = 32  # requests
_BATCH = 1024  # files between two notes of what is copied
_LARGEST_IN_MEMORY = 64 << 20


def place_of(there: str | os.PathLike) -> pathlib.Path:
    """The place on this disk for the copy of a file or folder in a bucket."""
    there = paths.path(there)
    if isinstance(there, pathlib.Path):
        return there
    return download.home() / "buckets" / os.fspath(there).removeprefix(paths.SCHEME)


def fetched(there: str | os.PathLike, names: Collection[str] | None = None) -> pathlib.Path:
    """A file or folder on this disk, or of a folder only `names`. For a bucket it is a copy.

    Copies the objects that are new or have changed, each atomically. If several processes on this
    machine ask, one copies and the others wait. Raises FileNotFoundError and StorageError.
    """
    there = paths.path(there)
    local = place_of(there)
    if isinstance(there, pathlib.Path):
        return local
    found = _listing(there)
    if names is not None:
        found = {name: info for name, info in found.items() if name in names}
    local.parent.mkdir(parents=True, exist_ok=True)
    held = f"another process is copying {there}"
    with files.locked(local.parent / f".{local.name}.lock", held):
        _copy(there, found, local)
    return local


def _listing(there: Any) -> dict[str, dict[str, Any]]:
    """The objects of a folder by their names within it; of a single object, by the name ""."""
    system, key = paths.file_system(there)
    try:
        with paths.named(there):
            info = system.info(key)
            if info["type"] == "file":
                return {"": info}
            found = system.find(key, detail=True)
    except FileNotFoundError:
        raise FileNotFoundError(2, os.strerror(2), os.fspath(there)) from None
    listing = {n[len(key) + 1 :]: info for n, info in found.items() if info["type"] == "file"}
    return {name: info for name, info in listing.items() if ".." not in name.split("/")}


def _copy(there: Any, found: dict[str, dict[str, Any]], local: pathlib.Path) -> None:
    """Copies those objects that the note of what was copied does not have as they are now."""
    note = local.parent / f".{local.name}.copied.json"
    copied: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        copied = files.parsed(note.read_text())
    system, key = paths.file_system(there)
    version = {name: [info["size"], info.get("generation")] for name, info in found.items()}
    wanted = [
        name
        for name in found
        if copied.get(name) != version[name] or files.size(local / name) != version[name][0]
    ]
    if not wanted:
        return
    num_bytes = sum(version[name][0] for name in wanted)
    _check_room(there, local, num_bytes)
    log.info("copying %d files (%.2f GB) of %s to %s", len(wanted), num_bytes / 1e9, there, local)
    with tqdm(total=len(wanted), unit=" files", disable=len(wanted) <= _BATCH) as bar:
        for start in range(0, len(wanted), _BATCH):
            batch = wanted[start : start + _BATCH]
            targets = [local / name for name in batch]
            for folder in {target.parent for target in targets}:
                folder.mkdir(parents=True, exist_ok=True)
            partial = [f"{target}.partial" for target in targets]
            with files.named(local), paths.named(there):
                system.get(
                    [f"{key}/{name}".rstrip("/") for name in batch], partial, batch_size=_AT_ONCE
                )
            for name, part, target in zip(batch, partial, targets):
                if files.size(pathlib.Path(part)) != version[name][0]:
                    raise StorageError(f"{there}/{name}: changed or was cut while it was copied")
                os.replace(part, target)
                copied[name] = version[name]
            files.write_json(note, copied)
            bar.update(len(batch))


def _check_room(there: Any, local: pathlib.Path, num_bytes: int) -> None:
    free = shutil.disk_usage(local.parent).free
    if free < 1.02 * num_bytes:
        raise StorageError(
            f"{there}: its copy takes {num_bytes / 1e9:.1f} GB, but {local.parent} has"
            f" {free / 1e9:.1f} GB free; MSPN_HOME names another place"
        )


def send(local: pathlib.Path, there: Any, last: str) -> None:
    """Copies a folder of this disk to a bucket; the file `last` says that it is whole."""
    system, key = paths.file_system(there)
    names = [p.relative_to(local).as_posix() for p in sorted(local.rglob("*")) if p.is_file()]
    names.remove(last)
    with paths.named(there), paths.no_bucket_named(there):
        for each in (names, [last]):
            system.put(
                [str(local / name) for name in each],
                [f"{key}/{name}" for name in each],
                batch_size=_AT_ONCE,
            )


class Mirror:
    """A folder to write files into, as a context: `local` is on this disk.

    For a folder on a disk `local` is that folder, and nothing is copied. For one in a bucket it is
    a temporary folder, whose files are copied whole when `sync` is called and at the end; with
    `seconds` a thread does so, too. If the last copy fails, the temporary folder stays, and the
    message of the StorageError names it.

    Args:
      take: names of files to bring here first, where there are such.
      seconds: between two copies while the context lasts; None: only at the end.
      check: called before each copy; what it raises prevents it.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        take: Iterable[str] = (),
        seconds: float | None = None,
        check: Callable[[], None] = lambda: None,
    ):
        self.folder = paths.path(folder)
        self.local: pathlib.Path = pathlib.Path(os.fspath(folder))
        self._take, self._seconds, self._check = take, seconds, check
        self._sent: dict[pathlib.Path, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Mirror":
        if isinstance(self.folder, pathlib.Path):
            self.local.mkdir(parents=True, exist_ok=True)
            return self
        # Now, not after hours of work: may it be written?
        probe = self.folder / ".writable"
        paths.upload(probe, b"")
        with contextlib.suppress(Exception):  # some may create objects, but not delete them
            probe.unlink()
        self.local = pathlib.Path(tempfile.mkdtemp(prefix="mspn_jax-"))
        for name in self._take:
            with contextlib.suppress(FileNotFoundError):
                files.write_bytes(self.local / name, paths.read_bytes(self.folder / name))
        if self._seconds is not None:
            self._thread = threading.Thread(target=self._keep, name="mirror", daemon=True)
            self._thread.start()
        return self

    def _keep(self) -> None:
        while not self._ended.wait(self._seconds):
            try:
                self.sync()
            except Exception as error:  # it may pass; if not, the next checkpoint fails
                log.warning("metrics were not copied to the bucket: %s", error)

    def sync(self) -> None:
        """Copies the files that have changed since they were last copied."""
        if isinstance(self.folder, pathlib.Path):
            return
        with self._lock:
            self._check()
            for file in sorted(self.local.rglob("*")):
                if file.is_file():
                    self._send(file)

    def _send(self, file: pathlib.Path) -> None:
        status = file.stat()
        version = status.st_size, status.st_mtime_ns
        if self._sent.get(file) == version:
            return
        target = self.folder / file.relative_to(self.local).as_posix()
        if status.st_size <= _LARGEST_IN_MEMORY:  # a file that grows meanwhile is sent as it is now
            paths.upload(target, file.read_bytes())
        else:
            system, key = paths.file_system(target)
            with paths.named(target), paths.no_bucket_named(target):
                system.put_file(str(file), key)
        self._sent[file] = version

    def __exit__(self, kind, error, traceback) -> None:
        if isinstance(self.folder, pathlib.Path):
            return
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        try:
            self.sync()
        except Exception as failure:
            message = f"{failure}; what was to be written is in {self.local}"
            if error is None and isinstance(failure, StorageError):
                raise StorageError(message) from None
            if error is None:
                raise
            log.warning("%s", message)  # the error that ended the work matters more
            return
        shutil.rmtree(self.local, ignore_errors=True)
