"""Picture -> crop: what training, evaluation and prediction share. NumPy and OpenCV alone."""

import math

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from mspn_jax import geometry
from mspn_jax.errors import DataError

Array = np.ndarray

_BORDER = 2  # pixels around a region that bilinear sampling may touch, with one to spare


def decode_picture(data: bytes) -> np.ndarray:
    """Encoded bytes -> (H, W, 3) uint8 RGB, turned as the file's EXIF says.

    Raises:
      DataError: not a picture, or a truncated one (which OpenCV before 4.11 let pass).
    """
    if not data:
        raise DataError("empty file")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        is_jpeg = data.startswith(b"\xff\xd8")
        raise DataError("truncated or damaged JPEG" if is_jpeg else "not a picture")
    return image


def cut(
    image: UInt8[Array, "H W 3"],
    image_to_crop: Float[Array, "2 3"],
    mirrored: bool,
    crop: UInt8[Array, "h w 3"],
) -> None:
    """Warps a region of a picture, or of its mirror image, into `crop`; zeros beyond the border.

    Only the region is mirrored, but it stays at its place in a picture of the whole size: a map
    shifted to a smaller picture, or one that mirrors by itself, rounds some pixels otherwise.
    """
    crop_h, crop_w = crop.shape[:2]
    if mirrored:
        image_h, image_w = image.shape[:2]
        (a, b, x), (c, d, y) = geometry.invert(image_to_crop).tolist()
        (left, right), (top, bottom) = (
            _reach(x, (a * crop_w, b * crop_h), image_w),
            _reach(y, (c * crop_w, d * crop_h), image_h),
        )
        whole = np.empty_like(image)
        if left < right and top < bottom:
            region = image[top:bottom, image_w - right : image_w - left]
            whole[top:bottom, left:right] = cv2.flip(region, 1)
        image = whole
    cv2.warpAffine(image, image_to_crop, (crop_w, crop_h), dst=crop, flags=cv2.INTER_LINEAR)


def _reach(start: float, steps: tuple[float, float], size: int) -> tuple[int, int]:
    """The pixels of 0 to `size` that a parallelogram of these two sides lies over, and a border."""
    low = math.floor(start + sum(min(step, 0) for step in steps)) - _BORDER
    high = math.ceil(start + sum(max(step, 0) for step in steps)) + _BORDER
    return max(low, 0), min(high, size)
