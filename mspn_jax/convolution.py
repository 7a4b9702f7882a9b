"""The network's convolution."""

import functools

import jax
from jaxtyping import Float

from mspn_jax import cpu


@functools.partial(jax.jit, static_argnames="stride")
def convolve(
    x: Float[jax.Array, "B H W I"], kernel: Float[jax.Array, "k k I O"], stride: int = 1
) -> Float[jax.Array, "B h w O"]:
    """A zero-padded convolution in the kernel's dtype.

    With a float32 kernel, products and sums are float32 on every device. (By default a TPU rounds
    the factors to bfloat16, an NVIDIA GPU to TF32.) With a bfloat16 kernel, factors and result are
    bfloat16, sums float32.
    """
    is_narrow = kernel.dtype.itemsize < 4
    # torch pads both sides alike; "SAME" would pad a strided convolution unevenly.
    pad = (kernel.shape[0] // 2, kernel.shape[0] // 2)
    convolution = functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=(stride, stride),
        padding=(pad, pad),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.DEFAULT if is_narrow else jax.lax.Precision.HIGHEST,
    )
    x = x.astype(kernel.dtype)
    if kernel.shape[0] > 1:
        return convolution(x, kernel)
    product = functools.partial(cpu.pointwise_convolution, stride=stride)
    return jax.lax.platform_dependent(x, kernel, cpu=product, default=convolution)
