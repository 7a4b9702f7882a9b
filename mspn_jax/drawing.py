"""Annotates pictures with people and heatmaps, and encodes pictures."""

import math
import os
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from mspn_jax.skeletons import Skeleton
from mspn_jax.storage import files

RGB = tuple[int, int, int]
LEFT_RGB, RIGHT_RGB, MIDDLE_RGB = (255, 140, 0), (30, 144, 255), (60, 220, 90)
OUTLINE_RGB = (20, 20, 20)
# One for each id, again from the first after the last. Neighbours differ for colour-blind people.
_ID_COLORS = "e69f00 56b4e9 f0e442 5b8cff ff733c 00c896 cc79a7 ffffff 965ae6 aadc5a"
ID_RGB: tuple[RGB, ...] = tuple((c[0], c[1], c[2]) for c in map(bytes.fromhex, _ID_COLORS.split()))
# Keypoint scores are heatmap peaks / 255 + 0.5. A keypoint below FAINT_SCORE is not shown; opacity
# rises from FAINTEST to 1 between the two scores.
FAINT_SCORE, FULL_SCORE, FAINTEST = 0.55, 1.0, 0.35
MAX_THICKNESS = 100  # of a limb, in pixels
_MAX_COORDINATE = 2**14  # OpenCV's fixed-point coordinates overflow beyond 2**15
_SUBPIXEL_BITS = 4
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def annotate_people(
    image: UInt8[np.ndarray, "H W 3"],
    keypoints_image_xy: Float[np.ndarray, "N K 2"],
    keypoint_scores: Float[np.ndarray, "N K"],
    skeleton: Skeleton,
    *,
    boxes_xywh: Float[np.ndarray, "N 4"] | None = None,
    labels: Sequence[str] | None = None,
    ids: Int[np.ndarray, "N"] | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """Returns a copy of an RGB picture with each person's limbs and joints.

    The person's left is orange and their right blue; the middle, and limbs that join the two
    sides, are green. With `ids` each person has one color. Opacity follows the score; a limb takes
    the lower of its two joints'.

    Args:
      boxes_xywh: shown if given.
      labels: a text for each person, above their box.
    """
    annotated = image.copy()
    sides = {"left": LEFT_RGB, "right": RIGHT_RGB, "middle": MIDDLE_RGB}
    for person, (xy, scores) in enumerate(zip(keypoints_image_xy, keypoint_scores)):
        colors = [sides[side] for side in skeleton.sides]
        if ids is not None:
            colors = [ID_RGB[ids[person] % len(ID_RGB)]] * len(colors)
        if boxes_xywh is not None:
            box_color = MIDDLE_RGB if ids is None else colors[0]
            label = labels[person] if labels else ""
            _annotate_box(annotated, boxes_xywh[person], label, box_color)
        _annotate_skeleton(annotated, xy, scores, skeleton.limbs, colors)
    return annotated


def _annotate_skeleton(
    image: UInt8[np.ndarray, "H W 3"],
    xy: Float[np.ndarray, "K 2"],
    scores: Float[np.ndarray, "K"],
    limbs: Sequence[tuple[int, int]],
    colors: Sequence[RGB],
) -> None:
    """Draws one person into the image, in place; `colors` has one for each joint."""
    rise = np.clip((scores - FAINT_SCORE) / (FULL_SCORE - FAINT_SCORE), 0, 1)
    opacity = np.where(scores > FAINT_SCORE, FAINTEST + (1 - FAINTEST) * rise, 0)
    extent = np.ptp(xy[opacity > 0], axis=0).max() if (opacity > 0).any() else 0
    thickness = round(np.clip(extent / 60, 1, MAX_THICKNESS))
    for a, b in limbs:
        color = colors[a] if colors[a] == colors[b] else MIDDLE_RGB
        _blend_line(image, min(opacity[a], opacity[b]), xy[[a, b]], thickness, color)
    for joint, color in enumerate(colors):
        _blend_line(image, opacity[joint], xy[[joint, joint]], 2 * thickness + 1, color)


def _annotate_box(
    image: UInt8[np.ndarray, "H W 3"], box_xywh: Float[np.ndarray, "4"], label: str, color: RGB
) -> None:
    """Draws a box with its label into the image, in place."""
    height, width = image.shape[:2]
    box = np.clip(box_xywh, -_MAX_COORDINATE, _MAX_COORDINATE)
    left, top, right, bottom = np.rint([*box[:2], *(box[:2] + box[2:])]).astype(int).tolist()
    thickness = max(1, round(max(height, width) / 600))
    for each, line in ((OUTLINE_RGB, thickness + 2), (color, thickness)):
        cv2.rectangle(image, (left, top), (right, bottom), each, line)
    if not label:
        return
    scale = max(0.4, max(height, width) / 1600)
    (text_w, text_h), descent = cv2.getTextSize(label, _FONT, scale, thickness)
    text_h += descent
    x = int(np.clip(left, 0, max(0, width - text_w)))
    y = int(np.clip(top if top < text_h else top - text_h, 0, max(0, height - text_h)))
    cv2.rectangle(image, (x, y), (x + text_w, y + text_h), color, cv2.FILLED)
    at = (x, y + text_h - descent)
    cv2.putText(image, label, at, _FONT, scale, OUTLINE_RGB, thickness, cv2.LINE_AA)


def _blend_line(
    image: UInt8[np.ndarray, "H W 3"],
    opacity: float | np.floating,
    ends_xy: Float[np.ndarray, "2 2"],
    thickness: int,
    color: RGB,
) -> None:
    """Blends an outlined line with round ends into the image, in place. Equal ends make a dot."""
    if opacity <= 0:
        return
    margin = thickness + 3
    ends_xy = np.clip(ends_xy, -_MAX_COORDINATE, _MAX_COORDINATE)
    left, top = np.maximum(np.floor(ends_xy.min(0)).astype(int) - margin, 0)
    right, bottom = np.maximum(np.ceil(ends_xy.max(0)).astype(int) + margin + 1, 0)
    region = image[top:bottom, left:right]  # blending the whole image would be slow
    if not region.size:
        return
    start, end = np.rint((ends_xy - (left, top)) * 2**_SUBPIXEL_BITS).astype(int).tolist()
    line = region.copy()
    outline = thickness + 2 * max(1, thickness // 4)
    for each, width in ((OUTLINE_RGB, outline), (color, thickness)):
        cv2.line(line, start, end, each, width, cv2.LINE_AA, _SUBPIXEL_BITS)
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
