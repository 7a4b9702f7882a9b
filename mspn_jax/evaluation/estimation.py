"""A split's boxes -> keypoints in image pixels, on all devices of all processes."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Bool, Float, Int

from mspn_jax.data import evaluation_set
from mspn_jax.data.evaluation_set import Boxes
from mspn_jax.data.records import Records
from mspn_jax.devices import replicate, shard
from mspn_jax.geometry import crop_regions, crop_to_image
from mspn_jax.inference import Keypoints

Variables = Any


def estimate_boxes(
    estimate_batch: Callable[..., Keypoints],
    variables: Variables,
    records: Records,
    boxes: Boxes,
    *,
    crop_hw: tuple[int, int],
    batch_size: int,
    padding: float,
    num_threads: int = 0,
    progress: Callable[[int], Any] = lambda count: None,
) -> tuple[Float[np.ndarray, "N K 2"], Float[np.ndarray, "N K"]]:
    """Keypoints of the people in boxes, in image pixels, and their scores.

    Processes share the boxes, and the devices of a process share its batches. Every process
    returns all results.

    Args:
      estimate_batch: from `estimate_on_devices`.
      batch_size: of this process; rounded up to a multiple of its devices.
      padding: size of the crop region over the box's.
      progress: called with the number of boxes done, after each batch.
    """
    devices = jax.local_devices()
    batch_size = math.ceil(batch_size / len(devices)) * len(devices)
    edges = np.linspace(0, len(boxes), jax.process_count() + 1).astype(int)
    share = boxes[edges[jax.process_index()] : edges[jax.process_index() + 1]]
    variables = replicate(variables, devices)

    num_keypoints = records.people.visibility.shape[1]
    done = [np.zeros((0, num_keypoints, 3), np.float32)]  # a process may have no boxes

    def collect(output: Keypoints, mask: Bool[np.ndarray, "*B"]) -> None:
        keypoints_crop_xy, keypoint_scores = jax.device_get(output)
        rows = np.concatenate([keypoints_crop_xy, keypoint_scores[..., None]], -1)
        done.append(rows[mask])
        progress(int(mask.sum()))

    waiting = None  # the devices compute this batch while the next is prepared
    batches = evaluation_set.batches(
        records,
        share,
        crop_hw=crop_hw,
        batch_size=batch_size,
        padding=padding,
        num_threads=num_threads,
    )
    for batch in batches:
        output = estimate_batch(variables, shard(batch.crops, devices))
        if waiting is not None:
            collect(*waiting)
        waiting = output, batch.mask
    if waiting is not None:
        collect(*waiting)

    rows = _gathered(np.concatenate(done), np.diff(edges))
    center_xy, size_wh = crop_regions(boxes.boxes_xyxy, padding, crop_hw)
    return crop_to_image(rows[..., :2], center_xy, size_wh, crop_hw), rows[..., 2]


def _gathered(
    rows: Float[np.ndarray, "n K 3"], counts: Int[np.ndarray, "*P"]
) -> Float[np.ndarray, "N K 3"]:
    """The rows of all processes, in their order; `counts` says how many each has."""
    if jax.process_count() == 1:
        return rows
    padded = np.pad(rows, [(0, int(counts.max()) - len(rows)), (0, 0), (0, 0)])
    gathered = multihost_utils.process_allgather(padded)
    return np.concatenate([part[:count] for part, count in zip(gathered, counts)])
