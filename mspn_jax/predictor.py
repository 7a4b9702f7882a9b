"""Pictures and boxes -> keypoints, for programs that have pictures and want people."""

import itertools
import os
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from mspn_jax import devices, geometry, inference
from mspn_jax.crops import cut
from mspn_jax.folding import for_inference
from mspn_jax.weights import checkpoints
from mspn_jax.weights.description import Description

Array = np.ndarray
Picture = UInt8[Array, "H W 3"]

# People go to the device in batches of these sizes, each compiled when it is first needed: less
# than twice the work that there is, and few programs.
BATCH_SIZES = (1, 2, 4, 8, 16, 32)
_LONGEST_SIDE = 2**15 - 2  # OpenCV warps no longer ones


class Predictor:
    """A network that is ready for pictures, on the default device.

        predictor = Predictor.load("runs/mspn50")
        keypoints_image_xy, keypoint_scores = predictor(image_rgb, boxes_xywh)

    The same path as eval.py's: crops, flip test, decoding. `description` and `skeleton` say what
    the network is, and what its keypoints are called.
    """

    def __init__(
        self, description: Description, variables: Any, flip_test: bool = True, *,
        num_stages: int | None = None, dtype: Any = jnp.float32,
    ):  # fmt: skip
        """Args as in `load`; `variables` as `checkpoints.load` returns them."""
        self.description = description
        self.skeleton = description.new_skeleton()
        model, variables = for_inference(description.new_model(dtype=dtype), variables, num_stages)
        self._variables = jax.device_put(variables)

        def estimate(variables, crops):
            return inference.estimate(
                model, variables, crops, self.skeleton.flip_permutation, flip_test
            )

        self._estimate = devices.jit(estimate)

    @classmethod
    def load(
        cls, checkpoint: str | os.PathLike, flip_test: bool = True, *,
        num_stages: int | None = None, dtype: Any = jnp.float32,
    ) -> "Predictor":  # fmt: skip
        """The predictor of a checkpoint; its `model.json` says all that is needed.

        Args:
          checkpoint: a workdir (its best step is taken), one step's folder, or convert's output.
          flip_test: average with the mirrored crops' heatmaps: a little better, twice the work.
          num_stages: stop after so many; None: all.
          dtype: what convolutions compute in, float32 or bfloat16.

        Raises:
          CheckpointError: there is no checkpoint, it is damaged, of an unknown skeleton, or has
            not so many stages.
        """
        description, variables, _ = checkpoints.load(checkpoint)
        return cls(description, variables, flip_test, num_stages=num_stages, dtype=dtype)

    def __call__(
        self, image_rgb: Picture, boxes_xywh: Float[Array, "N 4"]
    ) -> tuple[Float[Array, "N K 2"], Float[Array, "N K"]]:
        """Keypoints of the people in boxes on a picture; no box, no people.

        Args:
          boxes_xywh: in image pixels; they may reach over the border, and are not clipped.

        Returns:
          keypoints_image_xy: image pixels.
          keypoint_scores: about 0.5 for none there to 1.5 for a sure one.

        Raises:
          ValueError: the picture is not (H, W, 3) uint8, or a box is not finite or has no area.
        """
        return next(self.stream([(image_rgb, boxes_xywh)]))

    def stream(
        self, pictures: Iterable[tuple[Picture, Float[Array, "N 4"]]], together: int = 1
    ) -> Iterator[tuple[Float[Array, "N K 2"], Float[Array, "N K"]]]:
        """The same for many pictures, in their order: the next are read while the device works.

        Args:
          pictures: (image_rgb, boxes_xywh) pairs. At most twice `together` are kept in memory.
          together: people of so many successive pictures share batches. 1 suits a camera, which
            is then one picture behind; more suit pictures with one or two people each.
        """
        pictures = iter(pictures)
        waiting = None
        while group := list(itertools.islice(pictures, together)):
            started = self._start(group)
            if waiting is not None:
                yield from self._finish(*waiting)
            waiting = started
        if waiting is not None:
            yield from self._finish(*waiting)

    def _start(self, group):
        """Cuts the crops and sends them off: the people's regions, and the batches under way."""
        crop_hw, padding = self.description.crop_hw, self.description.padding
        regions, people = [], []
        for image, boxes_xywh in group:
            boxes_xyxy = geometry.boxes_xywh_to_xyxy(_checked(image, boxes_xywh))
            region = geometry.crop_regions(boxes_xyxy, padding, crop_hw)
            regions.append(region)
            image = np.ascontiguousarray(image)
            maps = geometry.image_to_crop(*region, 0.0, crop_hw)
            people += [(image, image_to_crop) for image_to_crop in maps]

        batches = []
        for first in range(0, len(people), BATCH_SIZES[-1]):
            rows = people[first : first + BATCH_SIZES[-1]]
            size = next(size for size in BATCH_SIZES if size >= len(rows))
            crops = np.zeros((size, *crop_hw, 3), np.uint8)
            for crop, (image, image_to_crop) in zip(crops, rows):
                cut(image, image_to_crop, False, crop)
            batches.append((self._estimate(self._variables, crops), len(rows)))
        return regions, batches

    def _finish(self, regions, batches):
        """Waits for the batches; the results of each picture."""
        num_keypoints = self.skeleton.num_keypoints
        keypoints_crop_xy = np.zeros((0, num_keypoints, 2), np.float32)
        keypoint_scores = np.zeros((0, num_keypoints), np.float32)
        if batches:
            outputs = [[x[:count] for x in jax.device_get(output)] for output, count in batches]
            keypoints_crop_xy, keypoint_scores = map(np.concatenate, zip(*outputs))
        first = 0
        for center_xy, size_wh in regions:
            rows = slice(first, first := first + len(center_xy))
            keypoints_image_xy = geometry.crop_to_image(
                keypoints_crop_xy[rows], center_xy, size_wh, self.description.crop_hw
            )
            yield keypoints_image_xy, keypoint_scores[rows]


def _checked(image: Picture, boxes_xywh: Float[Array, "N 4"]) -> Float[Array, "N 4"]:
    image_is = f"{getattr(image, 'dtype', type(image).__name__)} {np.shape(image)}"
    if np.ndim(image) != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"a picture must be (H, W, 3) uint8 RGB, not {image_is}")
    if max(image.shape) > _LONGEST_SIDE:
        raise ValueError(f"a picture's sides can have {_LONGEST_SIDE} pixels, but it is {image_is}")
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
