"""What must be undone if the process is ended in the middle of its work."""

import contextlib
import threading
from collections.abc import Callable, Iterator

_undo: dict[object, Callable[[], object]] = {}
_lock = threading.Lock()


@contextlib.contextmanager
def undone(undo: Callable[[], object]) -> Iterator[None]:
    """Calls `undo` if the process is ended in this context, by another thread."""
    key = object()
    _undo[key] = undo
    try:
        yield
    finally:
        with _lock:
            del _undo[key]


def undo_all() -> None:
    """Undoes everything, last first, and ignores errors. The process must end then.

    A thread that comes to the end of `undone` waits, so it makes nothing of what is undone.
    """
    _lock.acquire()
    for undo in reversed(list(_undo.values())):
        with contextlib.suppress(Exception):
            undo()
