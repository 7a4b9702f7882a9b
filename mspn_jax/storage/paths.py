"""Paths on a disk and in a bucket of Google Cloud Storage (gs://), and what differs between them.

`path` gives a `pathlib.Path`, or an `epath.Path` for gs://. Both have `/`, `name`, `parent`,
`exists`, `is_dir`, `iterdir`, `glob` and `rename`. A bucket holds whole objects: an object appears
once its upload is complete, and cannot be appended to; folders are only parts of names. So files
are read and written whole (`files.py`), or written on this disk and copied (`mirror.py`).
"""

import contextlib
import functools
import importlib.util
import logging
import os
import pathlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

from mspn_jax.errors import StorageError

if TYPE_CHECKING:
    from etils import epath

Path: TypeAlias = "pathlib.Path | epath.Path"

SCHEME = "gs://"
_BUCKET_NAME = r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]"
_OVERLOADED = ("408", "429", "500", "502", "503", "504")  # statuses that may pass


def in_bucket(path: str | os.PathLike) -> bool:
    return os.fspath(path).startswith(SCHEME)


def path(name: str | os.PathLike) -> Path:
    """A path on a disk or in a bucket. Raises StorageError for other URLs, or without gcsfs."""
    text = os.fspath(name)
    if in_bucket(text):
        bucket = text.removeprefix(SCHEME).partition("/")[0]
        if not re.fullmatch(_BUCKET_NAME, bucket):
            raise StorageError(f"{text}: {bucket!r} is not a bucket's name")
        _set_up()
        from etils import epath

        return epath.Path(text.rstrip("/"))
    if "://" in text or text.startswith("gs:/"):
        raise StorageError(f"{text}: neither a path nor a gs:// URL; other URLs are not supported")
    return pathlib.Path(text)


def absolute(name: str | os.PathLike) -> Path:
    """An absolute path. (epath's own `absolute` puts the current folder before gs://.)"""
    there = path(name)
    return there.absolute() if isinstance(there, pathlib.Path) else there


@functools.cache
def _set_up() -> None:
    """Settings of gcsfs, epath and tensorstore; once, before the first request."""
    if importlib.util.find_spec("gcsfs") is None:
        raise StorageError("gs:// needs gcsfs: pip install 'mspn-jax[gcs]'")
    os.environ.setdefault("EPATH_USE_TF", "false")  # the same backend with TensorFlow installed
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # asks by gRPC first
    # A server that accepts a request and never answers: the default is to wait without limit.
    os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", "60")
    os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1")
    import fsspec

    settings = fsspec.config.conf.setdefault("gcs", {})
    settings.setdefault("use_listings_cache", False)  # it never expires, and `exists` trusts it
    settings.setdefault("requests_timeout", 300)  # seconds
    for name in ("asyncio", "fsspec", "gcsfs", "google"):  # they log tracebacks of what they raise
        logging.getLogger(name).setLevel(logging.CRITICAL)


def file_system(there: Path) -> tuple[Any, str]:
    """fsspec's file system of a bucket, and the path's name in it: "bucket/key"."""
    import fsspec

    return fsspec.core.url_to_fs(os.fspath(there))


@contextlib.contextmanager
def named(there: str | os.PathLike) -> Iterator[None]:
    """Raises a bucket's refusals and outages as StorageError. On a disk it does nothing.

    Other errors pass, among them FileNotFoundError for a missing object or bucket.
    """
    try:
        yield
    except Exception as error:
        reason = reason_of(error) if in_bucket(there) else None
        if reason is None:
            raise
        raise StorageError(f"{os.fspath(there)}: {reason}") from None


def reason_of(error: BaseException) -> str | None:
    """What an error of the libraries for buckets says, in one line; None for any other error."""
    if isinstance(error, StorageError):
        return None
    text = " ".join(str(error).partition(" [http_response")[0].split()) or type(error).__name__
    library, code = type(error).__module__.partition(".")[0], str(getattr(error, "code", ""))
    # Tensorstore raises ValueError with the status in front, gcsfs OSError for a refusal. (JAX has
    # the same statuses in errors of its own.)
    status = text if type(error) in (ValueError, OSError) else ""
    code = code if library == "gcsfs" else ""
    refusals = ("Forbidden: ", "PERMISSION_DENIED", "UNAUTHENTICATED")
    if status.startswith(refusals) or code in ("401", "403"):
        return (
            "the bucket refuses access; check credentials (gcloud auth application-default login)"
            f" and permissions ({text[:200]})"
        )
    retried = re.search("All [0-9]+ retry attempts failed.*", status)  # after what was tried
    outages = ("UNAVAILABLE", "DEADLINE_EXCEEDED")
    is_outage = status.startswith(outages) or library in ("aiohttp", "requests")
    if retried or is_outage or code in _OVERLOADED:
        return f"no answer from the bucket ({(retried[0] if retried else text)[:200]})"
    if library in ("gcsfs", "google"):
        return f"{type(error).__name__}: {text[:200]}"
    return None


def is_folder(there: Path) -> bool:
    """`is_dir`, which of gs:// is False where the bucket refuses; this raises StorageError."""
    with named(there):
        return there.exists() and there.is_dir()


def read_bytes(there: Path) -> bytes:
    """A file or object; raises FileNotFoundError, StorageError and, of a disk, OSError."""
    if isinstance(there, pathlib.Path):
        return there.read_bytes()
    system, key = file_system(there)
    try:
        with named(there):
            return system.cat_file(key)
    except FileNotFoundError:
        raise _missing(there) from None


def upload(there: Path, data: bytes) -> None:
    """Replaces an object. Readers see the old or the new one, never a part."""
    system, key = file_system(there)
    with named(there), no_bucket_named(there):
        system.pipe_file(key, data)


@contextlib.contextmanager
def no_bucket_named(there: Path) -> Iterator[None]:
    """Around writing an object: there a missing file can only be a missing bucket."""
    try:
        yield
    except FileNotFoundError:
        bucket = os.fspath(there).removeprefix(SCHEME).partition("/")[0]
        raise StorageError(f"{os.fspath(there)}: no such bucket: {SCHEME}{bucket}") from None


def num_bytes(folder: Path) -> int:
    """Size of all files in a folder."""
    if isinstance(folder, pathlib.Path):
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    system, key = file_system(folder)
    with named(folder):
        return system.du(key)


def _missing(there: Path) -> FileNotFoundError:
    return FileNotFoundError(2, os.strerror(2), os.fspath(there))
