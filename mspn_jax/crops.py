"""Picture -> crop, for training, evaluation and prediction. NumPy and OpenCV alone."""

import math

import cv2
import numpy as np
from jaxtyping import Bool, Float64, UInt8

from mspn_jax import geometry
from mspn_jax.errors import DataError

LONGEST_SIDE = 2**15 - 2  # of a picture; OpenCV's limit for warping
# Pixels around a region that bilinear sampling may read, and one to spare.
_BORDER = 2


def check_picture(image: UInt8[np.ndarray, "_ _ 3"]) -> None:
    """Raises ValueError if this is not (H, W, 3) uint8 with pixels, or too large to warp."""
    image_is = f"{getattr(image, 'dtype', type(image).__name__)} {np.shape(image)}"
    if np.ndim(image) != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"a picture must be (H, W, 3) uint8 RGB, not {image_is}")
    if max(image.shape) > LONGEST_SIDE:
        raise ValueError(f"a picture's sides can have {LONGEST_SIDE} pixels, but it is {image_is}")


def decode_picture(data: bytes) -> UInt8[np.ndarray, "H W 3"]:
    """Decodes a picture's bytes to RGB. EXIF rotation is applied.

    Raises:
      DataError: not a picture, or truncated (OpenCV before 4.11 does not detect this).
    """
    if not data:
        raise DataError("empty file")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        is_jpeg = data.startswith(b"\xff\xd8")
        raise DataError("truncated or damaged JPEG" if is_jpeg else "not a picture")
    return image


def cut(
    image: UInt8[np.ndarray, "H W 3"],
    image_to_crop: Float64[np.ndarray, "2 3"],
    mirrored: bool | np.bool_ | Bool[np.ndarray, ""],
    crop: UInt8[np.ndarray, "h w 3"],
) -> None:
    """Warps a region of a picture, or of its mirror image, into `crop`; zeros beyond the border.

    Args:
      image_to_crop: the map from the picture, or from its mirror image.
      mirrored: whether to mirror the picture left to right first.
      crop: the output, written in place.
    """
    crop_h, crop_w = crop.shape[:2]
    if mirrored:
        image = _mirror_region(image, geometry.invert(image_to_crop), (crop_h, crop_w))
    cv2.warpAffine(image, image_to_crop, (crop_w, crop_h), dst=crop, flags=cv2.INTER_LINEAR)


def _mirror_region(
    image: UInt8[np.ndarray, "H W 3"],
    crop_to_image: Float64[np.ndarray, "2 3"],
    crop_hw: tuple[int, int],
) -> UInt8[np.ndarray, "H W 3"]:
    """The mirror image of a picture. Only the pixels that a crop reads are written.

    The result has the whole picture's size, because a map shifted to a smaller picture, or one that
    mirrors by itself, rounds some pixels otherwise.
    """
    (image_h, image_w), (crop_h, crop_w) = image.shape[:2], crop_hw
    (a, b, x), (c, d, y) = crop_to_image.tolist()
    left, right = _reach(x, (a * crop_w, b * crop_h), image_w)
    top, bottom = _reach(y, (c * crop_w, d * crop_h), image_h)
    mirrored = np.empty_like(image)
    if left < right and top < bottom:
        region = image[top:bottom, image_w - right : image_w - left]
        mirrored[top:bottom, left:right] = cv2.flip(region, 1)
    return mirrored


def _reach(start: float, sides: tuple[float, float], size: int) -> tuple[int, int]:
    """The pixels of [0, size) that a parallelogram covers along one axis, and `_BORDER` more."""
    low = math.floor(start + sum(min(side, 0) for side in sides)) - _BORDER
    high = math.ceil(start + sum(max(side, 0) for side in sides)) + _BORDER
    return max(low, 0), min(high, size)
