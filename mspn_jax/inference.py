"""Crops -> keypoints: the one path that evaluation, prediction and export share.

Mirroring, merging and decoding run on the device; only bytes go there and only keypoints return.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Float, Int, UInt8

from mspn_jax import heatmaps
from mspn_jax.data import evaluation_set
from mspn_jax.data.evaluation_set import Boxes
from mspn_jax.data.records import Records
from mspn_jax.devices import REPLICATED, SHARDED, Devices, on_each_device, replicate, shard
from mspn_jax.geometry import crop_regions, crop_to_image
from mspn_jax.model import MEAN_RGB, MSPN, STD_RGB, STRIDE, normalise

Variables = Any


def predict_heatmaps(
    model: MSPN,
    variables: Variables,
    crops: UInt8[Array, "B H W 3"],
    flip_permutation: Int[np.ndarray, "K"],
    flip_test: bool = True,
    mean_rgb: tuple[float, float, float] = MEAN_RGB,
    std_rgb: tuple[float, float, float] = STD_RGB,
) -> Float[Array, "B h w K"]:
    """The last stage's finest heatmaps, on the 0..255 scale, h = H / 4 and w = W / 4.

    Args:
      crops: RGB.
      flip_permutation: the skeleton's.
      flip_test: average with the heatmaps of the mirrored crops; twice the work.
    """
    batch = crops.shape[0]
    if flip_test:
        crops = jnp.concatenate([crops, crops[:, :, ::-1]])
    maps: Any = model.apply(variables, normalise(crops, mean_rgb, std_rgb), method="predict")
    if flip_test:
        maps = heatmaps.merge_flipped(maps[:batch], maps[batch:], flip_permutation)
    return maps


def estimate(
    model: MSPN,
    variables: Variables,
    crops: UInt8[Array, "B H W 3"],
    flip_permutation: Int[np.ndarray, "K"],
    flip_test: bool = True,
    mean_rgb: tuple[float, float, float] = MEAN_RGB,
    std_rgb: tuple[float, float, float] = STD_RGB,
) -> tuple[Float[Array, "B K 2"], Float[Array, "B K"]]:
    """Keypoints of the person in the middle of each crop; args as in `predict_heatmaps`.

    Returns:
      keypoints_crop_xy and keypoint_scores, as from `heatmaps.decode`.
    """
    maps = predict_heatmaps(model, variables, crops, flip_permutation, flip_test, mean_rgb, std_rgb)
    return heatmaps.decode(maps, STRIDE)


def estimate_on_devices(
    model: MSPN,
    flip_permutation: Int[np.ndarray, "K"],
    flip_test: bool = True,
    mean_rgb: tuple[float, float, float] = MEAN_RGB,
    std_rgb: tuple[float, float, float] = STD_RGB,
    devices: Devices = None,
) -> Callable[..., tuple[Array, Array]]:
    """`estimate` with variables replicated on, and crops sharded among, devices.

    Compiled once for each shape.

    Args:
      devices: by default this process's.
    """

    def on_one(variables, crops):
        return estimate(model, variables, crops, flip_permutation, flip_test, mean_rgb, std_rgb)

    devices = jax.local_devices() if devices is None else devices
    return on_each_device(on_one, (REPLICATED, SHARDED), SHARDED, devices)


def estimate_boxes(
    estimate_batch: Callable[..., tuple[Array, Array]],
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

    Processes share the boxes, and each one's devices its batches; all return the whole.

    Args:
      estimate_batch: from `estimate_on_devices`.
      batch_size: of this process, rounded up to a multiple of its devices.
      padding: of the crop region, over the box's size.
      progress: called with the number of boxes done, after each batch.
    """
    devices = jax.local_devices()
    batch_size = math.ceil(batch_size / len(devices)) * len(devices)
    edges = np.linspace(0, len(boxes), jax.process_count() + 1).astype(int)
    share = boxes[edges[jax.process_index()] : edges[jax.process_index() + 1]]
    variables = replicate(variables, devices)

    done: list[np.ndarray] = []

    def collect(output, mask: np.ndarray) -> None:
        keypoints_crop_xy, keypoint_scores = jax.device_get(output)
        rows = np.concatenate([keypoints_crop_xy, keypoint_scores[..., None]], -1)
        done.append(rows[mask])
        progress(int(mask.sum()))

    waiting = None  # the batch that the devices work on while the next is made ready
    for batch in evaluation_set.batches(
        records, share, crop_hw=crop_hw, batch_size=batch_size, padding=padding,
        num_threads=num_threads,
    ):  # fmt: skip
        output = estimate_batch(variables, shard(batch.crops, devices))
        if waiting is not None:
            collect(*waiting)
        waiting = output, batch.mask
    if waiting is not None:
        collect(*waiting)

    rows = np.concatenate(done)
    if jax.process_count() > 1:
        most = int(np.diff(edges).max())
        padded = np.pad(rows, [(0, most - len(rows)), (0, 0), (0, 0)])
        gathered = multihost_utils.process_allgather(padded)
        rows = np.concatenate([part[:n] for part, n in zip(gathered, np.diff(edges))])
    center_xy, size_wh = crop_regions(boxes.boxes_xyxy, padding, crop_hw)
    return crop_to_image(rows[..., :2], center_xy, size_wh, crop_hw), rows[..., 2]
