"""The signals that ask a command to stop.

Python runs a signal's handler between two instructions of the main thread. While XLA compiles, for
minutes, there are none. So a thread watches the signals, too, and ends the process in time.
"""

import contextlib
import dataclasses
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

import jax
import numpy as np
from jaxtyping import Int

from mspn_jax.devices import AXIS
from mspn_jax.storage import leaving

log = logging.getLogger("mspn_jax")

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# SLURM sends SIGUSR1 some time before SIGTERM, if it is told to. It ends other commands at once.
_SIGNALS_OF_A_RUN = (*SIGNALS, signal.SIGUSR1)

_SECONDS_FOR_THE_MAIN_THREAD = 5.0
_SECONDS_TO_UNDO = 2.0
_SECONDS_BETWEEN_LOOKS = 0.1
# Launchers may send a signal to a process and to its group. That is one request.
_SECONDS_OF_ONE_REQUEST = 0.5


class Stopped(SystemExit):
    """A signal ended the command. The exit status is 128 + the signal's number."""

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.number = number


class StopRequest:
    """The signal that asked this process to stop."""

    def __init__(self, may_leave: Callable[[], bool]):
        self.number = 0  # of the signal; 0 before it comes
        self.may_leave = may_leave  # at once, without a loss; a thread calls it

    def leave(self, number: int, message: str) -> NoReturn:
        """Ends the program with a line and the signal's usual exit status, 128 + its number."""
        self.may_leave = lambda: False  # it leaves already, in order
        log.info("%s: %s", signal.Signals(number).name, message)
        sys.exit(128 + number)


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """In this context a signal ends the command: it raises Stopped in the main thread.

    The process ends when Stopped leaves the context, or some seconds after the signal. It does not
    shut the interpreter down, since threads of XLA may still compile.
    """
    is_stopping = False

    def stop(number: int, frame) -> None:
        nonlocal is_stopping
        if not is_stopping:  # the first may be in a `finally`
            is_stopping = True
            raise Stopped(number)

    with _handlers(stop, SIGNALS), _watch:
        try:
            yield
        except Stopped as stopped:
            _leave(stopped.number, "stopped")


@contextlib.contextmanager
def stop_requests(may_leave: Callable[[], bool] = lambda: False) -> Iterator[StopRequest]:
    """In this context the first signal only asks to stop; a second one stops at once.

    The signals are SIGINT (Ctrl-C), SIGTERM (sent by schedulers before they take a machine away)
    and SIGUSR1 (sent by SLURM some time before, if it is told to). `may_leave` says whether the
    process can end at once without a loss. If it has not ended some seconds after the signal, it
    ends as soon as it may.
    """
    request = StopRequest(may_leave)

    def ask(number: int, frame) -> None:
        if not request.number:
            name = signal.Signals(number).name
            log.warning("%s: stopping once the work is saved; once more stops at once", name)
        request.number = request.number or number

    with _handlers(ask, _SIGNALS_OF_A_RUN), _watch:
        before, _watch.request = _watch.request, request
        try:
            yield request
        finally:
            if not request.number:  # otherwise what follows is part of leaving
                _watch.request = before


@contextlib.contextmanager
def _handlers(handler: Callable[[int, Any], None], numbers: Iterable[int]) -> Iterator[None]:
    before = {each: signal.signal(each, handler) for each in numbers}
    try:
        yield
    finally:
        for each, old in before.items():
            # None: a handler that Python did not install, and cannot install again.
            signal.signal(each, old if old is not None else signal.SIG_DFL)


class _Watch:
    """A thread that watches the signals, as a context. Contexts within it share the thread."""

    def __init__(self) -> None:
        self.request = StopRequest(lambda: True)
        self._depth = 0
        self._before = self._writing = -1

    def __enter__(self) -> None:
        self._depth += 1
        if self._depth > 1:
            return
        reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        # Python's C code writes the number of each signal that has a handler in Python.
        self._before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        threading.Thread(target=self._run, args=(reading,), name="signals", daemon=True).start()

    def __exit__(self, *exception: object) -> None:
        self._depth -= 1
        if not self._depth:
            signal.set_wakeup_fd(self._before)
            os.close(self._writing)

    def _run(self, reading: int) -> None:
        first = 0.0
        while received := os.read(reading, 1):
            (number,) = received
            if number not in _SIGNALS_OF_A_RUN:
                continue
            now = time.monotonic()
            if not first:
                first = now
                threading.Thread(target=self._leave_later, args=(number,), daemon=True).start()
            elif now - first > _SECONDS_OF_ONE_REQUEST:
                _leave(number, "stopped at once")
        os.close(reading)

    def _leave_later(self, number: int) -> None:
        """Ends the process if the main thread does not, and nothing is lost."""
        time.sleep(_SECONDS_FOR_THE_MAIN_THREAD)
        while not _is_true(self.request.may_leave):
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        _leave(number, "stopped; all that was saved is whole")


def _is_true(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except Exception:  # a bucket does not answer, or a folder is just being renamed
        return False


_watch = _Watch()


def _leave(number: int, message: str) -> NoReturn:
    """Ends the process with a line, from any thread, whatever the other threads do."""
    # Everything that follows may block: on a full pipe, or on a bucket that does not answer.
    timer = threading.Timer(_SECONDS_TO_UNDO, os._exit, (128 + number,))
    timer.daemon = True
    timer.start()
    leaving.undo_all()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.write(f"{signal.Signals(number).name}: {message}\n")
        sys.stderr.flush()
    os._exit(128 + number)


def leave_within(seconds: float, status: int) -> None:
    """Exits with the status after `seconds`, if the process has not ended by then.

    An ending process waits for the others, for minutes if they do not know of it.
    """

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()


def with_signals(step: Any) -> Any:
    """A `training.TrainStep` that also all-reduces signals: all processes stop after the same step.

    Its batch has one more array, `signal`: a number for each device, from `signals`. Its metrics
    have the largest of all devices' numbers under the same name.
    """

    def gradients(params, batch_stats, batch):
        crops = {name: rows for name, rows in batch.items() if name != "signal"}
        gradients, batch_stats, metrics = step.gradients(params, batch_stats, crops)
        largest = jax.lax.pmax(batch["signal"].max(), AXIS)
        return gradients, batch_stats, metrics | {"signal": largest}

    return dataclasses.replace(step, gradients=gradients)


def signals(request: StopRequest) -> Int[np.ndarray, "N"]:
    """The number of this process's signal, once for each of its devices."""
    return np.full(jax.local_device_count(), request.number, np.int32)
