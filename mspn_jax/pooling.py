"""Max pooling, with a gradient for each kind of device."""

import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

_SIZE = 3
_NOWHERE = 255  # no place in a window


@jax.jit
def max_pool(x: Float[jax.Array, "B H W C"]) -> Float[jax.Array, "B H//2 W//2 C"]:
    """The maximum of each 3x3 window, with stride 2 and one pixel of padding. H and W are even.

    As in torch, the gradient goes to a window's first maximum in row-major order.
    """
    gathered = _with_gathered_gradient
    return jax.lax.platform_dependent(
        x, cuda=gathered, rocm=gathered, cpu=gathered, default=_reduce_windows
    )


def _reduce_windows(x: Float[jax.Array, "B H W C"]) -> Float[jax.Array, "B H//2 W//2 C"]:
    """XLA's own, with the gradient that suits a TPU."""
    return jax.lax.reduce_window(
        x,
        -jnp.inf,
        jax.lax.max,
        window_dimensions=(1, _SIZE, _SIZE, 1),
        window_strides=(1, 2, 2, 1),
        padding=((0, 0), (1, 1), (1, 1), (0, 0)),
    )


@jax.custom_vjp
def _with_gathered_gradient(x: Float[jax.Array, "B H W C"]) -> Float[jax.Array, "B H//2 W//2 C"]:
    """The same, but each pixel gathers its gradient.

    XLA's gradient is a scatter on a GPU: its order of additions varies, and it moves more bytes. On
    a CPU it is slow.
    """
    return _reduce_windows(x)


def _max_and_place(
    x: Float[jax.Array, "B H W C"],
) -> tuple[Float[jax.Array, "B H//2 W//2 C"], UInt8[jax.Array, "B H//2 W//2 C"]]:
    """The maxima, and where in its window each is: 3 * row + column."""
    pixels = _pixels_of_windows(x)
    maximum = next(pixels)
    place = jnp.zeros(maximum.shape, jnp.uint8)
    for i, each in enumerate(pixels, start=1):
        place = jnp.where(each > maximum, np.uint8(i), place)
        maximum = jnp.maximum(maximum, each)
    return maximum, place


def _pixels_of_windows(x: Float[jax.Array, "B H W C"]) -> Iterator[Float[jax.Array, "B h w C"]]:
    """The first pixel of all windows, the second of all windows, and so on."""
    _, height, width, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    for row, column in itertools.product(range(_SIZE), repeat=2):
        yield padded[:, row : row + height : 2, column : column + width : 2]


def _gradient(
    place: UInt8[jax.Array, "B h w C"], of_maximum: Float[jax.Array, "B h w C"]
) -> tuple[Float[jax.Array, "B 2*h 2*w C"]]:
    """Each pixel sums the gradients of those windows whose maximum it is.

    Along an axis, pixel i is in window i // 2, and also in the next window if i is odd.
    """
    batch, height, width, channels = place.shape
    parity = np.arange(2)
    # The place of an even and an odd pixel in their window, and in the next one.
    place_in = (parity + 1, parity - 1)
    total = jnp.zeros((), jnp.promote_types(of_maximum.dtype, jnp.float32))
    for down, right in itertools.product((0, 1), repeat=2):
        rows, columns = np.meshgrid(place_in[down], place_in[right], indexing="ij")
        own_place = np.where((rows < 0) | (columns < 0), _NOWHERE, _SIZE * rows + columns)
        windows, gradients = (
            jnp.pad(each, ((0, 0), (0, down), (0, right), (0, 0)))[:, down:, right:]
            for each in (place, of_maximum)
        )
        is_there = windows[:, :, None, :, None] == own_place[:, None, :, None].astype(np.uint8)
        total += jnp.where(is_there, gradients[:, :, None, :, None], 0)
    total = total.reshape(batch, 2 * height, 2 * width, channels)
    return (total.astype(of_maximum.dtype),)


_with_gathered_gradient.defvjp(_max_and_place, _gradient)
