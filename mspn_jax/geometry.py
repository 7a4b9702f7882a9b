"""Boxes, crop regions, and the maps between the image, crop and heatmap frames.

Frames. A point is (x, y) in pixels, and (0, 0) is the *center* of the top-left pixel. `image` is
the decoded picture, `crop` the network's input, `heatmap` the crop at a `stride`-th of its size. A
crop region is `center_xy` and `size_wh`, in image pixels. Everything here is NumPy; batch axes
lead, and functions whose shapes begin with `*N` take one row or many.

The order and precision of the arithmetic are those of mmpose 1.3.2: byte-equal crops need
bit-equal maps.
"""

import functools

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, Real


def clip_boxes(
    boxes_xywh: Real[np.ndarray, "*N 4"], image_hw: tuple[int, int] | Int[np.ndarray, "*N 2"]
) -> Float32[np.ndarray, "*N 4"]:
    """Annotated boxes -> `boxes_xyxy`, clipped to [0, w-1] x [0, h-1].

    The corners are added in float64: in float32, one crop in twenty changes.
    """
    limits = np.asarray(image_hw)[..., [1, 0, 1, 0]] - 1
    boxes_xyxy = np.array(boxes_xywh, np.float64)
    boxes_xyxy[..., 2:] += boxes_xyxy[..., :2]
    np.minimum(boxes_xyxy, limits, out=boxes_xyxy)
    return np.maximum(boxes_xyxy, 0, out=boxes_xyxy).astype(np.float32)


def boxes_xywh_to_xyxy(boxes_xywh: Real[np.ndarray, "*N 4"]) -> Float32[np.ndarray, "*N 4"]:
    """Boxes of a detector, or of annotations that are not clipped -> `boxes_xyxy`.

    They are rounded to float32 and then added, unlike in `clip_boxes`: adding in float64 changes 3%
    of the crops of detected boxes.
    """
    boxes_xyxy = np.array(boxes_xywh, np.float32)
    boxes_xyxy[..., 2:] += boxes_xyxy[..., :2]
    return boxes_xyxy


def usable_boxes(boxes_xywh: Real[np.ndarray, "N 4"]) -> Bool[np.ndarray, "N"]:
    """Which boxes are finite and have an area."""
    return np.isfinite(boxes_xywh).all(-1) & (boxes_xywh[:, 2:] > 0).all(-1)


def intersections_over_union(
    boxes_xywh: Real[np.ndarray, "N 4"], others_xywh: Real[np.ndarray, "M 4"]
) -> Float64[np.ndarray, "N M"]:
    """IoU of each box with each of the others; 0 for boxes without area."""
    boxes, others = np.asarray(boxes_xywh, float)[:, None], np.asarray(others_xywh, float)
    ends, other_ends = (each[..., :2] + each[..., 2:] for each in (boxes, others))
    top_left = np.maximum(boxes[..., :2], others[..., :2])
    common = np.maximum(0, np.minimum(ends, other_ends) - top_left).prod(-1)
    total = boxes[..., 2:].prod(-1) + others[..., 2:].prod(-1) - common
    return common / np.maximum(total, np.finfo(float).tiny)


def padded_region(
    boxes_xyxy: Real[np.ndarray, "*N 4"], padding: float = 1.25
) -> tuple[Float32[np.ndarray, "*N 2"], Float32[np.ndarray, "*N 2"]]:
    """Boxes -> (center_xy, size_wh), the size `padding` times the box's."""
    boxes_xyxy = np.asarray(boxes_xyxy, np.float32)
    top_left, bottom_right = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    center_xy = (top_left + bottom_right) * np.float32(0.5)
    return center_xy, (bottom_right - top_left) * np.float32(padding)


def fix_aspect(
    size_wh: Float[np.ndarray, "*N 2"], crop_hw: tuple[int, int]
) -> Float32[np.ndarray, "*N 2"]:
    """Enlarges the short side until width : height is the crop's."""
    aspect = np.float32(crop_hw[1] / crop_hw[0])
    fixed = np.array(size_wh, np.float32)
    width, height = fixed[..., 0], fixed[..., 1]
    narrow = height * aspect
    wide = width > narrow
    fixed[..., 1] = np.where(wide, width / aspect, height)
    fixed[..., 0] = np.where(wide, width, narrow)
    return fixed


def crop_regions(
    boxes_xyxy: Real[np.ndarray, "*N 4"], padding: float, crop_hw: tuple[int, int]
) -> tuple[Float32[np.ndarray, "*N 2"], Float32[np.ndarray, "*N 2"]]:
    """Boxes -> (center_xy, size_wh) of the crops, without augmentation."""
    center_xy, size_wh = padded_region(boxes_xyxy, padding)
    return center_xy, fix_aspect(size_wh, crop_hw)


def image_to_crop(
    center_xy: Float[np.ndarray, "*N 2"],
    size_wh: Float[np.ndarray, "*N 2"],
    rotation_deg: float | np.floating | Float[np.ndarray, "*N"],
    crop_hw: tuple[int, int],
) -> Float64[np.ndarray, "*N 2 3"]:
    """The 2x3 map from image to crop points.

    The region's center goes to the middle of the crop (w/2, h/2), and its width becomes the
    crop's. A positive rotation turns the content counter-clockwise. The map goes through three
    float32 point pairs and `cv2.getAffineTransform`, as in the reference: the closed form changes
    hundreds of bytes of a crop.
    """
    radians = np.deg2rad(np.asarray(rotation_deg, np.float32))
    half_width = np.asarray(size_wh[..., 0] * np.float32(-0.5), np.float64)
    offset = np.stack([half_width * np.cos(radians), half_width * np.sin(radians)], -1)
    corners = _three_points(center_xy, offset)
    of_crop = _crop_points(*crop_hw)
    maps = [cv2.getAffineTransform(three, of_crop) for three in corners.reshape(-1, 3, 2)]
    return np.array(maps, np.float64).reshape(*corners.shape[:-2], 2, 3)


@functools.lru_cache
def _crop_points(crop_h: int, crop_w: int) -> Float32[np.ndarray, "3 2"]:
    return _three_points(np.array([crop_w * 0.5, crop_h * 0.5]), np.array([crop_w * -0.5, 0.0]))


def _three_points(
    origin_xy: Float[np.ndarray, "*N 2"], offset_xy: Float64[np.ndarray, "*N 2"]
) -> Float32[np.ndarray, "*N 3 2"]:
    """The origin, the origin plus an offset, and the corner a right angle away from both."""
    points = np.empty((*origin_xy.shape[:-1], 3, 2), np.float32)
    points[..., 0, :] = origin_xy
    points[..., 1, :] = origin_xy + offset_xy
    x, y = np.moveaxis(points[..., 0, :] - points[..., 1, :], -1, 0)
    points[..., 2, :] = points[..., 1, :] + np.stack([-y, x], -1)
    return points


def invert(affine: Float64[np.ndarray, "2 3"]) -> Float64[np.ndarray, "2 3"]:
    """The inverse map: `crop_to_image` from `image_to_crop`."""
    return cv2.invertAffineTransform(affine)


def transform(
    affine: Float[np.ndarray, "*N 2 3"], points_xy: Real[np.ndarray, "*N K 2"]
) -> Float32[np.ndarray, "*N K 2"]:
    """Points through their map, computed in float64."""
    moved = np.asarray(points_xy, np.float64) @ np.swapaxes(affine[..., :2], -1, -2)
    return (moved + affine[..., None, :, 2]).astype(np.float32)


def crop_to_image(
    keypoints_crop_xy: Float32[np.ndarray, "*N K 2"],
    center_xy: Float32[np.ndarray, "*N 2"],
    size_wh: Float32[np.ndarray, "*N 2"],
    crop_hw: tuple[int, int],
) -> Float32[np.ndarray, "*N K 2"]:
    """`keypoints_image_xy` of crops that are not rotated, as at inference."""
    crop_wh = np.array(crop_hw[::-1], np.float32)
    center_xy, size_wh = center_xy[..., None, :], size_wh[..., None, :]
    return keypoints_crop_xy / crop_wh * size_wh + center_xy - np.float32(0.5) * size_wh


def mirror_x(
    points_xy: Real[np.ndarray, "*N 2"], image_width: int | Int[np.ndarray, "*#N"]
) -> Float32[np.ndarray, "*N 2"]:
    """Points of a picture that is mirrored left to right: x -> w - 1 - x."""
    mirrored = np.array(points_xy, np.float32)
    mirrored[..., 0] = image_width - 1 - mirrored[..., 0]
    return mirrored
