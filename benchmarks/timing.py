"""Times alternatives in turn (A, B, A, B), so that a busy machine slows both alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Ways = Mapping[str, Callable[[], Any]]


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


def in_turn(ways: Ways, repeats: int) -> dict[str, list[float]]:
    """Seconds of each way, once a round. The first round warms up and is not counted.

    A way must block until its work is done: JAX and CUDA return early.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for counted in range(-1, repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if counted >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(dividends: list[float], divisors: list[float]) -> Spread:
    """The ratios of the pairs that ran one after the other."""
    return spread([a / b for a, b in zip(dividends, divisors, strict=True)])
