"""One file from an http(s) server to this disk: resumed, tried again, with a progress bar."""

import errno
import logging
import pathlib
import shutil
import time

import requests
from tqdm import tqdm

from mspn_jax.errors import DownloadError

log = logging.getLogger(__name__)

SECONDS = (10.0, 30.0)  # to connect; between two parts of an answer
PAUSES = (0.5, 2.0, 8.0)  # seconds before another attempt; any progress begins them again
_PASSING = (408, 429, 500, 502, 503, 504)  # HTTP statuses that may pass
_PART = 1 << 16


class Transfer:
    """Completes a partial file, which may not exist yet, from an address."""

    def __init__(self, url: str, partial: pathlib.Path, size: int | None = None):
        self.url, self.partial, self.size = url, partial, size
        self._has_answered = False
        self._version = ""  # the server's tag of the first bytes

    def run(self) -> None:
        """Returns once the file is complete, by the server's word. What was transferred stays.

        The message of a DownloadError is the reason alone.
        """
        failures = 0
        while True:
            before = self._num_bytes()
            try:
                return self._attempt()
            except requests.RequestException as error:
                failures = 1 if self._num_bytes() > before else failures + 1
                pauses = PAUSES if self._has_answered else PAUSES[:1]
                if failures > len(pauses) or not _may_pass(error):
                    raise DownloadError(_reason(error)) from None
                log.info("%s: %s; trying again", self.url, _reason(error))
                time.sleep(pauses[failures - 1])

    def _attempt(self) -> None:
        start = self._num_bytes()
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if self._version:
                headers["If-Range"] = self._version  # another version is sent from its start
        with requests.get(self.url, headers=headers, stream=True, timeout=SECONDS) as answer:
            self._has_answered = True
            if start and answer.status_code == 416:  # complete, or longer than the server's file
                if answer.headers.get("Content-Range") == f"bytes */{start}":
                    return
                self.partial.unlink()
                raise requests.ConnectionError("the server's file is shorter than what was resumed")
            answer.raise_for_status()
            if not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                start = 0
            self._version = answer.headers.get("ETag", "")
            if self._version.startswith("W/"):  # weak: other bytes may have the same tag
                self._version = ""
            self._receive(answer, start)

    def _receive(self, answer: requests.Response, start: int) -> None:
        """Writes an answer to the partial file, from byte `start` on."""
        length = answer.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else self.size
        if total is not None:
            if self.size not in (None, total):
                raise DownloadError(f"has {total:,} bytes, expected {self.size:,}")
            free = shutil.disk_usage(self.partial.parent).free
            if total - start > free:
                raise OSError(
                    errno.ENOSPC,
                    f"{total - start:,} bytes are needed, but the disk has {free:,} free",
                )
        bar = tqdm(
            desc=self.partial.name.removeprefix(".").removesuffix(".partial"),
            total=total,
            initial=start,
            unit="B",
            unit_scale=True,
            disable=None,  # only on a terminal
        )
        with open(self.partial, "ab" if start else "wb") as file, bar:
            for part in answer.iter_content(_PART):
                file.write(part)
                bar.update(len(part))
                if total is not None and file.tell() > total:
                    self.partial.unlink()
                    raise DownloadError(f"sends more than {total:,} bytes")
        if total is not None and self._num_bytes() < total:
            raise requests.ConnectionError(
                f"cut off after {self._num_bytes():,} of {total:,} bytes"
            )

    def _num_bytes(self) -> int:
        return self.partial.stat().st_size if self.partial.exists() else 0


def _may_pass(error: requests.RequestException) -> bool:
    if error.response is not None:
        return error.response.status_code in _PASSING
    passing = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    return isinstance(error, passing)


def _reason(error: requests.RequestException) -> str:
    """A few words: the messages of requests repeat the address and name Python objects."""
    if error.response is not None:
        return f"HTTP {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return "no answer"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection was cut off"
    inner: BaseException = error
    while (cause := inner.__cause__ or inner.__context__) is not None:
        inner = cause
    return getattr(inner, "strerror", None) or str(inner).partition("\n")[0] or type(inner).__name__
