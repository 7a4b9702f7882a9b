"""A device's peak performance, from its data sheet or measured."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.timing import Spread, spread
from mspn_jax.hardware import HARDWARE

_KNOWN = {hardware.kind: hardware for hardware in HARDWARE.values()}


class Yardstick:
    """The peak of this machine's devices, by `HARDWARE` or by a large matrix product.

    Attributes:
      ways: the product, to time in turn with what is measured; empty for a device of `HARDWARE`.
      source: where the peak comes from, for the report.
    """

    def __init__(self, dtype: Any, size: int = 2048):
        self.dtype = dtype
        self.peak = _KNOWN.get(jax.devices()[0].device_kind)
        self.source = "its data sheet" if self.peak else "a matrix product"
        self.ways: dict[str, Callable[[], Any]] = {}
        if self.peak is None:
            square = jnp.full((size, size), 1e-3, dtype)
            product = jax.jit(functools.partial(jnp.matmul, precision="highest"))
            self.product_operations = 2.0 * size**3
            self.ways["product"] = lambda: product(square, square).block_until_ready()

    def share(self, operations: float, name: str, seconds: dict[str, list[float]]) -> Spread:
        """The share of the peak that a way of `operations` a device reaches."""
        if self.peak is not None:
            flops = self.peak.flops(self.dtype)
            return spread([operations / t / flops for t in seconds[name]])
        if jax.default_backend() == "cpu":  # a product runs on all cores, for any number of devices
            operations *= jax.local_device_count()
        at_peak = operations / self.product_operations
        return spread([at_peak * p / t for p, t in zip(seconds["product"], seconds[name])])

    def share_of_bandwidth(self, bytes_moved: float, seconds: list[float]) -> Spread | None:
        """The share of the memory's bandwidth; None for a device that is not in `HARDWARE`."""
        if self.peak is None:
            return None
        return spread([bytes_moved / t / self.peak.bytes_per_second for t in seconds])
