"""What detectors take and return: pictures in their size, and boxes in three layouts.

Axes: N cells, C classes, n boxes. The cells are those of the grids of strides 8, 16 and 32, in
row-major order.

raw: (1, N, 5 + C). A row is the offset of a box's center from its cell and the logarithm of its
  size, both in cells, then objectness and the scores of the classes.
decoded: the same, with center and size in pixels of the input.
nms: `dets` (1, n, 5), corners in pixels of the input and score, after non-maximum suppression, and
  `labels` (1, n), the classes. Without labels there is one class.
"""

import functools
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, Float32, Float64, Int, Shaped, UInt8

from mspn_jax.detector.classes import class_index
from mspn_jax.errors import DataError

LAYOUTS = ("raw", "decoded", "nms")
STRIDES = (8, 16, 32)
PADDING_LEVEL = 114
OBJECTNESS, CLASSES = 4, 5  # columns of a row

_MEAN_RGB = np.array((123.675, 116.28, 103.53), np.float32)
_STD_RGB = np.array((58.395, 57.12, 57.375), np.float32)
# Name -> the order of the colours, mean and standard deviation.
NORMALISATIONS: dict[str, tuple[str, Any, Any]] = {
    "none": ("bgr", 0.0, 1.0),  # YOLOX since 0.1.1
    "rtmdet": ("bgr", _MEAN_RGB[::-1], _STD_RGB[::-1]),
    "yolox_0.1.0": ("rgb", _MEAN_RGB, _STD_RGB),
}

# The median distance of the centers from the middle of their cells, in cells: 0.3 to 0.5 in what
# YOLOX returns. Decoded centers taken as offsets are a quarter of the picture away or more, and a
# box's corner is about 2 away.
_NEAR = 1.25


def letterbox(
    image_rgb: UInt8[np.ndarray, "H W 3"], input_hw: tuple[int, int], normalisation: str = "none"
) -> tuple[Float32[np.ndarray, "1 3 h w"], float]:
    """A picture resized to fit, at the top left of a grey input.

    Returns:
      The network's input, and its pixels per pixel of the picture.
    """
    scale = min(input_hw[0] / image_rgb.shape[0], input_hw[1] / image_rgb.shape[1])
    width, height = (max(1, int(side * scale)) for side in image_rgb.shape[1::-1])
    padded = np.full((*input_hw, 3), PADDING_LEVEL, np.uint8)
    padded[:height, :width] = cv2.resize(image_rgb, (width, height), interpolation=cv2.INTER_LINEAR)
    order, mean, std = NORMALISATIONS[normalisation]
    pixels = padded if order == "rgb" else padded[:, :, ::-1]
    pixels = pixels.astype(np.float32)
    if normalisation != "none":
        pixels = (pixels - mean) / std
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]), scale


def recognise(outputs: Sequence[Shaped[np.ndarray, "..."]], input_hw: tuple[int, int]) -> str:
    """The layout of what a network returned.

    `raw` and `decoded` have the same shapes. Their centers tell them apart: they lie near their
    cells in one reading, and nowhere near in the other.

    Raises:
      DataError: the outputs have no known layout.
    """
    if _detections(outputs) is not None:
        return "nms"
    rows = grid_rows(outputs, input_hw)
    cells_xy, strides = cells(input_hw)
    centers_xy = {"raw": rows[:, :2], "decoded": rows[:, :2] / strides - cells_xy}
    for layout, offsets_xy in centers_xy.items():
        if np.median(np.abs(offsets_xy - 0.5)) < _NEAR:
            return layout
    raise DataError("its boxes are neither YOLOX's raw nor its decoded ones; give the layout")


def boxes_of_class(
    outputs: Sequence[Shaped[np.ndarray, "..."]],
    *,
    layout: str,
    input_hw: tuple[int, int],
    class_name: str | int,
) -> tuple[Float64[np.ndarray, "N 4"], Float32[np.ndarray, "N"]]:
    """All boxes of a class, `boxes_xyxy` in pixels of the input, and their scores.

    Raises:
      DataError: the outputs do not have this layout, or not this class.
    """
    if layout == "nms":
        found = _detections(outputs)
        if found is None:
            raise DataError(f"returns {_shapes(outputs)}, but (1, n, 5) is needed for layout nms")
        detections, labels = found
        chosen = detections[labels == class_index(class_name)]
        return chosen[:, :4].astype(np.float64), chosen[:, 4].astype(np.float32)
    rows = grid_rows(outputs, input_hw)
    index = class_index(class_name, rows.shape[1] - CLASSES)
    centers_xy, sizes_wh = rows[:, :2].astype(np.float64), rows[:, 2:4].astype(np.float64)
    if layout == "raw":
        cells_xy, strides = cells(input_hw)
        centers_xy = (centers_xy + cells_xy) * strides
        with np.errstate(over="ignore"):  # not finite, so that it is dropped
            sizes_wh = np.exp(sizes_wh) * strides
    boxes_xyxy = np.concatenate([centers_xy - sizes_wh / 2, centers_xy + sizes_wh / 2], 1)
    return boxes_xyxy, rows[:, OBJECTNESS] * rows[:, CLASSES + index]


def grid_rows(
    outputs: Sequence[Shaped[np.ndarray, "..."]], input_hw: tuple[int, int]
) -> Float32[np.ndarray, "N columns"]:
    """The rows of the layouts `raw` and `decoded`. Raises DataError if there are none."""
    num_cells = sum(input_hw[0] // s * (input_hw[1] // s) for s in STRIDES)
    shape = outputs[0].shape
    if len(shape) != 3 or shape[:2] != (1, num_cells) or shape[2] <= CLASSES:
        raise DataError(
            f"returns {_shapes(outputs)}, but YOLOX returns (1, {num_cells}, 5 + classes) for"
            f" pictures of {input_hw[0]}x{input_hw[1]}, or (1, n, 5) and (1, n) after NMS"
        )
    return outputs[0][0].astype(np.float32)


@functools.lru_cache
def cells(
    input_hw: tuple[int, int],
) -> tuple[Float64[np.ndarray, "N 2"], Float64[np.ndarray, "N 1"]]:
    """The column and row of each cell, and its stride."""
    cells_xy, strides = [], []
    for stride in STRIDES:
        y, x = np.mgrid[: input_hw[0] // stride, : input_hw[1] // stride]
        cells_xy.append(np.stack([x.ravel(), y.ravel()], 1))
        strides.append(np.full((x.size, 1), stride))
    return np.concatenate(cells_xy).astype(np.float64), np.concatenate(strides).astype(np.float64)


def _detections(
    outputs: Sequence[Shaped[np.ndarray, "..."]],
) -> tuple[Float[np.ndarray, "N 5"], Int[np.ndarray, "N"]] | None:
    """`dets` and `labels`, found by their shapes; None if they are not there."""
    detections = [x for x in outputs if x.ndim == 3 and x.shape[0] == 1 and x.shape[2] == 5]
    if len(detections) != 1:
        return None
    labels = [x for x in outputs if x.shape == detections[0].shape[:2]]
    found = labels[0][0].astype(int) if labels else np.zeros(detections[0].shape[1], int)
    return detections[0][0], found


def _shapes(outputs: Sequence[Shaped[np.ndarray, "..."]]) -> str:
    return " and ".join(str(output.shape) for output in outputs)
