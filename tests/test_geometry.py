"""Boxes and maps between frames against the reference, to the bit where crops depend on it."""

import numpy as np
import pytest

from conftest import golden_npz
from mspn_jax import geometry

CROP_HW = (256, 192)


def test_maps_equal_the_references():
    golden = golden_npz("warp_matrices.npz")
    names = ("center", "scale", "rotation_deg", "warp_mat", "warp_mat_inv")
    for center, size, rotation, forward, inverse in zip(*(golden[name] for name in names)):
        ours = geometry.image_to_crop(center, size, float(rotation), CROP_HW)
        np.testing.assert_array_equal(ours, forward)
        np.testing.assert_allclose(geometry.invert(ours), inverse, rtol=1e-5, atol=1e-4)


def test_regions_of_annotated_boxes_equal_the_references():
    golden = golden_npz("pipeline_val_gt.npz")
    center, size = geometry.padded_region(golden["bbox_xyxy"], padding=1.25)
    np.testing.assert_array_equal(center, golden["center"])
    np.testing.assert_array_equal(size, golden["scale_padded"])
    np.testing.assert_array_equal(geometry.fix_aspect(size, CROP_HW), golden["input_scale"])


def test_regions_of_detected_boxes_equal_the_references():
    golden = golden_npz("pipeline_val_det.npz")
    center, size = geometry.padded_region(golden["bbox_xyxy"], padding=1.25)
    np.testing.assert_array_equal(center, golden["input_center"])
    np.testing.assert_array_equal(geometry.fix_aspect(size, CROP_HW), golden["input_scale"])


def test_the_center_of_the_region_is_the_middle_of_the_crop_and_its_width_the_crops():
    center, size = np.float32([50, 80]), np.float32([30, 40])
    affine = geometry.image_to_crop(center, size, 90.0, CROP_HW)
    np.testing.assert_allclose(geometry.transform(affine, center[None]), [[96, 128]], atol=1e-4)
    # Turned by a right angle, what lies right of the center lies above the middle of the crop.
    np.testing.assert_allclose(
        geometry.transform(affine, center[None] + np.float32([15, 0])), [[96, 32]], atol=1e-4
    )


def test_crop_points_return_to_the_image():
    golden = golden_npz("decode.npz")
    ours = geometry.crop_to_image(
        golden["keypoints_k5"], golden["input_center"], golden["input_scale"], CROP_HW
    )
    np.testing.assert_allclose(ours, golden["image_keypoints_k5"], rtol=1e-5, atol=1e-3)
    center, size = golden["input_center"][0], golden["input_scale"][0]
    affine = geometry.image_to_crop(center, size, 0.0, CROP_HW)
    there = geometry.transform(affine, golden["image_keypoints_k5"][0])
    np.testing.assert_allclose(there, golden["keypoints_k5"][0], atol=1e-2)


def test_annotated_boxes_are_added_up_in_float64_and_clipped():
    boxes = np.array([[-5.0, 10.0, 30.0, 20.0], [90.0, 40.0, 30.0, 30.0], [0.1, 0.2, 0.3, 0.4]])
    clipped = geometry.clip_boxes(boxes, (60, 100))
    expected = [[0, 10, 25, 30], [90, 40, 99, 59], [0.1, 0.2, 0.1 + 0.3, 0.2 + 0.4]]
    np.testing.assert_array_equal(clipped, np.array(expected).astype(np.float32))


def test_detected_boxes_are_added_up_in_float32():
    boxes_xywh = np.random.default_rng(0).uniform(0, 640, (1000, 4)).round(2)
    expected = []
    for box in boxes_xywh.tolist():  # one number after the other, as the reference does
        x, y, w, h = (np.float32(side) for side in box)
        expected.append((x, y, x + w, y + h))
    found = geometry.boxes_xywh_to_xyxy(boxes_xywh)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array(expected, np.float32))
    in_float64 = boxes_xywh + np.pad(boxes_xywh[:, :2], ((0, 0), (2, 0)))
    assert (found != in_float64.astype(np.float32)).any(1).mean() > 0.2  # the order matters


def test_mirroring_twice_is_nothing():
    points = np.float32([[0, 5], [63, 1], [10.5, 2]])
    mirrored = geometry.mirror_x(points, 64)
    np.testing.assert_array_equal(mirrored[:, 0], [63, 0, 52.5])
    np.testing.assert_array_equal(geometry.mirror_x(mirrored, 64), points)


def test_unusable_boxes():
    boxes = [[0, 0, 1, 1], [0, 0, 0, 5], [3, 3, -1, 2], [np.nan, 0, 1, 1], [0, np.inf, 1, 1]]
    usable = geometry.usable_boxes(np.array(boxes))
    np.testing.assert_array_equal(usable, [True, False, False, False, False])
    assert geometry.usable_boxes(np.empty((0, 4))).shape == (0,)


@pytest.mark.parametrize("size", [(30.0, 20.0), (20.0, 30.0), (15.0, 20.0)])
def test_aspect_is_fixed_by_enlarging(size):
    fixed = geometry.fix_aspect(np.float32(size), CROP_HW)
    assert fixed[0] / fixed[1] == pytest.approx(0.75)
    assert (fixed >= np.float32(size)).all() and (fixed == np.float32(size)).any()


def test_intersections_over_union():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 0, 0]])
    others = np.array(
        [[5, 0, 10, 10], [0, 0, 10, 10], [20, 20, 10, 10], [2, 2, 2, 5], [0, 0, 0, 0]]
    )
    np.testing.assert_allclose(
        geometry.intersections_over_union(boxes, others), [[1 / 3, 1, 0, 0.1, 0], [0] * 5]
    )
