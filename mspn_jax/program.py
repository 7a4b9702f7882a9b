"""What the entry points share: log lines, errors as one line, several processes."""

import contextlib
import fcntl
import gc
import logging
import os
import pathlib
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from mspn_jax import cpu
from mspn_jax.checkpoints import CheckpointError
from mspn_jax.data.coco import DataError
from mspn_jax.skeletons import SkeletonError
from mspn_jax.torch_names import ConversionError
from mspn_jax.torch_pickle import TorchFileError

log = logging.getLogger("mspn_jax")

_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of process 0, to run as one of several processes"
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "how many processes there are")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "which of them this is, from 0")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "run as one of several processes, and ask the cluster (SLURM, TPU) which"
)


class UsageError(ValueError):
    """The command cannot be carried out as given; the message says what to change."""


_ERRORS = (
    DataError, CheckpointError, ConversionError, SkeletonError, TorchFileError, UsageError,
)  # fmt: skip


def run(main: Callable[[], None]) -> None:
    """Runs an entry point: parses flags, joins the other processes, and names errors in a line."""
    cpu.prepare()
    # A traced network is a million objects that stay. Python would look through all of them for
    # garbage again and again: a fifth of the tracing.
    gc.set_threshold(*gc.get_threshold()[:2], 1000)
    log.setLevel(logging.INFO)
    command = sys.modules[main.__module__]
    if command.__name__ != "__main__" and {"--help", "-h"} & set(sys.argv):
        print(command.__doc__, flags.FLAGS.module_help(command), sep="\n")  # absl knows __main__'s
        return
    app.run(lambda argv: _guarded(main), flags_parser=_parse_flags)


def _parse_flags(argv: Sequence[str]) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(f"error: {error}")
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        # ml_collections raises these for keys that a config does not have and values that do not
        # fit them.
        sys.exit(f"error: {' '.join(str(error.args[0]).split())}")
    if "config" in flags.FLAGS and flags.FLAGS["config"].present:
        config = config_flags.get_config_filename(flags.FLAGS["config"])
        if not os.path.isfile(config):
            sys.exit(f"error: {config}: no such config")
    if len(rest) > 1:
        sys.exit(f"error: unknown argument {rest[1]!r}; --help lists the flags")
    return rest


def _guarded(main: Callable[[], None]) -> None:
    # The libraries' own reports: what goes wrong in them is raised, too, and then told in a line.
    absl_logging.set_verbosity(absl_logging.FATAL)
    sys.unraisablehook = _report_unraisable
    absl_logging.get_absl_handler().setFormatter(logging.Formatter("%(message)s"))
    if _COORDINATOR.value or _DISTRIBUTED.value:
        jax.distributed.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    if jax.process_index() > 0:
        log.setLevel(logging.WARNING)
    try:
        main()
    except _ERRORS as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.filename is None:
            raise
        sys.exit(f"error: {error.filename}: {os.strerror(error.errno or 0)}")


def _report_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    # When orbax gives up writing or reading, tensorstore's other writes still come back to the
    # event loop that it has closed by then.
    if "Event loop is closed" not in str(unraisable.exc_value):
        sys.__unraisablehook__(unraisable)


class StopRequest:
    """A signal that asks to stop, if one came."""

    number: int = 0  # of the signal; 0 while there is none

    def leave(self, number: int, message: str) -> NoReturn:
        """Ends the program with a line and the signal's customary exit status, 128 + its number."""
        log.info("%s: %s", signal.Signals(number).name, message)
        sys.exit(128 + number)


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Within it, the first of the signals only asks to stop; the second stops at once.

    They are Ctrl-C's SIGINT, SIGTERM, which schedulers send before they take a machine away, and
    SIGUSR1, which SLURM can be told to send some time before.
    """
    request = StopRequest()

    def ask(number: int, frame) -> None:
        request.number = number
        restore()
        log.warning("%s: saving and stopping; once more stops at once", signal.Signals(number).name)

    def restore() -> None:
        for each, handler in before.items():
            # None: it was set by something that is not Python, and cannot be set back.
            signal.signal(each, handler if handler is not None else signal.SIG_DFL)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {each: signal.signal(each, ask) for each in numbers}
    try:
        yield request
    finally:
        restore()


@contextlib.contextmanager
def sole_use(folder: pathlib.Path) -> Iterator[None]:
    """Within it, no other run may use the folder; the lock goes with the process that has it.

    Raises:
      UsageError: another run has it.
    """
    if jax.process_index() > 0:
        yield
        return
    with open(folder / ".lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UsageError(
                f"{folder}: another run is at work in it ({file.read().strip()}); wait for its"
                " end, or give another --workdir"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
