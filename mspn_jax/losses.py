"""The loss: mean squared error on the coarse units, hard keypoint mining on the finest.

Source: mmpose 1.3.2 (KeypointMSELoss, KeypointOHKMMSELoss and MSPNHead's sum of them).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Float

from mspn_jax.heatmaps import target_levels

COARSE_UNIT_WEIGHT = 0.25


def weighted_mse(
    heatmaps: Float[jax.Array, "B H W K"],
    targets: Float[jax.Array, "B H W K"],
    keypoint_weights: Float[jax.Array, "B K"],
) -> Float[jax.Array, ""]:
    """Mean of the weighted squared error. Joints of weight 0 count in the denominator."""
    squared = jnp.square(heatmaps - targets)
    return (squared.mean((1, 2)) * keypoint_weights).mean()


def hard_keypoint_mse(
    heatmaps: Float[jax.Array, "B H W K"],
    targets: Float[jax.Array, "B H W K"],
    keypoint_weights: Float[jax.Array, "B K"],
    num_hard_keypoints: int = 8,
) -> Float[jax.Array, ""]:
    """Mean over the batch of the mean of each sample's `num_hard_keypoints` largest joint errors.

    The divisor is always `num_hard_keypoints`, even if fewer joints exist or have weight.
    """
    weights = keypoint_weights[:, None, None]
    per_joint = jnp.square(heatmaps * weights - targets * weights).mean((1, 2))  # (B, K)
    hardest, _ = jax.lax.top_k(per_joint, min(num_hard_keypoints, per_joint.shape[1]))
    return (hardest.sum(1) / num_hard_keypoints).mean()


def mspn_loss(
    heatmaps: Float[jax.Array, "S U B H W K"] | Sequence[Sequence[Float[jax.Array, "B H W K"]]],
    targets: Float[jax.Array, "B L H W K"],
    keypoint_weights: Float[jax.Array, "B K"],
    num_hard_keypoints: int = 8,
) -> tuple[Float[jax.Array, ""], dict[str, Float[jax.Array, ""]]]:
    """The sum of the losses of all stages and units.

    Args:
      heatmaps: all predictions, unit 0 the coarsest; as one array, or as a list of units for each
        stage.
      targets: L levels, coarse to fine. The last stage learns the finest U, the others the
        coarsest U.
      keypoint_weights: 0 for unlabelled joints.
      num_hard_keypoints: the number of joints per sample that the finest units learn from.

    Returns:
      The total, and its terms by name (`stage0_unit0` ...).
    """
    num_stages, num_units = len(heatmaps), len(heatmaps[0])
    levels = target_levels(num_stages, num_units, targets.shape[1])
    terms = {}
    for stage in range(num_stages):
        for unit in range(num_units):
            target = targets[:, levels[stage][unit]]
            prediction = heatmaps[stage][unit]
            if unit < num_units - 1:
                term = COARSE_UNIT_WEIGHT * weighted_mse(prediction, target, keypoint_weights)
            else:
                term = hard_keypoint_mse(prediction, target, keypoint_weights, num_hard_keypoints)
            terms[f"stage{stage}_unit{unit}"] = term
    return jnp.sum(jnp.stack(list(terms.values()))), terms
