"""Crops -> keypoints, for evaluation, prediction and export.

Mirroring, merging and decoding run on the device. Only uint8 crops are sent to it, and only
keypoints and scores return.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8

from mspn_jax import heatmaps
from mspn_jax.devices import REPLICATED, SHARDED, Devices, on_each_device
from mspn_jax.model import MSPN, STRIDE, normalise

Variables = Any

# keypoints_crop_xy and keypoint_scores of a batch
Keypoints = tuple[Float[jax.Array, "B K 2"], Float[jax.Array, "B K"]]


def predict_heatmaps(
    model: MSPN,
    variables: Variables,
    crops: UInt8[jax.Array, "B H W 3"],
    flip_permutation: Int[np.ndarray, "K"],
    flip_test: bool = True,
) -> Float[jax.Array, "B h w K"]:
    """The last stage's finest heatmaps, on the 0..255 scale, h = H / 4 and w = W / 4.

    Args:
      crops: RGB.
      flip_permutation: of the skeleton.
      flip_test: average with the heatmaps of the mirrored crops. This doubles the work.
    """
    batch = crops.shape[0]
    if flip_test:
        crops = jnp.concatenate([crops, crops[:, :, ::-1]])
    maps: Any = model.apply(variables, normalise(crops), method="predict")
    if flip_test:
        maps = heatmaps.merge_flipped(maps[:batch], maps[batch:], flip_permutation)
    return maps


def estimate(
    model: MSPN,
    variables: Variables,
    crops: UInt8[jax.Array, "B H W 3"],
    flip_permutation: Int[np.ndarray, "K"],
    flip_test: bool = True,
    decoding: str = "quarter",
) -> tuple[Float[jax.Array, "B K 2"], Float[jax.Array, "B K"]]:
    """Keypoints of the person in the middle of each crop.

    Args:
      decoding: as in `heatmaps.decode`. The others are `predict_heatmaps`'s.

    Returns:
      keypoints_crop_xy and keypoint_scores, as from `heatmaps.decode`.
    """
    maps = predict_heatmaps(model, variables, crops, flip_permutation, flip_test)
    return heatmaps.decode(maps, STRIDE, decoding=decoding, merged=flip_test)


def estimate_on_devices(
    model: MSPN,
    flip_permutation: Int[np.ndarray, "K"],
    flip_test: bool = True,
    devices: Devices = None,
    decoding: str = "quarter",
) -> Callable[..., Keypoints]:
    """`estimate`, jitted, with variables replicated on the devices and crops sharded over them.

    Args:
      devices: by default those of this process.
    """

    def on_one(variables, crops):
        return estimate(model, variables, crops, flip_permutation, flip_test, decoding)

    devices = jax.local_devices() if devices is None else devices
    return on_each_device(on_one, (REPLICATED, SHARDED), SHARDED, devices)
