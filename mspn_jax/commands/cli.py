"""mspn: one command with a subcommand for each thing to do."""

import difflib
import importlib
import os
import select
import signal
import sys
from typing import NamedTuple, TextIO


class Command(NamedTuple):
    """A command of `mspn`."""

    module: str  # in `mspn_jax.commands`; its `main` runs it
    does: str  # a line for the list
    arguments: tuple[str, ...] = ()  # given before those of the command line
    several_processes: bool = False  # whether it can run as several processes


COMMANDS = {
    "train": Command(
        "train", "train a network on COCO, or on keypoints of your own", several_processes=True
    ),
    "eval": Command(
        "eval",
        "AP and AR of a checkpoint, results in COCO's format, a report",
        several_processes=True,
    ),
    "predict": Command("predict", "find keypoints in pictures, folders, videos, a camera"),
    "download": Command("download", "fetch published models and detectors, or list them"),
    "convert": Command("convert", "PyTorch checkpoints to ours, and ours to PyTorch"),
    "serve": Command("serve", "a page and an HTTP endpoint that find people in pictures"),
    "import": Command("import_data", "bring in what CVAT, Label Studio and other tools export"),
    "split": Command("split", "split annotations into training and validation"),
    "export": Command("export", "StableHLO or ONNX files to deploy"),
    "browse": Command("browse", "a page of training crops, with keypoints and targets"),
    "check": Command("browse", "look for errors in a data set's annotations", ("--check",)),
    "info": Command("info", "parameters, operations and the resolved config of a network"),
    "compile": Command("compile", "compile a config for a TPU or GPU that is not there"),
}
USAGE = "mspn COMMAND [--flags]; mspn COMMAND --help lists the flags of one"


def main() -> None:
    """Runs `mspn COMMAND ...`; without a command it lists them."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h", "help"):
        print(f"{USAGE}\n")
        print("\n".join(f"  {name:8} {command.does}" for name, command in COMMANDS.items()))
        return
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {close[0]}?" if close else "mspn lists them"
        sys.exit(f"error: {name}: no such command; {hint}")
    sys.argv = [f"mspn {name}", *COMMANDS[name].arguments, *arguments]
    run(name)


def run(name: str) -> None:
    """Runs a command of `COMMANDS` with the flags in `sys.argv`."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while the command is imported
    command = COMMANDS[name]
    module = importlib.import_module(f"mspn_jax.commands.{command.module}")
    program = importlib.import_module("mspn_jax.commands.program")
    try:
        try:
            program.run(module.main, command.several_processes)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _is_unread(sys.stdout):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        sys.exit(1)


def _is_unread(file: TextIO) -> bool:
    """Whether the process that reads a pipe, such as `head`, has ended."""
    poll = select.poll()
    poll.register(file, 0)  # an error is reported even if nothing is asked for
    return bool(poll.poll(0))
