"""Boxes, crop regions, and the maps between the image, crop and heatmap frames.

Frames. A point is (x, y) in pixels, and (0, 0) is the *center* of the top-left pixel of its
picture: `image` is the picture as decoded, `crop` the network's input, `heatmap` the crop at a
`stride`-th of its size. A crop region is `center_xy` and `size_wh`, in image pixels. Everything
here is NumPy; batches lead, so every function takes one row or many.

The order and precision of the arithmetic are those of mmpose 1.3.2: crops equal to the byte
need maps equal to the bit.
"""

import functools

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int

Array = np.ndarray


def clip_boxes(
    boxes_xywh: Float[Array, "*N 4"], image_hw: tuple[int, int] | Int[Array, "*N 2"]
) -> Float[Array, "*N 4"]:
    """Annotated boxes as `boxes_xyxy` float32, clipped to [0, w-1] x [0, h-1].

    The corners are added in float64: in float32 one crop in twenty changes.
    """
    limits = np.asarray(image_hw)[..., [1, 0, 1, 0]] - 1
    boxes_xyxy = _corners(boxes_xywh)
    np.minimum(boxes_xyxy, limits, out=boxes_xyxy)
    return np.maximum(boxes_xyxy, 0, out=boxes_xyxy).astype(np.float32)


def boxes_xywh_to_xyxy(boxes_xywh: Float[Array, "*N 4"]) -> Float[Array, "*N 4"]:
    """Boxes as corners in float32, not clipped: as detections are taken."""
    return _corners(boxes_xywh).astype(np.float32)


def _corners(boxes_xywh) -> Float[Array, "*N 4"]:
    boxes_xyxy = np.array(boxes_xywh, np.float64)
    boxes_xyxy[..., 2:] += boxes_xyxy[..., :2]
    return boxes_xyxy


def crop_region(
    boxes_xyxy: Float[Array, "*N 4"], padding: float = 1.25
) -> tuple[Float[Array, "*N 2"], Float[Array, "*N 2"]]:
    """Boxes -> (center_xy, size_wh), the size `padding` times the box's."""
    boxes_xyxy = np.asarray(boxes_xyxy, np.float32)
    top_left, bottom_right = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return (top_left + bottom_right) * np.float32(0.5), (bottom_right - top_left) * np.float32(
        padding
    )


def fix_aspect(size_wh: Float[Array, "*N 2"], crop_hw: tuple[int, int]) -> Float[Array, "*N 2"]:
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
    boxes_xyxy: Float[Array, "*N 4"], padding: float, crop_hw: tuple[int, int]
) -> tuple[Float[Array, "*N 2"], Float[Array, "*N 2"]]:
    """(center_xy, size_wh) of the regions that are cut for boxes, when nothing is augmented."""
    center_xy, size_wh = crop_region(boxes_xyxy, padding)
    return center_xy, fix_aspect(size_wh, crop_hw)


def image_to_crop(
    center_xy: Float[Array, "*N 2"],
    size_wh: Float[Array, "*N 2"],
    rotation_deg: float | Float[Array, "*N"],
    crop_hw: tuple[int, int],
) -> Float[Array, "*N 2 3"]:
    """The 2x3 float64 map from image to crop points.

    The region's center goes to the middle of the crop (w/2, h/2) and its width to the crop's.
    A positive rotation turns what is seen counter-clockwise. Three float32 point pairs through
    `cv2.getAffineTransform`, as in the reference: the closed form leaves hundreds of bytes
    of a crop different.
    """
    radians = np.deg2rad(np.asarray(rotation_deg, np.float32))
    half_width = np.asarray(size_wh[..., 0] * np.float32(-0.5), np.float64)
    offset = np.stack([half_width * np.cos(radians), half_width * np.sin(radians)], -1)
    corners = _three_points(center_xy, offset)
    of_crop = _crop_points(*crop_hw)
    maps = [cv2.getAffineTransform(three, of_crop) for three in corners.reshape(-1, 3, 2)]
    return np.array(maps).reshape(*corners.shape[:-2], 2, 3)


@functools.lru_cache
def _crop_points(crop_h: int, crop_w: int) -> Float[Array, "3 2"]:
    return _three_points(np.array([crop_w * 0.5, crop_h * 0.5]), np.array([crop_w * -0.5, 0.0]))


def _three_points(origin, offset) -> Float[Array, "*N 3 2"]:
    """The origin, the origin plus an offset, and the corner a right angle away from both."""
    points = np.empty((*origin.shape[:-1], 3, 2), np.float32)
    points[..., 0, :] = origin
    points[..., 1, :] = origin + offset
    x, y = np.moveaxis(points[..., 0, :] - points[..., 1, :], -1, 0)
    points[..., 2, :] = points[..., 1, :] + np.stack([-y, x], -1)
    return points


def invert(affine: Float[Array, "2 3"]) -> Float[Array, "2 3"]:
    """The map back: `crop_to_image` from `image_to_crop`."""
    return cv2.invertAffineTransform(affine)


def transform(
    affine: Float[Array, "*N 2 3"], points_xy: Float[Array, "*N K 2"]
) -> Float[Array, "*N K 2"]:
    """Points through their 2x3 map, in float64, returned as float32."""
    moved = np.asarray(points_xy, np.float64) @ np.swapaxes(affine[..., :2], -1, -2)
    return (moved + affine[..., None, :, 2]).astype(np.float32)


def crop_to_image(
    keypoints_crop_xy: Float[Array, "*N K 2"],
    center_xy: Float[Array, "*N 2"],
    size_wh: Float[Array, "*N 2"],
    crop_hw: tuple[int, int],
) -> Float[Array, "*N K 2"]:
    """`keypoints_image_xy` of crops that were not rotated (those of inference), a batch at once."""
    crop_wh = np.array(crop_hw[::-1], np.float32)
    center_xy, size_wh = center_xy[..., None, :], size_wh[..., None, :]
    return keypoints_crop_xy / crop_wh * size_wh + center_xy - np.float32(0.5) * size_wh


def mirror_x(
    points_xy: Float[Array, "*N 2"], image_width: int | Int[Array, "*#N"]
) -> Float[Array, "*N 2"]:
    """Points of a picture after it is mirrored left to right: x -> w - 1 - x."""
    mirrored = np.array(points_xy, np.float32)
    mirrored[..., 0] = image_width - 1 - mirrored[..., 0]
    return mirrored


def usable_boxes(boxes_xywh: Float[Array, "N 4"]) -> Bool[Array, "N"]:
    """Which boxes are finite and have an area."""
    boxes_xywh = np.asarray(boxes_xywh, np.float64).reshape(-1, 4)
    return np.logical_and(np.isfinite(boxes_xywh).all(-1), (boxes_xywh[:, 2:] > 0).all(-1))
