"""Upsampling: against its definition, and each device's form against the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mspn_jax import upsampling
from mspn_jax.upsampling import interpolation_matrix, upsample

FORMS = [upsampling._multiply_matrices, upsampling._blend_neighbours]


def test_corners_stay_and_what_lies_between_is_linear():
    matrix = interpolation_matrix(8, 16)
    np.testing.assert_allclose(matrix.sum(1), 1)
    np.testing.assert_allclose(matrix @ np.arange(8.0), np.linspace(0, 7, 16), atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("hw, factor", [((8, 6), 2), ((8, 6), 8), ((3, 5), 4), ((1, 2), 2)])
def test_every_form_is_the_product_with_both_matrices_in_value_and_gradient(form, hw, factor):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *hw, 3))
    rows, columns = (interpolation_matrix(size, factor * size) for size in hw)
    expected = np.einsum("hH,wW,BHWC->BhwC", rows, columns, x)
    cotangent = rng.standard_normal(expected.shape)
    expected_gradient = np.einsum("hH,wW,BhwC->BHWC", rows, columns, cotangent)

    with jax.enable_x64(True):
        y, pull_back = jax.vjp(lambda x: form(x, factor), jnp.asarray(x))
        (gradient,) = pull_back(jnp.asarray(cotangent))
    np.testing.assert_allclose(y, expected, atol=1e-12)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-12)


def test_an_upsampled_array_keeps_its_dtype_and_is_rounded_once():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 4, 3, 2)), jnp.bfloat16)
    expected = upsample(x.astype(jnp.float32), 2)
    assert (upsample(x, 2) == expected.astype(jnp.bfloat16)).all()
    assert (upsample(x, 1) == x).all()


@pytest.mark.parametrize("platform, product", [("cpu", True), ("cuda", False), ("tpu", True)])
def test_only_gpus_blend(platform, product):
    shape = jax.ShapeDtypeStruct((2, 8, 6, 3), jnp.float32)
    gradient = jax.jit(jax.grad(lambda x: jnp.square(upsample(x, 2)).sum()))
    text = jax.export.export(gradient, platforms=[platform])(shape).mlir_module()
    assert ("stablehlo.dot_general" in text) == product
    assert "scatter" not in text  # whose order of additions a GPU does not fix
