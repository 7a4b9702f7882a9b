"""What the commands share: flags, log lines, errors as one line, several processes."""

import contextlib
import errno
import functools
import gc
import inspect
import logging
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator, Sequence

import jax
from absl import app, flags
from absl import logging as absl_logging

from mspn_jax import cpu
from mspn_jax.commands import command_line, launch, ranges, stopping
from mspn_jax.configs import default
from mspn_jax.errors import Error, HeldError, UsageError
from mspn_jax.storage import lease, paths

log = logging.getLogger("mspn_jax")

_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of process 0, to run as one of several processes"
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "how many processes there are")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "which of them this is, from 0")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "run as one of several processes, and take the other flags from the launcher (srun, torchrun,"
    " mpirun) or from the TPU pod",
)
_JOIN_TIMEOUT = flags.DEFINE_float(
    "join_timeout", launch.JOIN_SECONDS, "seconds to wait for the other processes", lower_bound=1
)
_PROCESS_FLAGS = (_COORDINATOR, _NUM_PROCESSES, _PROCESS_ID, _DISTRIBUTED, _JOIN_TIMEOUT)

_REASONS = {
    errno.EEXIST: "is a file; a folder is needed",  # of making a folder
    **{
        number: f"{os.strerror(number)}; make room, and run the same command again"
        for number in (errno.ENOSPC, errno.EDQUOT)
    },
}

# How long a process that ends with an error waits for the others to leave.
_SECONDS_TO_LEAVE = 10


def run(main: Callable[..., None], several_processes: bool = False) -> None:
    """Runs a command: parses flags, joins the other processes, prints errors as one line.

    Args:
      main: of the command's module. A parameter gets the arguments that are no flags.
    """
    cpu.prepare()
    # Tracing makes a million objects that stay. Full garbage collections would take a fifth of it.
    gc.set_threshold(*gc.get_threshold()[:2], 1000)
    log.setLevel(logging.INFO)
    if {"--help", "-h"} & set(sys.argv):
        print(_help(main, several_processes))
        return

    # Libraries log what they also raise. The error is printed once, as one line.
    absl_logging.set_verbosity(absl_logging.FATAL)

    takes_words = bool(inspect.signature(main).parameters)

    def guarded(argv: Sequence[str]) -> None:
        words = list(argv[1:])
        if words and not takes_words:
            sys.exit(f"error: unknown argument {words[0]!r}; --help lists the flags")
        _guarded(functools.partial(main, words) if takes_words else main, several_processes)

    with stopping.watched():
        app.run(guarded, flags_parser=command_line.parsed)


def _help(main: Callable[..., None], several_processes: bool) -> str:
    """The docstring of a command's module, its flags and the config's keys."""
    name = main.__module__
    if several_processes:
        for flag in _PROCESS_FLAGS:
            flags.FLAGS.register_key_flag_for_module(name, flags.FLAGS[flag.name])
    lines = [sys.modules[name].__doc__ or "", flags.FLAGS.module_help(name)]
    if "config" in flags.FLAGS:
        lines += ["", "Keys of a config, with the published models' values:", *_keys_of_configs()]
    return "\n".join(lines)


def _keys_of_configs() -> list[str]:
    """--config.KEY=VALUE for every key, with its comment in configs/default.py."""
    text = (command_line.CONFIGS / "default.py").read_text()
    comments = dict(re.findall(r"^    config\.([\w.]+) = .*?  # (.*)$", text, re.MULTILINE))
    values = ranges.flat(default.get_config("NAME", num_stages=1).to_dict())
    return [
        f"  --config.{key}={value!r}" + (f"  ({comments[key]})" if key in comments else "")
        for key, value in values.items()
    ]


def _guarded(main: Callable[[], None], several_processes: bool) -> None:
    absl_logging.set_verbosity(absl_logging.FATAL)  # parsing its flags has changed it
    sys.unraisablehook = _report_unraisable
    absl_logging.get_absl_handler().setFormatter(logging.Formatter("%(message)s"))
    try:
        if "config" in flags.FLAGS and flags.FLAGS["config"].value is not None:
            ranges.check(flags.FLAGS["config"].value)
        _join_processes(several_processes)
        if jax.process_index() > 0:
            log.setLevel(logging.WARNING)
        main()
    except Exception as error:
        if jax.distributed.is_initialized():
            stopping.leave_within(_SECONDS_TO_LEAVE, status=1)
        line = _one_line(error)
        if line is None:
            raise
        sys.exit(f"error: {_printable(line)}")


def _join_processes(several_processes: bool) -> None:
    """Joins the other processes, if the flags name any."""
    place = (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    if not _DISTRIBUTED.value and place == (None, None, None):
        return
    if not several_processes:
        raise UsageError("this command runs as one process; train.py and eval.py run as several")
    found = launch.arguments(os.environ, *place, launch.count_gpus)
    launch.join(found, _JOIN_TIMEOUT.value)


def _one_line(error: BaseException) -> str | None:
    """The line to print for an error; None for an error that a user cannot mend."""
    if isinstance(error, Error):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {_REASONS.get(error.errno or 0, error.strerror)}"
    return paths.reason_of(error)


def _printable(line: str) -> str:
    """With the control characters that a file's name can hold as Python writes them."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in line)


def _report_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    # Python drops what a signal's handler raises in a destructor; the thread of `stopping` then
    # ends the process. And after a failed save or restore, tensorstore's pending writes return to
    # orbax's event loop, which is closed.
    is_expected = isinstance(unraisable.exc_value, stopping.Stopped)
    if not is_expected and "Event loop is closed" not in str(unraisable.exc_value):
        sys.__unraisablehook__(unraisable)


@contextlib.contextmanager
def sole_use(folder: paths.Path) -> Iterator[Callable[[], None]]:
    """In this context no other run may use the folder. Yields what `lease.sole_use` yields."""
    if jax.process_index() > 0:
        yield lambda: None
        return
    try:
        with lease.sole_use(folder, f"process {os.getpid()} on {socket.gethostname()}") as check:
            yield check
    except HeldError as error:
        raise UsageError(
            f"{folder}: another run is at work in it ({error}); wait for its end, or give another"
            " --workdir"
        ) from None
