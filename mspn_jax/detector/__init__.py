"""Boxes of people in pictures, from a detector in an ONNX file."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, Float64, Int, Shaped, UInt8

from mspn_jax.crops import check_picture
from mspn_jax.detector.classes import class_index
from mspn_jax.detector.outputs import (
    LAYOUTS,
    NORMALISATIONS,
    STRIDES,
    boxes_of_class,
    letterbox,
    recognise,
)
from mspn_jax.detector.published import DETECTORS
from mspn_jax.detector.session import Session
from mspn_jax.errors import DataError, UsageError
from mspn_jax.storage.download import fetch, is_address

DEFAULT_INPUT_HW = (640, 640)  # for a file that does not fix it
# Names of layers by which mmdeploy's files are told apart.
_LAYERS = {"rtmdet": (b"bbox_head", b"rtm_cls"), "none": (b"bbox_head", b"multi_level_c")}


class Detector:
    """Finds people, or objects of another class.

        detector = Detector.load("yolox_s")
        boxes_xywh, scores = detector(image_rgb)

    Attributes:
      path: the file.
      layout: what it returns, of `LAYOUTS` in `mspn_jax.detector.outputs`.
      normalisation: what it takes, of `NORMALISATIONS` there.
      input_hw: the size to which pictures are resized.
      provider: onnxruntime's execution provider that runs it.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        min_score: float = 0.3,
        nms_threshold: float = 0.45,
        top_k: int | None = None,
        class_name: str | int = "person",
        input_hw: tuple[int, int] | None = None,
        layout: str | None = None,
        normalisation: str | None = None,
        providers: Sequence[str] | None = None,
    ):
        """Opens a file: `.onnx`, or a `.zip` with one.

        Args:
          min_score: boxes with a lower score are dropped.
          nms_threshold: of two boxes whose intersection over union is greater, the one with the
            lower score is dropped. A file that does this itself has its own threshold.
          top_k: at most so many boxes a picture, the best; None: all.
          class_name: one of COCO's 80, or the index of a class.
          input_hw: the size to which pictures are resized, in multiples of 32, for a file that does
            not fix it. By default 640 x 640.
          layout: "raw", "decoded" or "nms", see `mspn_jax.detector.outputs`. None: recognised by
            what the file returns for a picture of noise.
          normalisation: "none" (BGR, 0 to 255: YOLOX since 0.1.1), "rtmdet" (BGR, normalised) or
            "yolox_0.1.0" (RGB, normalised). None: "none" for YOLOX's layouts; after NMS, recognised
            by the names of the file's layers. No file tells YOLOX 0.1.0 from later ones.
          providers: onnxruntime's execution providers. None: the GPU's if there is one, else the
            CPU's.

        Raises:
          DataError: the file does not exist, is not ONNX, takes or returns something else, or does
            not tell how it is normalised.
          UsageError: an argument is out of range.
        """
        _check_options(min_score, nms_threshold, top_k, layout, normalisation)
        class_index(class_name)
        self.path, self._class_name = path, class_name
        self.min_score, self.nms_threshold, self.top_k = min_score, nms_threshold, top_k
        self._session = Session(path, providers)
        self.provider = self._session.provider
        self.input_hw = self._size(input_hw)
        self.layout = layout or self._recognised_layout()
        self.normalisation = normalisation or self._recognised_normalisation()

    @classmethod
    def load(cls, detector: str | os.PathLike, *, sha256: str = "", **options: Any) -> "Detector":
        """Opens a published detector, which is downloaded once, or a file.

        Args:
          detector: a name of `mspn_jax.detector.published.DETECTORS`, such as "yolox_s", an http(s)
            address, or a path.
          sha256: of the file at an address, or its first digits; empty: not verified.
          options: those of `Detector`.

        Raises:
          DownloadError: the file cannot be downloaded, or is not the published one.
          DataError, UsageError: as `Detector`.
        """
        name = os.fspath(detector)
        class_index(options.get("class_name", "person"))  # before anything is downloaded
        if name in DETECTORS:
            known = DETECTORS[name]
            path = fetch(known.url, sha256=known.sha256, size=known.num_bytes)
            return cls(path, **{"layout": known.layout} | options)
        if is_address(name):
            return cls(fetch(name, sha256=sha256), **options)
        if not os.path.isfile(name) and not os.path.splitext(name)[1]:
            raise DataError(f"{name}: no such file, nor a detector's name ({', '.join(DETECTORS)})")
        return cls(detector, **options)

    def __call__(
        self, image_rgb: UInt8[np.ndarray, "H W 3"]
    ) -> tuple[Float64[np.ndarray, "N 4"], Float32[np.ndarray, "N"]]:
        """`boxes_xywh` in image pixels, clipped to the picture, and their scores, best first.

        Raises:
          ValueError: the picture is not (H, W, 3) uint8.
          DataError: onnxruntime cannot run the file, or it returns something else than boxes.
        """
        check_picture(image_rgb)
        pixels, scale = letterbox(image_rgb, self.input_hw, self.normalisation)
        outputs = self._session.run(pixels)
        with _errors_name(self.path):
            boxes_xyxy, scores = self._boxes(outputs, self.layout)
        likely = (scores >= self.min_score) & np.isfinite(boxes_xyxy).all(1)
        boxes_xyxy, scores = boxes_xyxy[likely], scores[likely]
        if self.layout == "nms":
            best = np.argsort(-scores, kind="stable")
        else:
            best = _suppress(boxes_xyxy, scores, self.nms_threshold)
        boxes_xyxy = np.clip(boxes_xyxy[best] / scale, 0, np.tile(image_rgb.shape[1::-1], 2))
        boxes_xywh = np.concatenate([boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]], 1)
        inside = np.flatnonzero((boxes_xywh[:, 2:] > 0).all(1))[: self.top_k]
        return boxes_xywh[inside], scores[best][inside]

    def _boxes(
        self, outputs: list[Shaped[np.ndarray, "..."]], layout: str
    ) -> tuple[Float64[np.ndarray, "N 4"], Float32[np.ndarray, "N"]]:
        return boxes_of_class(
            outputs, layout=layout, input_hw=self.input_hw, class_name=self._class_name
        )

    def _size(self, input_hw: tuple[int, int] | None) -> tuple[int, int]:
        """The size that the file fixes, else the one asked for."""
        height, width = input_hw or DEFAULT_INPUT_HW
        if min(height, width) <= 0 or height % STRIDES[-1] or width % STRIDES[-1]:
            raise UsageError(f"input_hw {height}, {width}: must be multiples of {STRIDES[-1]}")
        fixed = self._session.input_hw
        size = (fixed[0] or height, fixed[1] or width)
        if input_hw and size != (height, width):
            raise UsageError(
                f"input_hw {height}, {width}: {self.path} takes only {size[0]}, {size[1]}"
            )
        return size

    def _recognised_layout(self) -> str:
        """The layout of what the file returns for noise. Errors come now, not in mid-run."""
        noise = np.random.default_rng(0).integers(0, 256, (*self.input_hw, 3), np.uint8)
        outputs = self._session.run(letterbox(noise, self.input_hw)[0])
        with _errors_name(self.path):
            layout = recognise(outputs, self.input_hw)
            self._boxes(outputs, layout)
        return layout

    def _recognised_normalisation(self) -> str:
        """As YOLOX's, or after NMS by the file's layers: RTMDet returns the same as YOLOX."""
        if self.layout != "nms":
            return "none"
        found = [name for name, marks in _LAYERS.items() if self._session.has_names(*marks)]
        if len(found) != 1:
            raise DataError(
                f"{self.path}: does not say how its input is normalised: give"
                " normalisation='none', as for YOLOX, or 'rtmdet'"
            )
        return found[0]


def _suppress(
    boxes_xyxy: Float64[np.ndarray, "N 4"], scores: Float32[np.ndarray, "N"], threshold: float
) -> Int[np.ndarray, "M"]:
    """Non-maximum suppression: the indices of the boxes that stay, best first."""
    boxes_xywh = np.concatenate([boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]], 1)
    return np.array(cv2.dnn.NMSBoxes(boxes_xywh.tolist(), scores.tolist(), 0.0, threshold), int)


def _check_options(
    min_score: float,
    nms_threshold: float,
    top_k: int | None,
    layout: str | None,
    normalisation: str | None,
) -> None:
    for name, value in (("min_score", min_score), ("nms_threshold", nms_threshold)):
        if not 0 <= value <= 1:
            raise UsageError(f"{name} {value}: must be from 0 to 1")
    if top_k is not None and top_k < 1:
        raise UsageError(f"top_k {top_k}: must be at least 1")
    for name, chosen, choices in (
        ("layout", layout, LAYOUTS),
        ("normalisation", normalisation, NORMALISATIONS),
    ):
        if chosen is not None and chosen not in choices:
            raise UsageError(f"{name} {chosen!r}: must be one of {', '.join(choices)}")


@contextlib.contextmanager
def _errors_name(path: str | os.PathLike) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
