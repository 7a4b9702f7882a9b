"""A device's peak performance, from its data sheet or measured."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.timing import Spread, pace, spread
from mspn_jax.hardware import HARDWARE

_KNOWN = {hardware.kind: hardware for hardware in HARDWARE.values()}
_SIDE = 2048  # of the matrices


class Yardstick:
    """The peak of this machine's devices, by `HARDWARE` or by a large matrix product.

    Attributes:
      ways: the product, to time in turn with what is measured; empty for a device of `HARDWARE`.
      source: where the peak comes from, for the report.
    """

    def __init__(self, dtype: Any):
        self.dtype = dtype
        self.peak = _KNOWN.get(jax.devices()[0].device_kind)
        self.source = "its data sheet" if self.peak else "a matrix product"
        self.ways: dict[str, Callable[[], Any]] = {}
        if self.peak is None:
            square = jnp.full((_SIDE, _SIDE), 1e-3, dtype)
            product = jax.jit(functools.partial(jnp.matmul, precision="highest"))
            self.ways["product"] = lambda: product(square, square).block_until_ready()

    def share(self, operations: float, name: str, seconds: dict[str, list[float]]) -> Spread:
        """The share of the peak that a way of `operations` a device reaches."""
        if self.peak is not None:
            return pace(operations / self.peak.flops(self.dtype), seconds[name])
        if jax.default_backend() == "cpu":  # a product runs on all cores, for any number of devices
            operations *= jax.local_device_count()
        at_peak = operations / (2.0 * _SIDE**3)
        return spread([at_peak * p / t for p, t in zip(seconds["product"], seconds[name])])

    def share_of_bandwidth(self, bytes_moved: float, seconds: list[float]) -> Spread | None:
        """The share of the memory's bandwidth; None for a device that is not in `HARDWARE`."""
        if self.peak is None:
            return None
        return pace(bytes_moved / self.peak.bytes_per_second, seconds)
