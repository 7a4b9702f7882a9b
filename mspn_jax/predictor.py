"""Pictures and boxes -> keypoints, for programs that have pictures and want people."""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Float64, Real, UInt8

from mspn_jax import backends, geometry, heatmaps
from mspn_jax.backends import Wait
from mspn_jax.crops import check_picture, cut
from mspn_jax.export.formats import Deployment
from mspn_jax.weights import published
from mspn_jax.weights.description import Description

Picture = UInt8[np.ndarray, "_ _ 3"]
Boxes = Real[np.ndarray, "_ 4"] | Sequence[Sequence[float]]
Regions = tuple[Float32[np.ndarray, "_ 2"], Float32[np.ndarray, "_ 2"]]  # center_xy, size_wh


class Predictor:
    """A network ready for pictures, on the default device.

        predictor = Predictor.load("runs/mspn50")
        keypoints_image_xy, keypoint_scores = predictor(image_rgb, boxes_xywh)

    Crops, flip test and decoding are those of evaluation.

    Attributes:
      description: the checkpoint's `model.json`.
      skeleton: names and limbs of the keypoints.
      backend: what computes, of `backends.BACKENDS`.
    """

    def __init__(
        self,
        description: Description,
        variables: Any,
        flip_test: bool = True,
        *,
        num_stages: int | None = None,
        dtype: Any = jnp.float32,
        decoding: str = "quarter",
        backend: str | None = None,
    ):
        """`variables` are those of `checkpoints.load`; the other arguments are those of `load`."""
        heatmaps.check_decoding(decoding)
        self.description = description
        self.skeleton = description.new_skeleton()
        self.backend = backends.choose(backend, dtype)
        deployment = Deployment(
            description, variables, num_stages, flip_test, batch_size=None, dtype=dtype
        )
        self._start_batch = backends.open_network(self.backend, deployment, decoding)

    @classmethod
    def load(
        cls,
        checkpoint: str | os.PathLike,
        flip_test: bool = True,
        *,
        num_stages: int | None = None,
        dtype: Any = jnp.float32,
        decoding: str = "quarter",
        backend: str | None = None,
    ) -> "Predictor":
        """Loads a checkpoint. Its `model.json` describes the network.

        Args:
          checkpoint: a workdir (its best step), one step's folder, convert's output or a published
            name.
          flip_test: average with the mirrored crops' heatmaps: slightly better, twice the work.
          num_stages: the number of stages to run; None runs all.
          dtype: the convolutions' dtype, float32 or bfloat16.
          decoding: "quarter", as for the published metrics, or "dark": see `heatmaps.decode`.
          backend: "jax" or "onnxruntime", which computes on the CPU, in float32. None: onnxruntime
            where it is faster (JAX's device is a CPU) and the extra `onnx` is installed.

        Raises:
          CheckpointError: there is no checkpoint, it is damaged, its skeleton is unknown, or it has
            fewer stages.
          ValueError: there is no such decoding or backend, or the backend cannot compute it.
        """
        heatmaps.check_decoding(decoding)
        backend = backends.choose(backend, dtype)
        description, variables, _ = published.load(checkpoint)
        return cls(
            description,
            variables,
            flip_test,
            num_stages=num_stages,
            dtype=dtype,
            decoding=decoding,
            backend=backend,
        )

    def __call__(
        self,
        image_rgb: UInt8[np.ndarray, "H W 3"],
        boxes_xywh: Real[np.ndarray, "N 4"] | Sequence[Sequence[float]],
    ) -> tuple[Float32[np.ndarray, "N K 2"], Float32[np.ndarray, "N K"]]:
        """Keypoints of the people in the boxes of a picture.

        Args:
          boxes_xywh: in image pixels. They may cross the border, and are not clipped. May be empty.

        Returns:
          keypoints_image_xy: image pixels.
          keypoint_scores: from about 0.5 (no keypoint found) to about 1.5 (certain).

        Raises:
          ValueError: the picture is not (H, W, 3) uint8, or a box is not finite or has no area.
        """
        return next(self.stream([(image_rgb, boxes_xywh)]))

    def stream(
        self,
        pictures: Iterable[tuple[Picture, Boxes]],
        together: int = 1,
    ) -> Iterator[tuple[Float32[np.ndarray, "N K 2"], Float32[np.ndarray, "N K"]]]:
        """`__call__` for many pictures, in order. The next are read while the device computes.

        Args:
          pictures: (image_rgb, boxes_xywh) pairs. At most twice `together` are kept in memory.
          together: the number of successive pictures whose people share batches. 1 suits a camera
            (the output is one picture behind); more suit pictures with one or two people each.
        """
        pictures = iter(pictures)
        in_flight = None
        while group := list(itertools.islice(pictures, together)):
            started = self._start(group)
            if in_flight is not None:
                yield from self._finish(*in_flight)
            in_flight = started
        if in_flight is not None:
            yield from self._finish(*in_flight)

    def _start(
        self, group: list[tuple[Picture, Boxes]]
    ) -> tuple[list[Regions], list[tuple[Wait, int]]]:
        """Cuts the crops and starts the device.

        Returns the crop regions of each picture, and each batch's future output and its people.
        """
        crop_hw, padding = self.description.crop_hw, self.description.padding
        regions, people = [], []
        for image, boxes_xywh in group:
            check_picture(image)
            boxes_xyxy = geometry.boxes_xywh_to_xyxy(_checked(boxes_xywh))
            region = geometry.crop_regions(boxes_xyxy, padding, crop_hw)
            regions.append(region)
            image = np.ascontiguousarray(image)
            maps = geometry.image_to_crop(*region, 0.0, crop_hw)
            people += [(image, image_to_crop) for image_to_crop in maps]

        batches = []
        waiting = iter(people)
        for size in backends.batch_sizes(self.backend, len(people)):
            rows = list(itertools.islice(waiting, size))
            crops = np.zeros((size, *crop_hw, 3), np.uint8)
            for crop, (image, image_to_crop) in zip(crops, rows):
                cut(image, image_to_crop, False, crop)
            batches.append((self._start_batch(crops), len(rows)))
        return regions, batches

    def _finish(
        self, regions: list[Regions], batches: list[tuple[Wait, int]]
    ) -> Iterator[tuple[Float32[np.ndarray, "N K 2"], Float32[np.ndarray, "N K"]]]:
        """Waits for the batches, and yields the results of each picture."""
        num_keypoints = self.skeleton.num_keypoints
        keypoints_crop_xy = np.zeros((0, num_keypoints, 2), np.float32)
        keypoint_scores = np.zeros((0, num_keypoints), np.float32)
        if batches:
            outputs = [[x[:count] for x in wait()] for wait, count in batches]
            keypoints_crop_xy, keypoint_scores = map(np.concatenate, zip(*outputs))
        first = 0
        for center_xy, size_wh in regions:
            rows = slice(first, first := first + len(center_xy))
            keypoints_image_xy = geometry.crop_to_image(
                keypoints_crop_xy[rows], center_xy, size_wh, self.description.crop_hw
            )
            yield keypoints_image_xy, keypoint_scores[rows]


def _checked(boxes_xywh: Boxes) -> Float64[np.ndarray, "N 4"]:
    boxes_xywh = np.asarray(boxes_xywh, np.float64)
    if boxes_xywh.size == 0:
        return np.zeros((0, 4))
    if boxes_xywh.ndim != 2 or boxes_xywh.shape[1] != 4:
        raise ValueError(f"boxes must be (N, 4): x, y, width, height; not {boxes_xywh.shape}")
    unusable = np.flatnonzero(~geometry.usable_boxes(boxes_xywh))
    if len(unusable):
        raise ValueError(
            f"box {unusable[0]} is {boxes_xywh[unusable[0]].tolist()}: not finite, or without area"
        )
    return boxes_xywh
