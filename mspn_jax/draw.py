"""Drawing people on pictures."""

import math
import os
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from mspn_jax.skeletons import Skeleton

Array = np.ndarray

LEFT_RGB, RIGHT_RGB, MIDDLE_RGB = (255, 140, 0), (30, 144, 255), (60, 220, 90)
# A keypoint score is a heatmap's height / 255 + 0.5: from here on limbs fade in, and are full.
FAINT_SCORE, FULL_SCORE = 0.55, 1.0


def draw_people(
    image: UInt8[Array, "H W 3"],
    keypoints_image_xy: Float[Array, "N K 2"],
    keypoint_scores: Float[Array, "N K"],
    skeleton: Skeleton,
) -> UInt8[Array, "H W 3"]:
    """A copy of an RGB picture with people's limbs and joints on it.

    The person's left is orange, their right blue, what joins the two green; the less sure a joint,
    the fainter it and its limbs.
    """
    sides = skeleton.sides
    colors = {"left": LEFT_RGB, "right": RIGHT_RGB, "middle": MIDDLE_RGB}
    drawn = image.copy()
    for xy, scores in zip(keypoints_image_xy, keypoint_scores):
        opacity = np.clip((scores - FAINT_SCORE) / (FULL_SCORE - FAINT_SCORE), 0, 1)
        extent = np.ptp(xy[opacity > 0], axis=0).max() if (opacity > 0).any() else 0
        thickness = max(1, round(extent / 60))
        for a, b in skeleton.limbs:
            color = colors[sides[a]] if sides[a] == sides[b] else MIDDLE_RGB
            _blend(
                drawn, min(opacity[a], opacity[b]), cv2.line, _point(xy[a]), _point(xy[b]), color,
                thickness,
            )  # fmt: skip
        for joint, side in enumerate(sides):
            _blend(
                drawn, opacity[joint], cv2.circle, _point(xy[joint]), thickness + 1, colors[side],
                -1,
            )  # fmt: skip
    return drawn


_SUBPIXEL_BITS = 4  # OpenCV draws in fixed point


def _point(xy: Float[Array, "2"]) -> tuple[int, int]:
    x, y = np.clip(np.rint(xy * 2**_SUBPIXEL_BITS), -(2**20), 2**20).astype(int)
    return int(x), int(y)


def _blend(image, opacity: float, draw, *arguments) -> None:
    """Draws with an opacity, which OpenCV's drawing functions do not know."""
    if opacity <= 0:
        return
    if draw is cv2.circle:  # its radius is in fixed point too
        center, radius, color, thickness = arguments
        arguments = (center, radius << _SUBPIXEL_BITS, color, thickness)
    top = image.copy()
    draw(top, *arguments, cv2.LINE_AA, _SUBPIXEL_BITS)
    cv2.addWeighted(top, float(opacity), image, 1 - float(opacity), 0, dst=image)


def grid(
    images: Sequence[UInt8[Array, "H W 3"]], columns: int = 4, cell_hw: tuple[int, int] = (240, 320)
) -> UInt8[Array, "H W 3"]:
    """Pictures side by side, each scaled to fit its cell, on grey."""
    cell_h, cell_w = cell_hw
    rows = math.ceil(len(images) / columns)
    sheet = np.full((rows * cell_h, columns * cell_w, 3), 64, np.uint8)
    for i, image in enumerate(images):
        scale = min(cell_h / image.shape[0], cell_w / image.shape[1])
        size = (max(1, int(image.shape[1] * scale)), max(1, int(image.shape[0] * scale)))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        top = i // columns * cell_h + (cell_h - size[1]) // 2
        left = i % columns * cell_w + (cell_w - size[0]) // 2
        sheet[top : top + size[1], left : left + size[0]] = small
    return sheet


def write_picture(path: str | os.PathLike, image: UInt8[Array, "H W 3"]) -> None:
    """Writes an RGB picture, in the format that the path's ending names."""
    path = pathlib.Path(path)
    done, encoded = cv2.imencode(path.suffix, image[..., ::-1])
    if not done:
        raise ValueError(f"{path}: cannot be written as {path.suffix}")
    path.write_bytes(encoded.tobytes())  # not imwrite, which does not say when the disk is full
