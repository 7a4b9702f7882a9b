"""The flags of a command line and its config: parsed, with errors as one line."""

import math
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

import mspn_jax
from mspn_jax.errors import UsageError

CONFIGS = pathlib.Path(mspn_jax.__file__).parent / "configs"

# What ml_collections and a config's own file raise.
OF_CONFIG_FLAGS = (ArithmeticError, AttributeError, KeyError, TypeError, ValueError, OSError)

_RETURNS = "get_config must return a ConfigDict, as configs/default.py does"


def parsed(argv: Sequence[str]) -> list[str]:
    """Parses flags, and returns the arguments that are none. An error ends the program."""
    try:
        rest = flags.FLAGS(_with_path_of_config(argv))
    except flags.Error as error:
        sys.exit(f"error: {_of_flags(error, argv)}")
    except Exception as error:  # from the code of a config file, too
        where = _line_of_config(error, argv)
        if not where and not isinstance(error, OF_CONFIG_FLAGS):
            raise
        # ml_collections raises these for keys that a config does not have and values that do not
        # fit them.
        text = str(error.args[0] if error.args else type(error).__name__)
        text = text.replace("\\n", " ").replace("\\'", "'").strip('"')
        text = re.sub(r"^'(.*)'$", r"\1", text)
        text = re.sub(r'Other fields present: "\{.*\}" ?', "", text)  # in a file: all of them
        if isinstance(
            error, KeyError | AttributeError
        ):  # of a group's key it says nothing but the name
            text = re.sub(r"^'?(\w+)'?(?= Did you mean|$)", r"the config has no key '\1'.", text)
        sys.exit(f"error: {where}{' '.join(text.split())}")
    if "config" in flags.FLAGS and flags.FLAGS["config"].present:
        path = config_flags.get_config_filename(flags.FLAGS["config"])
        if not os.path.isfile(path):
            reason = "a folder, not a config" if os.path.isdir(path) else "no such config"
            sys.exit(f"error: {path}: {reason}")
        if not isinstance(flags.FLAGS["config"].value, ConfigDict):
            sys.exit(f"error: {path}: {_RETURNS}")
    _check_given()
    if "" in rest:
        sys.exit("error: an argument is empty; give it a value, or leave it out")
    return rest


def height_width(flag: flags.FlagHolder) -> tuple[int, int] | None:
    """The value of a flag such as 256,192; None if it is not given."""
    if flag.value is None:
        return None
    try:
        height, width = map(int, flag.value)
    except ValueError:
        given = f"--{flag.name} {','.join(flag.value)}"
        raise UsageError(f"{given}: give height,width, such as 256,192") from None
    return height, width


def _check_given() -> None:
    """Ends the program if a flag was given an empty text or a number that is not finite."""
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        if not flag.present or name.startswith("config."):  # of keys an empty one has a meaning
            continue
        values = flag.value if isinstance(flag.value, list) else [flag.value]
        if "" in values and flag.default != "":
            sys.exit(f"error: --{name}: is empty; give it a value, or leave it out")
        if not all(math.isfinite(value) for value in values if isinstance(value, float)):
            sys.exit(f"error: --{name}={flag.value}: must be a finite number")


def _of_flags(error: flags.Error, argv: Sequence[str]) -> str:
    """What an error of absl says. A TypeError of a config file comes with its whole traceback."""
    text = str(error).strip()
    line = text.splitlines()[-1]
    if "get_config() missing" in line:  # configs/default.py
        return f"--config: get_config needs arguments there; name one of {_known_configs()}"
    if "Traceback" in text:
        return f"{_config_of(argv)}: {line}"
    missing = re.findall(r"flag --(\w+)=None: Flag --\1 must have a value", text)
    if "config" in missing and _config_of(argv):
        return f"{_config_of(argv)}: {_RETURNS}"
    return f"--{missing[0]}: is missing; --help lists the flags" if missing else line


def _line_of_config(error: Exception, argv: Sequence[str]) -> str:
    """ "FILE, line N: " where an error comes from the config's file; else empty."""
    config = _config_of(argv)
    if isinstance(error, SyntaxError):
        line = f", line {error.lineno}" if error.lineno else ""
        return f"{error.filename or config}{line}: "
    if "has no attribute 'get_config'" in str(error):
        return f"{config}: "
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if os.path.abspath(frame.filename) == config]
    return f"{config}, line {lines[-1]}: " if lines else ""


def _config_of(argv: Sequence[str]) -> str:
    """The path of the config's file; empty where none is named."""
    for flag, word in zip(argv, [*argv[1:], ""]):
        name, equals, value = flag.partition("=")
        if name in ("--config", "-config"):
            return os.path.abspath(value if equals else word)
    return ""


def _with_path_of_config(argv: Sequence[str]) -> list[str]:
    """The arguments, with `--config NAME` replaced by the path of the published config."""
    words = list(argv)
    for i, word in enumerate(words):
        flag, equals, name = word.partition("=")
        if flag not in ("--config", "-config") or (not equals and i + 1 == len(words)):
            continue
        at, prefix = (i, f"{flag}=") if equals else (i + 1, "")
        name = name if equals else words[at]
        path = CONFIGS / f"{name}.py"
        if name.isidentifier() or name[:1].isdigit():
            if not path.is_file():
                known = _known_configs()
                sys.exit(f"error: --config {name}: neither a file nor one of {known}")
            words[at] = f"{prefix}{path}"
    return words


def _known_configs() -> str:
    names = {path.stem for path in CONFIGS.glob("[!_]*.py")} - {"default"}
    return ", ".join(sorted(names))
