"""The folded network computes the heatmaps of the trained one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mspn_jax.errors import CheckpointError
from mspn_jax.folding import fold, for_inference
from mspn_jax.model import MSPN
from mspn_jax.variables import count_parameters, initial_variables

MODEL = MSPN(2, blocks_per_unit=(1, 1, 1, 1), stem_channels=8, unit_channels=16)
IMAGES = np.random.default_rng(0).standard_normal((2, 64, 96, 3), np.float32)


def trained_variables(model: MSPN = MODEL):
    """As after training: no scale is 1, no mean 0 and no variance 1."""
    variables = initial_variables(model, seed=0, crop_hw=(64, 96))
    rng = np.random.default_rng(1)

    def moved(path, leaf):
        if path[-1].key == "kernel":
            return leaf
        low, high = {"scale": (0.5, 1.5), "var": (0.3, 3.0)}.get(path[-1].key, (-0.5, 0.5))
        return rng.uniform(low, high, leaf.shape).astype(np.float32)

    return jax.tree.map_with_path(moved, variables)


VARIABLES = trained_variables()


@pytest.fixture(scope="module")
def heatmaps() -> np.ndarray:
    """Of every stage and unit of the trained network, unfolded."""
    return np.asarray(jax.jit(MODEL.apply)(VARIABLES, IMAGES))


def predict(model: MSPN, variables) -> np.ndarray:
    return np.asarray(jax.jit(lambda v, x: model.apply(v, x, method="predict"))(variables, IMAGES))


def assert_each_map_is_near(found, expected, tolerance: float):
    top = np.abs(expected).max((-3, -2), keepdims=True)
    assert (np.abs(found - expected) / top).max() < tolerance


def test_folded_heatmaps_are_the_unfolded_ones(heatmaps):
    folded = jax.jit(MODEL.clone(folded=True).apply)(fold(VARIABLES), IMAGES)
    assert_each_map_is_near(folded, heatmaps, 2e-5)


@pytest.mark.parametrize("num_stages", [1, 2, None])
def test_it_stops_after_any_stage(heatmaps, num_stages):
    model, variables = for_inference(MODEL, VARIABLES, num_stages)
    assert_each_map_is_near(predict(model, variables), heatmaps[(num_stages or 2) - 1, -1], 2e-5)


def test_only_what_predicts_is_kept():
    _, variables = for_inference(MODEL, VARIABLES, 1)
    names = set(variables["params"])
    assert names == {"stem", "stage0", "stage0_head3_hidden", "stage0_head3_out"}
    assert "next_stage_input" not in variables["params"]["stage0"]
    assert variables.keys() == {"params"}
    _, both = for_inference(MODEL, VARIABLES)
    assert count_parameters(variables) < count_parameters(both) < count_parameters(VARIABLES)


@pytest.mark.parametrize("num_stages", [0, 3])
def test_stages_that_there_are_not_are_refused(num_stages):
    with pytest.raises(CheckpointError, match=f"stages {num_stages}: the checkpoint has 2"):
        for_inference(MODEL, VARIABLES, num_stages)


def test_bfloat16_folds_as_well_as_it_computes(heatmaps):
    expected = heatmaps[-1, -1]
    unfolded = predict(MODEL.clone(dtype=jnp.bfloat16), VARIABLES)
    folded = predict(*for_inference(MODEL.clone(dtype=jnp.bfloat16), VARIABLES))
    assert folded.dtype == np.float32
    error, unfolded_error = (np.square(x - expected).mean() ** 0.5 for x in (folded, unfolded))
    assert 1e-4 * expected.std() < error < 1.5 * unfolded_error


def test_a_folded_network_does_not_train():
    with pytest.raises(ValueError, match="no batch norm to train"):
        folded = MODEL.clone(folded=True)
        jax.eval_shape(lambda x: folded.apply(fold(VARIABLES), x, train=True), IMAGES)
