"""Person boxes from an ONNX detector, in the layout of the published YOLOX files.

Input: one picture, (1, 3, H, W) float32, BGR, 0..255, resized to fit at the top left; the rest has
grey level 114. Output: (1, N, 85), one row for each cell of the grids of strides 8, 16 and 32, in
row-major order: the offset of a box's center from the cell and the logarithm of its size, both in
cells; objectness; 80 class scores, the first of which is person.
"""

import os

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8

from mspn_jax.errors import DataError

STRIDES = (8, 16, 32)
PADDING_LEVEL = 114
DEFAULT_INPUT_HW = (640, 640)  # for a file that does not fix it
OBJECTNESS, PERSON = 4, 5  # columns of the output


class Detector:
    """Finds people: `boxes_xywh, scores = detector(image_rgb)`, best first."""

    def __init__(
        self, path: str | os.PathLike, *, min_score: float = 0.3, nms_threshold: float = 0.45
    ):
        """Opens a model.

        Args:
          min_score: boxes with a lower score are dropped.
          nms_threshold: of two boxes whose intersection over union is greater, the one with the
            lower score is dropped.

        Raises:
          ImportError: onnxruntime is not installed.
          DataError: the file does not exist, is not ONNX, or its input is not a picture.
        """
        import onnxruntime

        if not os.path.isfile(path):
            raise DataError(f"{path}: no such file")
        try:
            self._session = onnxruntime.InferenceSession(
                os.fspath(path), providers=onnxruntime.get_available_providers()
            )
        except Exception as error:  # onnxruntime's errors share no narrower base class
            reason = str(error).partition("\n")[0]
            raise DataError(f"{path}: onnxruntime cannot load it ({reason})") from None
        self.path = path
        self.min_score = min_score
        self.nms_threshold = nms_threshold
        self._input = self._session.get_inputs()[0]
        shape = self._input.shape
        if len(shape) != 4 or shape[1] != 3 or self._input.type != "tensor(float)":
            raise DataError(
                f"{path}: takes {self._input.type} {shape}, but YOLOX takes float (1, 3, H, W)"
            )
        sides = [side if isinstance(side, int) else 0 for side in shape[2:]]
        self.input_hw = (sides[0], sides[1]) if all(sides) else DEFAULT_INPUT_HW

    def __call__(
        self, image_rgb: UInt8[np.ndarray, "H W 3"]
    ) -> tuple[Float64[np.ndarray, "N 4"], Float32[np.ndarray, "N"]]:
        """`boxes_xywh` in image pixels, clipped to the picture, and their scores, best first.

        Raises:
          DataError: the model's output does not have YOLOX's shape.
        """
        pixels, scale = letterbox(image_rgb, self.input_hw)
        output = self._session.run(None, {self._input.name: pixels})[0]
        num_cells = sum(self.input_hw[0] // s * (self.input_hw[1] // s) for s in STRIDES)
        if output.ndim != 3 or output.shape[1] != num_cells or output.shape[2] <= PERSON:
            raise DataError(
                f"{self.path}: returns {output.shape}, but YOLOX returns (1, {num_cells}, 85) for"
                f" pictures of {self.input_hw[0]}x{self.input_hw[1]}"
            )
        centers_xy, sizes_wh = decode_grids(output[0, :, :4], self.input_hw)
        scores = output[0, :, OBJECTNESS] * output[0, :, PERSON]
        boxes_xyxy = np.concatenate([centers_xy - sizes_wh / 2, centers_xy + sizes_wh / 2], 1)
        boxes_xyxy = np.clip(boxes_xyxy / scale, 0, np.tile(image_rgb.shape[1::-1], 2))
        boxes_xywh = np.concatenate([boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]], 1)
        best = cv2.dnn.NMSBoxes(
            boxes_xywh.tolist(), scores.tolist(), self.min_score, self.nms_threshold
        )
        kept = np.array(best, int)
        return boxes_xywh[kept], scores[kept]


def letterbox(
    image_rgb: UInt8[np.ndarray, "H W 3"], input_hw: tuple[int, int]
) -> tuple[Float32[np.ndarray, "1 3 h w"], float]:
    """The model's input, and its pixels per pixel of the picture."""
    scale = min(input_hw[0] / image_rgb.shape[0], input_hw[1] / image_rgb.shape[1])
    width, height = (max(1, int(side * scale)) for side in image_rgb.shape[1::-1])
    padded = np.full((*input_hw, 3), PADDING_LEVEL, np.uint8)
    padded[:height, :width] = cv2.resize(image_rgb, (width, height), interpolation=cv2.INTER_LINEAR)
    return padded[None, :, :, ::-1].transpose(0, 3, 1, 2).astype(np.float32), scale


def decode_grids(
    raw: Float32[np.ndarray, "N 4"], input_hw: tuple[int, int]
) -> tuple[Float64[np.ndarray, "N 2"], Float64[np.ndarray, "N 2"]]:
    """The output's first four columns -> centers_xy, sizes_wh in pixels of the model's input."""
    cells_xy, strides = [], []
    for stride in STRIDES:
        y, x = np.mgrid[: input_hw[0] // stride, : input_hw[1] // stride]
        cells_xy.append(np.stack([x.ravel(), y.ravel()], 1))
        strides.append(np.full((x.size, 1), stride))
    stride_of_cell = np.concatenate(strides)
    centers_xy = (raw[:, :2] + np.concatenate(cells_xy)) * stride_of_cell
    return centers_xy, np.exp(raw[:, 2:]) * stride_of_cell
