"""One run a workdir: a lock on a disk, a lease in a bucket."""

import contextlib
import fcntl
import json
import logging
import os
import pathlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from mspn_jax.errors import HeldError
from mspn_jax.storage import files, leaving, paths

log = logging.getLogger(__name__)

# A killed run leaves its lease behind. The next start waits this many seconds.
SECONDS = float(os.environ.get("MSPN_LEASE_SECONDS", "60"))


@contextlib.contextmanager
def sole_use(folder: paths.Path, owner: str) -> Iterator[Callable[[], None]]:
    """In this context no other run may use the folder. Raises HeldError if one does.

    Yields:
      A check to call before the folder is changed. It raises HeldError if another run may have
      taken the folder over, and StorageError while the bucket does not answer. On a disk it does
      nothing.
    """
    if isinstance(folder, pathlib.Path):
        with _locked(folder / ".lock", owner):
            yield lambda: None
        return
    lease = Lease(folder / ".lease", owner)
    lease.take()
    try:
        with leaving.undone(lease.give_back):
            yield lease.check
    finally:
        lease.give_back()


@contextlib.contextmanager
def _locked(path: pathlib.Path, owner: str) -> Iterator[None]:
    """The system releases the lock when the process ends, however it ends."""
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise HeldError(file.read().strip()) from None
        file.truncate(0)
        file.write(f"{owner}\n")
        file.flush()
        yield


class Lease:
    """An object that its owner rewrites every few seconds.

    A process that finds one watches it. If it is rewritten within `seconds`, its owner is alive:
    HeldError. If not, the process takes it over. Every write is conditional on the generation last
    seen, so only one of several processes succeeds. No clocks are compared.
    """

    def __init__(self, there: Any, owner: str, seconds: float = SECONDS):
        import tensorstore

        self.there, self.seconds = there, seconds
        folder, _, self._name = os.fspath(there).rpartition("/")
        retries = tensorstore.Context({"gcs_request_retries": {"max_retries": 4}})  # some 20 s
        self._store = tensorstore.KvStore.open(f"{folder}/", context=retries).result()
        self._content = {"owner": owner, "key": uuid.uuid4().hex, "seconds": seconds}
        self._generation = b""  # of our last write
        self._since = 0.0  # when it was begun
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._lost = ""

    def take(self) -> None:
        """Raises HeldError if another run holds it, StorageError if the bucket cannot be used."""
        with paths.named(self.there):
            try:
                now = self._read()
                if now.state == "value":
                    now = self._outwait(now)
                if not self._write(now.stamp.generation):
                    raise HeldError(_json(self._read().value).get("owner", "another run"))
            except ValueError as error:
                if not str(error).startswith("NOT_FOUND"):  # of an object it would be a state
                    raise
                with paths.no_bucket_named(self.there):
                    raise FileNotFoundError from None
        threading.Thread(target=self._keep, name="lease", daemon=True).start()

    def check(self) -> None:
        """Raises HeldError if another run may have taken the lease over.

        After an outage, or after this machine slept, it asks the bucket, and raises StorageError
        if there is no answer.
        """
        if time.monotonic() - self._since > self.seconds / 2:
            with paths.named(self.there):
                self._refresh()
        if self._lost:
            raise HeldError(self._lost)

    def give_back(self) -> None:
        self._ended.set()
        with self._lock, contextlib.suppress(Exception):  # otherwise it runs out
            self._store.write(self._name, None, if_equal=self._generation).result(timeout=20)

    def _read(self) -> Any:
        return self._store.read(self._name).result()

    def _write(self, expected: bytes) -> bool:
        """Writes the object if its generation is `expected`. Returns whether it is ours now."""
        start = time.monotonic()
        data = json.dumps(self._content).encode()
        generation = self._store.write(self._name, data, if_equal=expected).result().generation
        if not generation:  # another's, or a write of ours whose answer was lost and was retried
            now = self._read()
            if now.state == "value" and _json(now.value).get("key") == self._content["key"]:
                generation = now.stamp.generation
        if generation:
            self._generation, self._since = generation, start
        return bool(generation)

    def _outwait(self, first: Any) -> Any:
        """The object, once it may be replaced. Raises HeldError if its owner rewrites it."""
        held = _json(first.value)
        owner, seconds = held.get("owner", "another run"), held.get("seconds", self.seconds)
        log.info("%s: of %s; waiting %.0f s to see whether it runs", self.there, owner, seconds)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(min(2.0, seconds / 20))
            now = self._read()
            if now.state != "value":  # given back
                return now
            if now.stamp.generation != first.stamp.generation:
                raise HeldError(owner)
        return first

    def _refresh(self) -> None:
        with self._lock:
            if not self._lost and not self._write(self._generation):
                self._lost = "it took over while this one could not reach the bucket"

    def _keep(self) -> None:
        while not self._ended.wait(self.seconds / 6) and not self._lost:
            with contextlib.suppress(Exception):  # an outage: `check` reports it if it lasts
                self._refresh()


def _json(data: bytes) -> dict:
    try:
        return files.parsed_object(data)
    except ValueError:
        return {}
