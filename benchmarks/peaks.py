"""What a device can do at most: from its maker's data sheet, or, on a CPU, measured."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


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


def known_peak() -> Peak | None:
    """Of this machine's first device, if the table has it."""
    return PEAKS.get(jax.devices()[0].device_kind)


def matrix_product(dtype: Any, size: int = 2048) -> tuple[float, Callable[[], Any]]:
    """(operations, way): a large matrix product, a device's peak where no data sheet says it.

    To be timed in turn with what is measured against it, so that other work slows both.
    """
    square = jnp.full((size, size), 1e-3, dtype)
    product = jax.jit(jnp.matmul)
    return 2.0 * size**3, lambda: product(square, square).block_until_ready()
