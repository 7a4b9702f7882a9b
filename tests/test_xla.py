"""XLA takes what it is told."""

import jax
import numpy as np

from mspn_jax import xla
from mspn_jax.model import convolve


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
        compiled(options).count("__ynn_fusion") for options in ({}, xla.compiler_options())
    )
    assert (before, after) == (3, 1)  # the sum stays


def test_an_option_that_xla_does_not_have_is_left_out():
    assert xla._if_known({"xla_cpu_no_such_option": True}) == {}
