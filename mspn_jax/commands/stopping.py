"""The signals that ask a command to stop."""

import contextlib
import dataclasses
import logging
import signal
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
import numpy as np
from jaxtyping import Int

from mspn_jax.devices import AXIS

log = logging.getLogger("mspn_jax")


class StopRequest:
    """The signal that asked this process to stop.

    Attributes:
      number: of the signal; 0 before it comes.
    """

    number: int = 0

    def leave(self, number: int, message: str) -> NoReturn:
        """Ends the program with a line and the signal's usual exit status, 128 + its number."""
        log.info("%s: %s", signal.Signals(number).name, message)
        sys.exit(128 + number)


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """In this context the first signal only asks to stop; a second one stops at once.

    The signals are SIGINT (Ctrl-C), SIGTERM (sent by schedulers before they take a machine away)
    and SIGUSR1 (sent by SLURM some time before, if it is told to).
    """
    request = StopRequest()

    def ask(number: int, frame) -> None:
        request.number = number
        restore()
        log.warning("%s: saving and stopping; once more stops at once", signal.Signals(number).name)

    def restore() -> None:
        for each, handler in before.items():
            # None: a handler that Python did not install, and cannot install again.
            signal.signal(each, handler if handler is not None else signal.SIG_DFL)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {each: signal.signal(each, ask) for each in numbers}
    try:
        yield request
    finally:
        restore()


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
