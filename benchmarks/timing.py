"""Times alternatives in turn (A, B, A, B), so that a busy machine slows both alike."""

import functools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Spread(NamedTuple):
    """A median, with the least and the greatest value."""

    median: float
    least: float
    greatest: float

    def __str__(self) -> str:
        return f"{brief(self.median)} ({brief(self.least)} to {brief(self.greatest)})"


def brief(number: float) -> str:
    """Three significant digits; 1350 rather than 1.35e+03."""
    return f"{number:.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def spread(values: list[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def pace(count: float, seconds: list[float]) -> Spread:
    """How many a second."""
    return spread([count / t for t in seconds])


def ratio(dividends: list[float], divisors: list[float]) -> Spread:
    """The ratios of the pairs that ran one after the other."""
    return spread([a / b for a, b in zip(dividends, divisors, strict=True)])


def in_turn(ways: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each way, once a round. The first round warms up and is not counted.

    A way must block until its work is done: JAX and CUDA return early.
    """
    return rounds({name: functools.partial(seconds_of, way) for name, way in ways.items()}, repeats)


def rounds(
    ways: Mapping[str, Callable[[], Any]], repeats: int, warm_ups: int = 1
) -> dict[str, list[Any]]:
    """What each way returns, once a round, without the rounds that warm up."""
    found: dict[str, list[Any]] = {name: [] for name in ways}
    for counted in range(-warm_ups, repeats):
        for name, way in ways.items():
            result = way()
            if counted >= 0:
                found[name].append(result)
    return found


def seconds_of(way: Callable[[], Any]) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start
