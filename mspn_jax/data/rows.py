"""Columns of one length, which are indexed and concatenated together."""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

Own = TypeVar("Own", bound="Rows")


class Rows:
    """Base of a frozen dataclass whose fields are arrays, or `Rows`, with a row for each thing."""

    def __len__(self) -> int:
        return len(next(iter(vars(self).values())))

    def __getitem__(self: Own, rows: Any) -> Own:
        """The rows of a slice, a mask or indices."""
        return type(self)(*(column[rows] for column in vars(self).values()))

    @classmethod
    def concatenated(cls: type[Own], parts: Sequence[Own]) -> Own:
        """All parts, one after the other."""
        if len(parts) == 1:
            return parts[0]
        columns = zip(*(vars(part).values() for part in parts))
        return cls(*map(_concatenated, columns))


def _concatenated(columns: Sequence[Any]) -> Any:
    first = columns[0]
    return first.concatenated(columns) if isinstance(first, Rows) else np.concatenate(columns)
