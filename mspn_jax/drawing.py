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
MAX_THICKNESS = 100  # of a limb, in pixels


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
        thickness = round(np.clip(extent / 60, 1, MAX_THICKNESS))
        for a, b in skeleton.limbs:
            color = colors[sides[a]] if sides[a] == sides[b] else MIDDLE_RGB
            _blend_stroke(drawn, min(opacity[a], opacity[b]), xy[a], xy[b], thickness, color)
        for joint, side in enumerate(sides):
            color = colors[side]
            _blend_stroke(drawn, opacity[joint], xy[joint], xy[joint], 2 * thickness + 3, color)
    return drawn


_SUBPIXEL_BITS = 4  # OpenCV draws in fixed point


def _blend_stroke(image, opacity: float, start_xy, end_xy, thickness: int, color) -> None:
    """A line with round ends and an opacity, which OpenCV's do not know; from a to a, a dot."""
    if opacity <= 0:
        return
    margin = thickness + 1
    ends_xy = np.clip([start_xy, end_xy], -(2**14), 2**14)  # of OpenCV's fixed point
    left, top = np.maximum(np.floor(ends_xy.min(0)).astype(int) - margin, 0)
    right, bottom = np.maximum(np.ceil(ends_xy.max(0)).astype(int) + margin + 1, 0)
    region = image[top:bottom, left:right]  # only there: a picture can be large
    if not region.size:
        return
    start, end = np.rint((ends_xy - (left, top)) * 2**_SUBPIXEL_BITS).astype(int).tolist()
    stroke = region.copy()
    cv2.line(stroke, start, end, color, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)
    region[:] = cv2.addWeighted(stroke, float(opacity), region, 1 - float(opacity), 0)


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


def draw_heatmaps(
    crops: UInt8[Array, "N H W 3"], *heatmaps: Float[Array, "N h w"]
) -> UInt8[Array, "H2 W2 3"]:
    """A row for each crop: the crop, then each of the heatmaps (0..255) laid over it."""
    height, width = crops.shape[1:3]
    images = []
    for i, crop in enumerate(crops):
        images.append(crop)
        for maps in heatmaps:
            level = np.clip(maps[i], 0, 255).astype(np.uint8)
            colors = cv2.applyColorMap(cv2.resize(level, (width, height)), cv2.COLORMAP_INFERNO)
            images.append(cv2.addWeighted(crop, 0.4, colors[..., ::-1], 0.6, 0))
    return grid(images, columns=1 + len(heatmaps), cell_hw=(height, width))


def encode_picture(image: UInt8[Array, "H W 3"], suffix: str) -> bytes:
    """An RGB picture in the format that a file name's ending names."""
    done, encoded = cv2.imencode(suffix, image[..., ::-1])
    if not done:
        raise ValueError(f"a picture cannot be written as {suffix}")
    return encoded.tobytes()


def write_picture(path: str | os.PathLike, image: UInt8[Array, "H W 3"]) -> None:
    """Writes an RGB picture, in the format that the path's ending names."""
    path = pathlib.Path(path)
    # Not imwrite, which does not say when the disk is full.
    path.write_bytes(encode_picture(image, path.suffix))
