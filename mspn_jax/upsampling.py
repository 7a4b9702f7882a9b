"""Bilinear upsampling with aligned corners, which `jax.image.resize` does not offer.

Output pixel i of n samples position i (m - 1) / (n - 1) of m input pixels: the corner pixels
coincide. Source: `torch.nn.functional.interpolate(..., align_corners=True)`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float64

_ROWS, _COLUMNS = 1, 2  # axes of (B, H, W, C)


@functools.partial(jax.jit, static_argnames="factor")
def upsample(x: Float[jax.Array, "B H W C"], factor: int) -> Float[jax.Array, "B h w C"]:
    """Height and width times `factor`: computed in float32, returned in the dtype of `x`."""
    if factor == 1:
        return x
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    blend = functools.partial(_blend_neighbours, factor=factor)
    multiply = functools.partial(_multiply_matrices, factor=factor)
    y = jax.lax.platform_dependent(wide, cuda=blend, rocm=blend, default=multiply)
    return y.astype(x.dtype)


def interpolation_matrix(size: int, new_size: int) -> Float64[np.ndarray, "new_size size"]:
    """Row i holds the weights of the input pixels for output pixel i; two are not zero."""
    position = np.arange(new_size) * ((size - 1) / max(new_size - 1, 1))
    return np.maximum(0.0, 1.0 - np.abs(position[:, None] - np.arange(size)))


def _multiply_matrices(x: Float[jax.Array, "B H W C"], factor: int) -> Float[jax.Array, "B h w C"]:
    """Two matrix products, for devices whose fastest unit is the matrix unit."""
    rows, columns = (
        jnp.asarray(interpolation_matrix(size, factor * size), x.dtype) for size in x.shape[1:3]
    )
    return jnp.einsum("hH,wW,BHWC->BhwC", rows, columns, x, precision=jax.lax.Precision.HIGHEST)


def _blend_neighbours(x: Float[jax.Array, "B H W C"], factor: int) -> Float[jax.Array, "B h w C"]:
    """Sums of shifted arrays, which a GPU fuses with the operations before and after.

    Its gradient is also such sums, so it is deterministic. The gradient of a gather would be a
    scatter, whose order of additions varies on a GPU.
    """
    return _blend_axis(_blend_axis(x, _ROWS, factor), _COLUMNS, factor)


def _blend_axis(
    x: Float[jax.Array, "B H W C"], axis: int, factor: int
) -> Float[jax.Array, "B h w C"]:
    """Upsamples one axis. Output pixel factor * k + j lies between input pixels k - 1 and k + 1."""
    size = x.shape[axis]
    outputs = np.arange(factor * size)
    matrix = np.pad(interpolation_matrix(size, factor * size), [(0, 0), (1, 1)])
    padded = jnp.pad(x, [(1, 1) if a == axis else (0, 0) for a in range(x.ndim)])
    total = jnp.zeros((), x.dtype)
    for neighbour in range(3):
        shifted = jax.lax.slice_in_dim(padded, neighbour, neighbour + size, axis=axis)
        weights = matrix[outputs, outputs // factor + neighbour].astype(x.dtype)
        trailing = (1,) * (x.ndim - 1 - axis)
        total += jnp.expand_dims(shifted, axis + 1) * weights.reshape(size, factor, *trailing)
    return total.reshape(*x.shape[:axis], factor * size, *x.shape[axis + 1 :])
