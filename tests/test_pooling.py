"""Max pooling against loops over windows, and a CPU's form against a TPU's."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mspn_jax.pooling import _reduce_windows, max_pool


def value_and_gradient(pool, x, of_maximum):
    maximum, gradient = jax.vjp(pool, jnp.asarray(x))
    return np.asarray(maximum), np.asarray(gradient(jnp.asarray(of_maximum))[0])


def by_loops(x, of_maximum):
    """The first maximum of each window gets the window's gradient."""
    _, height, width, _ = x.shape
    maximum, gradient = np.zeros(of_maximum.shape), np.zeros(x.shape)
    for b, i, j, c in np.ndindex(of_maximum.shape):
        window = [
            (row, column)
            for row, column in itertools.product(
                range(2 * i - 1, 2 * i + 2), range(2 * j - 1, 2 * j + 2)
            )
            if 0 <= row < height and 0 <= column < width
        ]
        best = max(window, key=lambda pixel: x[b, *pixel, c])
        maximum[b, i, j, c] = x[b, *best, c]
        gradient[b, *best, c] += of_maximum[b, i, j, c]
    return maximum, gradient


@pytest.mark.parametrize("levels", [3, 1000])
def test_it_equals_loops_over_windows(levels):
    """Few levels make many equal maxima."""
    random = np.random.default_rng(levels)
    x = random.integers(0, levels, (2, 6, 8, 3)).astype(np.float32)
    of_maximum = random.integers(-9, 10, (2, 3, 4, 3)).astype(np.float32)
    for found, expected in zip(
        value_and_gradient(max_pool, x, of_maximum), by_loops(x, of_maximum)
    ):
        np.testing.assert_array_equal(found, expected)


def test_it_equals_a_tpus_form():
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 16, 12, 5), np.float32)
    of_maximum = random.standard_normal((2, 8, 6, 5), np.float32)

    ours, theirs = (value_and_gradient(pool, x, of_maximum) for pool in (max_pool, _reduce_windows))
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-6)
    np.testing.assert_array_equal(max_pool(jnp.asarray(x)), theirs[0])  # without a gradient


def test_bfloat16_gradients_are_summed_in_float32():
    x = np.zeros((1, 4, 4, 1), np.float32)
    x[0, 1, 1] = 1  # the maximum of all four windows
    of_maximum = np.array([256, 1, 1, 1], np.float32).reshape(1, 2, 2, 1)
    _, gradient = value_and_gradient(
        max_pool, jnp.asarray(x, jnp.bfloat16), jnp.asarray(of_maximum, jnp.bfloat16)
    )
    assert gradient[0, 1, 1, 0] == jnp.bfloat16(259)  # 256 + 1 is 256 in bfloat16


def test_nan_is_not_hidden():
    x = np.zeros((1, 4, 4, 1), np.float32)
    x[0, 2, 2] = np.nan
    for pooled in (max_pool(jnp.asarray(x)), jax.vjp(max_pool, jnp.asarray(x))[0]):
        assert np.isnan(pooled[0, 1, 1, 0]) and not np.isnan(pooled[0, 0, 0, 0])
