"""What a device can do at most: from its maker's data sheet, or, on a CPU, measured."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.timing import Spread, spread


class Peak(NamedTuple):
    """Of one device: dense products, without sparsity.

    Attributes:
      bfloat16_flops, float32_flops: a second. float32 means what XLA makes of it by default:
        TF32 where an NVIDIA GPU has it, bfloat16 products on a TPU.
      bytes_per_second: of its memory.
    """

    bfloat16_flops: float
    float32_flops: float
    bytes_per_second: float

    def flops(self, dtype: Any) -> float:
        return self.bfloat16_flops if jnp.dtype(dtype) == jnp.bfloat16 else self.float32_flops


# By `jax.devices()[0].device_kind`. NVIDIA's and Google's data sheets. A device of TPU v2 and v3
# is one core, half a chip.
PEAKS = {
    "Tesla T4": Peak(65e12, 8.1e12, 0.32e12),
    "Tesla V100-SXM2-16GB": Peak(125e12, 15.7e12, 0.9e12),
    "Tesla V100-SXM2-32GB": Peak(125e12, 15.7e12, 0.9e12),
    "NVIDIA A100-SXM4-40GB": Peak(312e12, 156e12, 1.555e12),
    "NVIDIA A100-SXM4-80GB": Peak(312e12, 156e12, 2.039e12),
    "NVIDIA L4": Peak(121e12, 60e12, 0.3e12),
    "NVIDIA H100 PCIe": Peak(756e12, 378e12, 2.0e12),
    "NVIDIA H100 80GB HBM3": Peak(989e12, 494e12, 3.35e12),
    "NVIDIA H200": Peak(989e12, 494e12, 4.8e12),
    "TPU v2": Peak(23e12, 23e12, 0.35e12),
    "TPU v3": Peak(61.5e12, 61.5e12, 0.45e12),
    "TPU v4": Peak(275e12, 275e12, 1.2e12),
    "TPU v5 lite": Peak(197e12, 197e12, 0.819e12),
    "TPU v5": Peak(459e12, 459e12, 2.765e12),
    "TPU v6 lite": Peak(918e12, 918e12, 1.64e12),
}


class Yardstick:
    """The peak of this machine's devices: by the table, or else a large matrix product's.

    Attributes:
      ways: the product, to be timed in turn with what is measured against it, so that other work
        slows both; empty where the table knows the device.
      source: of the peak, in words.
    """

    def __init__(self, dtype: Any, size: int = 2048):
        self.dtype = dtype
        self.peak = PEAKS.get(jax.devices()[0].device_kind)
        self.source = "its data sheet" if self.peak else "a matrix product"
        self.ways: dict[str, Callable[[], Any]] = {}
        if self.peak is None:
            square = jnp.full((size, size), 1e-3, dtype)
            product = jax.jit(jnp.matmul)
            self.product_operations = 2.0 * size**3
            self.ways["product"] = lambda: product(square, square).block_until_ready()

    def share(self, operations: float, name: str, seconds: dict[str, list[float]]) -> Spread:
        """Of the peak, that `operations` a device reach in the way called so."""
        if self.peak is not None:
            flops = self.peak.flops(self.dtype)
            return spread([operations / t / flops for t in seconds[name]])
        if jax.default_backend() == "cpu":  # all cores work on a product, whatever the devices
            operations *= jax.local_device_count()
        at_peak = operations / self.product_operations
        return spread([at_peak * p / t for p, t in zip(seconds["product"], seconds[name])])

    def share_of_bandwidth(self, bytes_accessed: float, seconds: list[float]) -> Spread | None:
        """Of the memory's, where the table knows it."""
        if self.peak is None:
            return None
        return spread([bytes_accessed / t / self.peak.bytes_per_second for t in seconds])
