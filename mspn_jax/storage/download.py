"""Files from the web: downloaded once, resumed, verified, and kept in the user's cache.

`MSPN_HOME` names another folder for the cache. `MSPN_MIRROR` names a folder or an http(s) address
that holds files under their published names; it is tried before the address itself.
"""

import contextlib
import errno
import hashlib
import logging
import os
import pathlib
import shutil
import tempfile
import urllib.parse

import platformdirs

from mspn_jax.errors import DownloadError
from mspn_jax.storage import files

log = logging.getLogger(__name__)


def home() -> pathlib.Path:
    """The cache on this disk: $MSPN_HOME, by default the platform's cache folder for `mspn_jax`.

    A user without a home folder, as in containers, gets a folder under the temporary folder.
    """
    if given := os.environ.get("MSPN_HOME"):
        return pathlib.Path(given).expanduser().absolute()
    with contextlib.suppress(RuntimeError):  # of newer versions; older ones return "~/.cache"
        folder = pathlib.Path(platformdirs.user_cache_dir("mspn_jax", appauthor=False))
        if folder.is_absolute():
            return folder
    return pathlib.Path(tempfile.gettempdir()) / f"cache-{os.getuid()}" / "mspn_jax"


def is_address(name: str | os.PathLike) -> bool:
    """Whether this is an http(s) address, not a path."""
    return os.fspath(name).startswith(("https://", "http://"))


def name_of(url: str) -> str:
    """The name of an address's file. Raises DownloadError if there is none."""
    name = pathlib.PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name
    if not name:
        raise DownloadError(f"{url}: names no file")
    return name


def place_of(url: str, *, sha256: str = "") -> pathlib.Path:
    """Where `fetch` keeps a file. Files that nothing verifies are told apart by their addresses."""
    folder = home() / "downloads"
    if not sha256:
        digest = hashlib.sha256(url.encode()).hexdigest()[:8]
        folder /= f"{urllib.parse.urlsplit(url).hostname}-{digest}"
    return folder / name_of(url)


def fetch(url: str, *, sha256: str = "", size: int | None = None) -> pathlib.Path:
    """A file from the web on this disk, at `place_of`. It is downloaded if it is not there yet.

    An interrupted download resumes. If several processes ask, one downloads and the others wait.
    The file appears atomically. A file that was put there by hand is used.

    Args:
      sha256: the file's SHA-256 in hexadecimal, or its first digits. Empty: not verified.
      size: of the file in bytes, if known.

    Raises:
      DownloadError: neither the mirror nor the address gives the file, it differs from `sha256`
        or `size`, or the disk is full.
    """
    place, sha256 = place_of(url, sha256=sha256), sha256.lower()
    if not place.is_file():
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            lock = place.with_name(f".{place.name}.lock")
            with files.locked(lock, f"another process is downloading {place.name}"):
                if not place.is_file():
                    _download(url, place, sha256, size)
                    return place
        except OSError as error:
            raise DownloadError(
                f"{url}: cannot be written to {place}: {error.strerror}; MSPN_HOME names another"
                " folder"
            ) from None
    found = files.sha256(place)
    if not found.startswith(sha256):
        raise DownloadError(
            f"{place}: damaged, or another file: its sha256 is {found}, expected {sha256}; remove"
            " it to download it again"
        )
    return place


def _download(url: str, place: pathlib.Path, sha256: str, size: int | None) -> None:
    partial = place.with_name(f".{place.name}.partial")
    if not sha256:  # nothing would show that it is of another version
        partial.unlink(missing_ok=True)
    mirror = os.environ.get("MSPN_MIRROR", "").rstrip("/")
    reasons = []
    for source in [f"{mirror}/{place.name}", url] if mirror else [url]:
        log.info("downloading %s to %s", source, place)
        try:
            _complete(source, partial, sha256, size)
            os.replace(partial, place)
            return
        except DownloadError as error:
            reasons.append(f"{source}: {error}")
    raise DownloadError(
        f"{'; '.join(reasons)}; put the file at {place} by hand, or set MSPN_MIRROR to a folder or"
        " an address that has it"
    )


def _complete(source: str, partial: pathlib.Path, sha256: str, size: int | None) -> None:
    """Brings the rest of a file and verifies it. Raises DownloadError with the reason alone."""
    was_resumed = partial.exists()
    try:
        if is_address(source):
            from mspn_jax.storage.transfer import Transfer  # requests takes a while to import

            Transfer(source, partial, size).run()
        elif pathlib.Path(source).is_file():
            shutil.copyfile(source, partial)
        else:
            raise DownloadError("no such file")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            partial.unlink(missing_ok=True)
        raise
    found, num_bytes = files.sha256(partial), partial.stat().st_size
    if found.startswith(sha256) and size in (None, num_bytes):
        return
    partial.unlink()
    if was_resumed:  # what was there may have been of another version
        return _complete(source, partial, sha256, size)
    raise DownloadError(
        f"wrong bytes: its sha256 is {found}, expected {sha256}"
        if not found.startswith(sha256)
        else f"has {num_bytes:,} bytes, expected {size:,}"
    )
