"""What the objects of a json must hold, as tables of fields; objects -> NumPy columns and findings.

Annotations, detections and boxes for prediction are all read through these tables, a whole column
at a time.
"""

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from mspn_jax.errors import DataError

ERROR, WARNING, SUSPECT, NOTE = LEVELS = ("error", "warning", "suspect", "note")
SHOWN_IDS = 5  # of a finding
_SOME = 3  # ids in a message
_REQUIRED = object()
_LARGEST_WHOLE_FLOAT = 2**53
_LARGEST_FLOAT = int(np.finfo(np.float64).max)

Columns = dict[str, np.ndarray]
Converter = Callable[[list[Any]], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something found in `count` places of a file."""

    # `error`: it is refused. `warning`: it is left out or replaced. `suspect`: it looks wrong.
    # `note`: it is worth knowing.
    level: str
    of: str  # what the ids identify: "annotation", "image" ...; "" for the file as a whole
    what: str  # what is wrong
    count: int
    ids: tuple[int | str, ...]  # the first few
    remedy: str = ""  # a sentence or more

    def __str__(self) -> str:
        text = self.what + self.remedy_text
        if not self.of:
            return text
        more = f" and {self.count - _SOME} more" if self.count > _SOME else ""
        return f"{self.of} {', '.join(map(str, self.ids[:_SOME]))}{more}: {text}"

    @property
    def remedy_text(self) -> str:
        return f". {self.remedy}" if self.remedy else ""


class Findings(list[Finding]):
    """All findings of a file, in the order in which they were made."""

    def add(self, level: str, of: str, what: str, ids: Iterable[Any], remedy: str = "") -> None:
        """Adds a finding, if there are any ids."""
        each = [i.item() if isinstance(i, np.generic) else i for i in ids]
        if each:
            self.append(Finding(level, of, what, len(each), tuple(each[:SHOWN_IDS]), remedy))

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self if finding.level == ERROR]

    def raise_error(self, path: Any) -> None:
        """Raises the first error as DataError, with the file's name."""
        for finding in self.errors[:1]:
            raise DataError(f"{path}: {finding}")


@dataclasses.dataclass(frozen=True)
class Field:
    """A key of a json object."""

    name: str
    must: str  # what its value must be, for messages
    convert: Converter  # values -> (column, which of them could be converted)
    # The value where the key is missing or null, maybe out of bounds. Without one the key is
    # required.
    default: Any = _REQUIRED
    low: int | float | None = None  # bounds of the converted values; NaN is never within bounds
    high: int | float | None = None
    remedy: str = ""  # how to correct it

    def read(self, values: list[Any]) -> tuple[Shaped[np.ndarray, "N ..."], Bool[np.ndarray, "N"]]:
        """(column, which values are good). Values that are not good are 0 or "" in the column."""
        is_left_out = np.zeros(len(values), bool)
        if self.default is not _REQUIRED:
            is_left_out = np.array([value is None for value in values], bool)
            values = [self.default if value is None else value for value in values]
        column, good = self.convert(values)
        if self.low is not None:
            within = (column >= self.low) & (column <= self.high)
            good = good & ((within if within.ndim == 1 else within.all(1)) | is_left_out)
            column[~good] = 0
        return column, good


def read_columns(
    rows: list[Any],
    fields: Sequence[Field],
    of: str,
    findings: Findings,
    ids: Sequence[int | str] | None = None,
) -> tuple[Columns, Bool[np.ndarray, "N"]]:
    """Reads json objects into columns, and adds a finding for each field with faulty values.

    Args:
      of: what the objects are, for messages.
      ids: of the objects. Without them the field `id` identifies an object, and where that is
        missing or faulty, its index.

    Returns:
      {field name: (N, ...) column}, and which objects have no faulty field.
    """
    is_object = np.array([type(row) is dict for row in rows], bool)
    if not is_object.all():
        found = np.flatnonzero(~is_object)
        what = f"{shown(rows[found[0]])} is not a json object"
        findings.add(ERROR, of, what, _indices(found))
        rows = [row if type(row) is dict else {} for row in rows]
    columns: Columns = {}
    all_good, identified = is_object, np.zeros(len(rows), bool)
    for field in fields:
        columns[field.name], good = field.read([row.get(field.name) for row in rows])
        found = np.flatnonzero(~good & is_object)
        if len(found):
            value = rows[found[0]].get(field.name, _REQUIRED)
            what = f"{field.name} is {shown(value)}; expected {field.must}"
            indices = _indices(found)
            if ids is not None:
                indices = [ids[i] for i in found.tolist()]
            elif "id" in columns:
                known = zip(found, indices)
                indices = [columns["id"][i] if identified[i] else index for i, index in known]
            findings.add(ERROR, of, what, indices, field.remedy)
        if field.name == "id":
            identified = good & is_object
        all_good = all_good & good
    return columns, all_good


def _indices(found: Int[np.ndarray, "N"]) -> list[Any]:
    return [f"at index {i}" for i in found.tolist()]


def shown(value: Any) -> str:
    """A faulty value in a message."""
    if value is _REQUIRED:
        return "missing"
    if isinstance(value, list) and any(isinstance(each, list) for each in value):
        return f"a list of {len(value)} lists"
    if isinstance(value, list) and len(value) > 5:
        return f"{len(value)} numbers" if _are_numbers(value) else f"a list of {len(value)} values"
    try:
        text = json.dumps(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def some(offenders: Sequence[Any]) -> str:
    """The first few of them, and how many more there are, for a message."""
    more = f" and {len(offenders) - _SOME} more" if len(offenders) > _SOME else ""
    return ", ".join(map(str, offenders[:_SOME])) + more


def whole(values: list[Any]) -> tuple[Shaped[np.ndarray, "N"], Bool[np.ndarray, "N"]]:
    """Integers of 64 bits; 5.0 counts as 5."""
    if set(map(type, values)) <= {int}:
        try:
            return np.array(values, np.int64), np.ones(len(values), bool)
        except OverflowError:
            pass
    good = list(map(_is_whole, values))
    column = np.array([int(value) if ok else 0 for value, ok in zip(values, good)], np.int64)
    return column, np.array(good, bool)


def _is_whole(value: Any) -> bool:
    if type(value) is int:
        return -(2**63) <= value < 2**63
    return type(value) is float and value.is_integer() and abs(value) <= _LARGEST_WHOLE_FLOAT


def flag(values: list[Any]) -> tuple[Shaped[np.ndarray, "N"], Bool[np.ndarray, "N"]]:
    """0, 1, false or true."""
    return whole([int(value) if type(value) is bool else value for value in values])


def number(values: list[Any]) -> tuple[Shaped[np.ndarray, "N"], Bool[np.ndarray, "N"]]:
    """Numbers, also NaN and infinite ones."""
    good = np.ones(len(values), bool)
    if not _are_numbers(values):
        good = np.array([type(value) in _NUMBERS for value in values], bool)
        values = [value if ok else 0.0 for value, ok in zip(values, good)]
    return _floats(values), good


def numbers(count: int) -> Converter:
    """Lists of `count` numbers, also NaN and infinite ones; null counts as NaN."""

    def convert(
        values: list[Any],
    ) -> tuple[Shaped[np.ndarray, "N count"], Bool[np.ndarray, "N"]]:
        blank = [0.0] * count
        good = np.array([type(v) is list and len(v) == count for v in values], bool)
        lists = values if good.all() else [v if ok else blank for v, ok in zip(values, good)]
        flat = list(itertools.chain.from_iterable(lists))
        if not _are_numbers(flat):
            good &= [_are_numbers(v) for v in lists]
            flat = [x for v, ok in zip(lists, good) for x in (v if ok else blank)]
        return _floats(flat).reshape(-1, count), good

    return convert


_NUMBERS = {int, float, type(None)}


def _are_numbers(values: list[Any]) -> bool:
    return set(map(type, values)) <= _NUMBERS


def _floats(values: list[Any]) -> Float[np.ndarray, "N"]:
    """Integers beyond the range of a float become infinite, None becomes NaN."""
    try:
        return np.array(values, np.float64)
    except OverflowError:
        huge = [type(v) is int and abs(v) > _LARGEST_FLOAT for v in values]
        return np.array([np.inf if is_huge else v for v, is_huge in zip(values, huge)], np.float64)


def texts(is_good: Callable[[str], bool] = bool) -> Converter:
    """Strings that satisfy a condition; by default, those that are not empty."""

    def convert(values: list[Any]) -> tuple[Shaped[np.ndarray, "N"], Bool[np.ndarray, "N"]]:
        good = np.array([isinstance(v, str) and is_good(v) for v in values], bool)
        column = np.array([v if ok else "" for v, ok in zip(values, good)], object)
        return column, good

    return convert


def lists_of_texts(values: list[Any]) -> tuple[Shaped[np.ndarray, "N"], Bool[np.ndarray, "N"]]:
    """Lists of strings, as tuples."""
    good = [type(v) is list and all(isinstance(x, str) for x in v) for v in values]
    column = np.empty(len(values), object)
    for i, (value, ok) in enumerate(zip(values, good)):
        column[i] = tuple(value) if ok else ()
    return column, np.array(good, bool)
