"""The losses and their gradients against the reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import golden_json, golden_npz
from golden import recipe
from mspn_jax import heatmaps, losses

SEED = golden_json("meta.json")["seed"]


@pytest.fixture(scope="module")
def golden():
    return golden_npz("losses.npz"), golden_json("losses.json")


def to_nhwc(maps):
    return jnp.asarray(np.moveaxis(maps, -3, -1))


@pytest.mark.parametrize("weights", ["w_all", "w_some", "w_few", "w_frac"])
@pytest.mark.parametrize(
    "name, loss",
    [
        ("mse_1", losses.weighted_mse),
        ("ohkm_top8", losses.hard_keypoint_mse),
        ("ohkm_top3", lambda *a: losses.hard_keypoint_mse(*a, num_hard_keypoints=3)),
    ],
)
def test_one_map_losses_equal_the_references(golden, name, loss, weights):
    arrays, values = golden
    prediction, target = to_nhwc(arrays["pred"]), to_nhwc(arrays["target"])
    value, gradient = jax.value_and_grad(loss)(prediction, target, jnp.asarray(arrays[weights]))
    expected = values[f"{name}/{weights}"]
    assert value == pytest.approx(expected["loss_f64"], rel=1e-6)
    assert np.linalg.norm(gradient) == pytest.approx(expected["grad_l2"], rel=1e-5)
    strided = np.moveaxis(np.asarray(gradient), -1, -3)[..., ::4, ::4]
    np.testing.assert_allclose(strided, arrays[f"grad_{name}_{weights}"], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("num_stages", [1, 2, 3, 4])
def test_the_whole_loss_and_each_term_equal_the_references(golden, num_stages):
    arrays, values = golden
    keypoints, visibility = (
        jnp.asarray(arrays["head_keypoints"]),
        jnp.asarray(arrays["head_visible"]),
    )
    # The reference was run with as many levels as the heads need: one stage has four.
    kernel_sizes = heatmaps.KERNEL_SIZES[1:] if num_stages == 1 else heatmaps.KERNEL_SIZES
    targets, weights = heatmaps.encode(keypoints, visibility, (256, 192), (64, 48), kernel_sizes)
    predictions = np.stack(
        [
            recipe.head_pred(SEED, i, arrays["head_keypoints"], arrays["head_joint_shift"])
            for i in range(4 * num_stages)
        ]
    )
    predictions = to_nhwc(predictions).reshape(num_stages, 4, *to_nhwc(predictions).shape[1:])
    total, terms = losses.mspn_loss(predictions, targets, weights)
    expected = values[f"head_loss_{num_stages}stage"]
    assert total == pytest.approx(expected["total"], rel=1e-6)
    assert list(terms) == [f"stage{s}_unit{u}" for s in range(num_stages) for u in range(4)]
    np.testing.assert_allclose(list(terms.values()), expected["terms"], rtol=1e-5)
    assert sum(terms.values()) == pytest.approx(float(total), rel=1e-6)


def test_fewer_joints_than_are_mined_still_divide_by_the_same_number():
    prediction, target = jnp.ones((1, 4, 4, 3)), jnp.zeros((1, 4, 4, 3))
    value = losses.hard_keypoint_mse(prediction, target, jnp.ones((1, 3)), num_hard_keypoints=8)
    assert value == pytest.approx(3 / 8)
