"""Settings of the CPU backend, which other backends do not get."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mspn_jax import cpu
from mspn_jax.convolution import convolve


def compiled(options) -> str:
    """A convolution, a product and a sum, as XLA compiles them."""

    def run(x, kernel, matrix):
        product = convolve(x, kernel, 1) @ matrix
        return product, product.sum((0, 1, 2))

    arguments = (
        np.ones(shape, np.float32) for shape in ((8, 64, 64, 64), (3, 3, 64, 64), (64, 64))
    )
    return jax.jit(run, compiler_options=options).lower(*arguments).compile().as_text()


def test_on_a_cpu_convolutions_and_products_are_not_ynns():
    assert jax.default_backend() == "cpu"
    before, after = (
        compiled(options).count("__ynn_fusion") for options in ({}, cpu.compiler_options())
    )
    assert (before, after) == (3, 1)  # the sum stays


def test_an_option_that_xla_does_not_have_is_left_out():
    assert cpu._if_known({"xla_cpu_no_such_option": True}) == {}


@pytest.mark.parametrize("stride", [1, 2])
def test_a_1x1_convolution_and_the_cpus_product_are_equal_in_value_and_gradient(stride):
    rng = np.random.default_rng(0)
    x, kernel = (rng.standard_normal(shape, np.float32) for shape in ((2, 6, 4, 5), (1, 1, 5, 3)))

    def natural(x, kernel):
        pad = ((0, 0), (0, 0))
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), pad, dimension_numbers=dimensions
        )

    def value_and_gradients(function):
        y, pull_back = jax.vjp(function, x, kernel)
        return y, *pull_back(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    expected = value_and_gradients(natural)
    for way in (
        lambda x, kernel: cpu.pointwise_convolution(x, kernel, stride),
        lambda x, kernel: convolve(x, kernel, stride),
    ):
        for mine, other in zip(value_and_gradients(way), expected, strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("platform, product", [("cpu", True), ("cuda", False), ("tpu", False)])
def test_the_product_is_for_cpus_alone(platform, product):
    """Chosen by the platform that a program is lowered for, not by the machine's own."""
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2, 8, 8, 4), (1, 1, 4, 6))]
    gradients = jax.jit(jax.grad(lambda x, k: convolve(x, k).sum(), argnums=(0, 1)))
    text = jax.export.export(gradients, platforms=[platform])(*shapes).mlir_module()
    assert ("stablehlo.dot_general" in text) == product
    assert ("stablehlo.convolution" in text) != product
