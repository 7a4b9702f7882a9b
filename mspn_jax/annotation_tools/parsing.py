"""Values of a tool's files, with the place of what is wrong in the message."""

import pathlib
from typing import Any

import yaml

from mspn_jax.data.fields import PIXELS
from mspn_jax.errors import DataError

_LARGEST_TEXT_FILE = 64 << 20  # bytes of a yaml or csv


def mapping(value: Any, where: str) -> dict[Any, Any]:
    """A json object. Raises DataError with the place."""
    if not isinstance(value, dict):
        raise DataError(f"{where}: {_kind(value)} where a json object is needed")
    return value


def items(value: Any, where: str, count: int | None = None) -> list[Any]:
    """A list, of `count` values; null counts as an empty one. Raises DataError with the place."""
    value = [] if value is None else value
    if not isinstance(value, list):
        raise DataError(f"{where}: {_kind(value)} where a list is needed")
    if count not in (None, len(value)):
        raise DataError(f"{where}: has {len(value)} values; expected {count}")
    return value


def text(value: Any, where: str) -> str:
    """A line that is not empty. Raises DataError with the place."""
    if not isinstance(value, str) or not value.strip() or not value.strip().isprintable():
        raise DataError(f"{where}: {_kind(value)} where a line of text is needed")
    return value.strip()


def number(value: Any, where: str, low: float = -PIXELS, high: float = PIXELS) -> float:
    """A finite number in a range, pixels by default. Raises DataError with the place."""
    if type(value) not in (int, float) or not low <= value <= high:  # NaN is not
        said = value if type(value) is float else _kind(value)
        raise DataError(f"{where}: {said} where a number from {low:,} to {high:,} is needed")
    return float(value)


def numbers(values: list[str], where: str) -> list[float]:
    """Numbers of a text file. Raises DataError with the place."""
    found = []
    for word in values:
        try:
            found.append(number(float(word), where))
        except ValueError as error:  # DataError too
            if isinstance(error, DataError):
                raise
            raise DataError(f"{where}: {word[:40]!r} where a number is needed") from None
    return found


def read_text(path: pathlib.Path) -> str:
    """A text file in UTF-8. Raises DataError if it is none, or cannot be read."""
    try:
        if path.stat().st_size > _LARGEST_TEXT_FILE:
            raise DataError(f"{path}: larger than {_LARGEST_TEXT_FILE >> 20} MB")
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text") from None


def read_yaml(path: pathlib.Path) -> dict[str, Any]:
    """A yaml file that holds an object. Raises DataError if it does not."""
    try:
        return mapping(yaml.safe_load(read_text(path)), str(path))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        place = "" if line is None else f", line {line + 1}"
        raise DataError(f"{path}{place}: not yaml") from None


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f"{value[:40]!r}"
    if type(value) is int and abs(value) < 10**15:
        return str(value)
    names = {dict: "an object", list: "a list", bool: "true or false", int: "a huge number"}
    return names.get(type(value), f"a {type(value).__name__}")
