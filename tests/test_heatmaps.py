"""The heatmap codec against the reference, and against brute force."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import golden_json, golden_npz
from mspn_jax import heatmaps
from mspn_jax.skeletons import COCO

CROP_HW, HEATMAP_HW = (256, 192), (64, 48)


@pytest.fixture(scope="module")
def codec():
    return golden_npz("decode.npz")


def to_nhwc(maps):
    return jnp.asarray(np.moveaxis(maps, -3, -1))


def test_targets_equal_the_references():
    golden = golden_npz("encode.npz")
    targets, weights = heatmaps.encode(
        jnp.asarray(golden["keypoints"]),
        jnp.asarray(golden["keypoints_visible"]),
        CROP_HW,
        HEATMAP_HW,
    )
    assert golden["kernel_sizes"].tolist() == list(heatmaps.KERNEL_SIZES)
    reference = golden["heatmaps"].transpose(1, 0, 3, 4, 2)
    np.testing.assert_allclose(targets, reference, atol=1e-3)
    for level in golden["keypoint_weights"]:
        np.testing.assert_array_equal(weights, level)


def test_a_target_is_a_blurred_impulse_for_any_size():
    x, y = 3, 1  # near two borders, where the reflection shows
    for kernel_size in heatmaps.KERNEL_SIZES:
        impulse = np.zeros((20, 24), np.float64)
        impulse[y, x] = 1
        blurred = cv2.GaussianBlur(impulse, (kernel_size, kernel_size), 0)
        keypoint = jnp.array([[[4 * x + 3.9, 4 * y + 0.1]]])
        target, _ = heatmaps.encode(keypoint, jnp.ones((1, 1)), (80, 96), (20, 24), (kernel_size,))
        expected = blurred / blurred[y, x] * 255
        np.testing.assert_allclose(target[0, 0, :, :, 0], expected, rtol=1e-5, atol=1e-5)


def test_keypoints_up_to_a_cell_outside_the_top_left_count():
    xy = jnp.array([[[-3.9, 10.0], [-4.0, 10.0], [191.9, 255.9], [192.0, 10.0], [10.0, 256.0]]])
    targets, weights = heatmaps.encode(xy, jnp.full((1, 5), 2), CROP_HW, HEATMAP_HW)
    np.testing.assert_array_equal(weights, [[1, 0, 1, 0, 0]])
    np.testing.assert_array_equal(targets.max((1, 2, 3)) > 0, [[1, 0, 1, 0, 0]])


def test_levels_of_stages():
    levels = heatmaps.target_levels(num_stages=3, num_units=4, num_levels=5)
    assert [list(stage) for stage in levels] == [[0, 1, 2, 3], [0, 1, 2, 3], [1, 2, 3, 4]]
    assert [list(s) for s in heatmaps.target_levels(1, 4, 5)] == [[1, 2, 3, 4]]
    assert [list(s) for s in heatmaps.target_levels(2, 4, 4)] == [[0, 1, 2, 3], [0, 1, 2, 3]]


def test_decoding_equals_the_references(codec):
    keypoints, scores = heatmaps.decode(to_nhwc(codec["maps"]))
    compared = np.ones(codec["maps"].shape[:2], bool)
    compared[5, 10] = False  # a weak spike on a negative floor, which the reference turns over
    # Where two neighbours or two maxima are equal to within rounding, either answer is right.
    compared &= codec["k5_top2_gap"] > 1e-4
    compared &= (np.abs(codec["k5_neighbour_diff_xy"]) > 1e-4).all(-1)
    assert compared.mean() > 0.8
    np.testing.assert_allclose(
        np.asarray(keypoints)[compared], codec["keypoints_k5"][compared], atol=1e-4
    )
    np.testing.assert_allclose(
        np.asarray(scores)[compared], codec["scores_k5"][compared], atol=1e-5
    )


def test_decoding_of_special_maps(codec):
    keypoints, scores = heatmaps.decode(to_nhwc(codec["special"])[None])
    compared = np.ones(17, bool)
    compared[[0, 14]] = False
    np.testing.assert_allclose(
        keypoints[0][compared], codec["special_keypoints_k5"][compared], atol=1e-4
    )
    np.testing.assert_allclose(scores[0][compared], codec["special_scores_k5"][compared], atol=1e-5)
    for broken_in_the_reference in (0, 14):
        np.testing.assert_array_equal(keypoints[0, broken_in_the_reference], [-4, -4])
        assert scores[0, broken_in_the_reference] == 0.5


def test_merging_of_mirrored_maps_equals_the_references(codec):
    straight = to_nhwc(codec["maps"][:3])
    mirrored = to_nhwc(codec["maps"][[1, 2, 0], ::-1, :, ::-1])
    merged = heatmaps.merge_flipped(straight, mirrored, COCO.flip_permutation)
    np.testing.assert_allclose(
        merged[:, ::4, ::4], to_nhwc(codec["flip_avg_strided4"]), rtol=1e-6, atol=1e-4
    )
    keypoints, scores = heatmaps.decode(merged)
    np.testing.assert_allclose(keypoints, codec["flip_keypoints"], atol=1e-4)
    np.testing.assert_allclose(scores, codec["flip_scores"], atol=1e-5)


def test_left_and_right_are_swapped_once():
    keypoints = jnp.array([[[60.0 + 3 * k, 100.0 + 6 * k] for k in range(17)]])
    straight, _ = heatmaps.encode(keypoints, jnp.ones((1, 17)), CROP_HW, HEATMAP_HW, (5,))
    # A crop of the mirrored person: in heatmap cells x -> 47 - x, and names swapped.
    mirrored = straight[:, 0, :, ::-1][..., COCO.flip_permutation]
    merged = heatmaps.merge_flipped(straight[:, 0], mirrored, COCO.flip_permutation)
    np.testing.assert_array_equal(merged, straight[:, 0])


def test_flip_permutation_is_the_references():
    meta = golden_json("coco_meta.json")
    np.testing.assert_array_equal(COCO.flip_permutation, meta["flip_indices"])
    np.testing.assert_array_equal(np.flatnonzero(COCO.is_upper_body), meta["upper_body_ids"])
    np.testing.assert_allclose(COCO.oks_sigmas, meta["sigmas"])
    assert COCO.keypoint_names == tuple(meta["keypoint_id2name"].values())
    assert [list(limb) for limb in COCO.limbs] == meta["skeleton_links"]


def test_round_trip_stays_within_a_quarter_cell_of_the_cell_center():
    rng = np.random.default_rng(0)
    xy = rng.uniform((12, 12), (180, 244), (64, 17, 2)).astype(np.float32)
    targets, _ = heatmaps.encode(jnp.asarray(xy), jnp.ones((64, 17)), CROP_HW, HEATMAP_HW, (5,))
    decoded, scores = jax.jit(heatmaps.decode)(targets[:, 0])
    # A target is symmetric about its cell, so decoding returns the cell's middle.
    np.testing.assert_allclose(decoded, 4 * np.floor(xy / 4) + 2, atol=1e-4)
    np.testing.assert_allclose(scores, 1.5, atol=1e-6)


@pytest.mark.parametrize("heatmap_hw", [(64, 64), (96, 72), (64, 48)])
def test_decoding_by_hand_at_other_sizes(heatmap_hw):
    height, width = heatmap_hw
    rng = np.random.default_rng(0)
    maps = np.stack(
        [cv2.GaussianBlur(rng.normal(0, 200, heatmap_hw), (9, 9), 0) for _ in range(64)]
    )
    maps = maps.astype(np.float32)
    maps[0, -1, -1] = maps[1, 0, 5] = 900  # on the border nothing is added
    keypoints, scores = heatmaps.decode(jnp.asarray(maps)[..., None])
    for k, heatmap in enumerate(maps.astype(np.float64)):
        blurred = cv2.GaussianBlur(np.pad(heatmap, 2), (5, 5), 0)[2:-2, 2:-2]
        y, x = divmod(int(blurred.argmax()), width)
        xy = np.array([x, y], float)
        if 1 < x < width - 1 and 1 < y < height - 1:
            across = blurred[y, x + 1] - blurred[y, x - 1]
            down = blurred[y + 1, x] - blurred[y - 1, x]
            xy += 0.25 * np.sign([across, down]) + 0.5
        np.testing.assert_allclose(keypoints[k, 0], 4 * xy, atol=1e-4)
        assert scores[k, 0] == pytest.approx(heatmap.max() / 255 + 0.5, abs=1e-5)
    inside = np.array([width - 2, height - 2])[None] * 4
    assert (np.asarray(keypoints[2:, 0]) < inside).all(1).mean() > 0.5
