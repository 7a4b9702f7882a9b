"""Annotates pictures with people and heatmaps, and encodes pictures."""

import math
import os
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from mspn_jax.skeletons import Skeleton
from mspn_jax.storage import files

LEFT_RGB, RIGHT_RGB, MIDDLE_RGB = (255, 140, 0), (30, 144, 255), (60, 220, 90)
# Opacity rises from 0 to 1 between these keypoint scores, which are heatmap peaks / 255 + 0.5.
FAINT_SCORE, FULL_SCORE = 0.55, 1.0
MAX_THICKNESS = 100  # of a limb, in pixels
_MAX_COORDINATE = 2**14  # OpenCV's fixed-point coordinates overflow beyond 2**15
_SUBPIXEL_BITS = 4


def annotate_people(
    image: UInt8[np.ndarray, "H W 3"],
    keypoints_image_xy: Float[np.ndarray, "N K 2"],
    keypoint_scores: Float[np.ndarray, "N K"],
    skeleton: Skeleton,
) -> UInt8[np.ndarray, "H W 3"]:
    """Returns a copy of an RGB picture with each person's limbs and joints.

    The person's left is orange and their right blue; the middle, and limbs that join the two
    sides, are green. Opacity follows the score; a limb takes the lower of its two joints'.
    """
    sides = skeleton.sides
    colors = {"left": LEFT_RGB, "right": RIGHT_RGB, "middle": MIDDLE_RGB}
    annotated = image.copy()
    for xy, scores in zip(keypoints_image_xy, keypoint_scores):
        opacity = np.clip((scores - FAINT_SCORE) / (FULL_SCORE - FAINT_SCORE), 0, 1)
        extent = np.ptp(xy[opacity > 0], axis=0).max() if (opacity > 0).any() else 0
        thickness = round(np.clip(extent / 60, 1, MAX_THICKNESS))
        for a, b in skeleton.limbs:
            color = colors[sides[a]] if sides[a] == sides[b] else MIDDLE_RGB
            _blend_line(annotated, min(opacity[a], opacity[b]), xy[[a, b]], thickness, color)
        for joint, side in enumerate(sides):
            dot_xy = xy[[joint, joint]]
            _blend_line(annotated, opacity[joint], dot_xy, 2 * thickness + 3, colors[side])
    return annotated


def _blend_line(
    image: UInt8[np.ndarray, "H W 3"],
    opacity: float | np.floating,
    ends_xy: Float[np.ndarray, "2 2"],
    thickness: int,
    color: tuple[int, int, int],
) -> None:
    """Blends a line with round ends into the image, in place. Equal ends make a dot."""
    if opacity <= 0:
        return
    margin = thickness + 1
    ends_xy = np.clip(ends_xy, -_MAX_COORDINATE, _MAX_COORDINATE)
    left, top = np.maximum(np.floor(ends_xy.min(0)).astype(int) - margin, 0)
    right, bottom = np.maximum(np.ceil(ends_xy.max(0)).astype(int) + margin + 1, 0)
    region = image[top:bottom, left:right]  # blending the whole image would be slow
    if not region.size:
        return
    start, end = np.rint((ends_xy - (left, top)) * 2**_SUBPIXEL_BITS).astype(int).tolist()
    line = region.copy()
    cv2.line(line, start, end, color, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)
    region[:] = cv2.addWeighted(line, float(opacity), region, 1 - float(opacity), 0)


def grid(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    columns: int = 4,
    cell_hw: tuple[int, int] = (240, 320),
) -> UInt8[np.ndarray, "H W 3"]:
    """Pictures side by side on grey, each scaled to fit its cell."""
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


def overlay_heatmaps(
    crops: UInt8[np.ndarray, "N H W 3"], *heatmaps: Float[np.ndarray, "N h w"]
) -> UInt8[np.ndarray, "_ _ 3"]:
    """One row per crop: the crop, then the crop under each of its heatmaps (0 to 255)."""
    height, width = crops.shape[1:3]
    images = []
    for i, crop in enumerate(crops):
        images.append(crop)
        for maps in heatmaps:
            level = np.clip(maps[i], 0, 255).astype(np.uint8)
            colors = cv2.applyColorMap(cv2.resize(level, (width, height)), cv2.COLORMAP_INFERNO)
            images.append(cv2.addWeighted(crop, 0.4, colors[..., ::-1], 0.6, 0))
    return grid(images, columns=1 + len(heatmaps), cell_hw=(height, width))


def encode_picture(image: UInt8[np.ndarray, "H W 3"], suffix: str) -> bytes:
    """Encodes an RGB picture in the format that a file name's suffix names (".jpg").

    Raises:
      ValueError: OpenCV cannot write this format.
    """
    done, encoded = cv2.imencode(suffix, image[..., ::-1])
    if not done:
        raise ValueError(f"a picture cannot be written as {suffix}")
    return encoded.tobytes()


def write_picture(path: str | os.PathLike, image: UInt8[np.ndarray, "H W 3"]) -> None:
    """Writes an RGB picture in the format that the path's suffix names."""
    # cv2.imwrite does not report a full disk.
    data = encode_picture(image, pathlib.Path(path).suffix)
    files.write_bytes(path, data, sync=False)
