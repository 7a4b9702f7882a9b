"""The training state and the training step."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, UInt8

from mspn_jax import heatmaps
from mspn_jax.data.pipeline import TrainingBatch
from mspn_jax.devices import AXIS, REPLICATED, SHARDED, Devices, jit_step, map_over
from mspn_jax.losses import mspn_loss
from mspn_jax.model import MSPN, STRIDE, normalise

Metrics = dict[str, Any]


@flax.struct.dataclass
class TrainState:
    """All that a step changes: one tree, equal on every device.

    Attributes:
      step: the number of steps taken, skipped ones included. It determines the next batch.
      skipped, skipped_in_a_row: the number of steps whose loss or gradients were not finite:
        in total, and since the last finite step.
      ema_params: the moving average of the parameters; None if it is not kept.
    """

    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any
    skipped: Any
    skipped_in_a_row: Any
    ema_params: Any = None

    @property
    def variables(self) -> dict[str, Any]:
        """The variables for inference, with the averaged parameters if they are kept."""
        params = self.params if self.ema_params is None else self.ema_params
        return {"params": params, "batch_stats": self.batch_stats}


def new_state(
    variables: Any, optimizer: optax.GradientTransformation, with_ema: bool = False
) -> TrainState:
    """The state before the first step. It shares the arrays of `variables`."""
    zero = np.zeros((), np.int32)
    return TrainState(
        step=zero,
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(variables["params"]),
        skipped=zero,
        skipped_in_a_row=zero,
        ema_params=variables["params"] if with_ema else None,
    )


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """A training step, (state, batch) -> (state, metrics), in two parts.

    Attributes:
      gradients: (params, batch_stats, batch) -> (gradients, batch_stats, metrics), averaged over
        all devices. Each device calls it with its rows of the batch, under the axis `AXIS`.
      update: (state, gradients, batch_stats, loss) -> (state, metrics), the same on every device.
    """

    gradients: Callable
    update: Callable

    def __call__(self, state: TrainState, batch: dict[str, Any]) -> tuple[TrainState, Metrics]:
        gradients, batch_stats, metrics = self.gradients(state.params, state.batch_stats, batch)
        state, more_metrics = self.update(state, gradients, batch_stats, metrics["loss"])
        return state, metrics | more_metrics


def train_step(
    model: MSPN,
    optimizer: optax.GradientTransformation,
    num_hard_keypoints: int = 8,
    *,
    num_micro_batches: int = 1,
    ema_decay: float = 0.0,
) -> TrainStep:
    """The training step of one device, on a batch with the arrays of `TrainingBatch`.

    Each device normalises with the statistics of its own crops (with those of all devices if the
    model has an `axis_name`). Gradients, metrics and new running statistics are averaged over the
    devices. A step whose loss or gradients are not finite is counted and changes nothing else.

    Metrics: `loss`, its terms by stage and unit, `unexplained` (see `unexplained_share`),
    `gradient_norm` before clipping, `skipped` and `skipped_in_a_row`.

    Args:
      num_micro_batches: splits each device's batch into N micro-batches, each of which has its
        own statistics; activation memory is that of one. The result is that of N times as many
        devices.
      ema_decay: of the moving average of the parameters, if the state has one. Step n uses
        (1 + n) / (10 + n) where that is smaller, so that the average soon forgets the start.
    """

    def mean_gradients(params, batch_stats, batch):
        def gradients_of(micro_batch):
            return _gradients(model, num_hard_keypoints, params, batch_stats, **micro_batch)

        means = _mean_over_micro_batches(gradients_of, batch, num_micro_batches)
        return jax.lax.pmean(means, AXIS)

    def update(state, gradients, batch_stats, loss):
        norm = optax.tree.norm(gradients)

        def apply(state):
            return _apply(optimizer, ema_decay, state, gradients, batch_stats)

        # A branch: selecting old or new leaf by leaf would keep all moments twice.
        is_finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        state = jax.lax.cond(is_finite, apply, _skip, state)
        return dataclasses.replace(state, step=state.step + 1), {
            "gradient_norm": norm,
            "skipped": state.skipped,
            "skipped_in_a_row": state.skipped_in_a_row,
        }

    return TrainStep(mean_gradients, update)


def _gradients(
    model, num_hard_keypoints, params, batch_stats, crops, keypoints_crop_xy, visibility
):
    """Gradients, new running statistics and metrics of one micro-batch."""
    crop_hw = crops.shape[1:3]
    heatmap_hw = (crop_hw[0] // STRIDE, crop_hw[1] // STRIDE)
    images = normalise(crops)
    targets, keypoint_weights = heatmaps.encode(keypoints_crop_xy, visibility, crop_hw, heatmap_hw)

    def loss_of(params):
        predicted, updates = model.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
            method="units",
        )
        loss, terms = mspn_loss(predicted, targets, keypoint_weights, num_hard_keypoints)
        unexplained = unexplained_share(predicted[-1][-1], targets[:, -1], keypoint_weights)
        metrics = {"loss": loss, **terms, "unexplained": unexplained}
        return loss, (updates["batch_stats"], metrics)

    gradients, (new_batch_stats, metrics) = jax.grad(loss_of, has_aux=True)(params)
    return gradients, new_batch_stats, metrics


def _mean_over_micro_batches(
    function: Callable, batch: dict[str, Any], num_micro_batches: int
) -> Any:
    """The mean of a function's results on equal parts of a batch, evaluated one after another."""
    if num_micro_batches == 1:
        return function(batch)
    (count,) = {len(rows) for rows in batch.values()}
    if count % num_micro_batches:
        raise ValueError(
            f"the {count} crops of a device do not divide into {num_micro_batches} micro-batches"
        )
    parts = jax.tree.map(lambda rows: rows.reshape(num_micro_batches, -1, *rows.shape[1:]), batch)
    like = jax.eval_shape(function, jax.tree.map(lambda rows: rows[0], parts))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)

    def add(total, part):
        return jax.tree.map(jnp.add, total, function(part)), None

    total, _ = jax.lax.scan(add, zeros, parts)
    return jax.tree.map(lambda leaf: leaf / num_micro_batches, total)


def _apply(optimizer, ema_decay, state: TrainState, gradients, batch_stats) -> TrainState:
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema_params = state.ema_params
    if ema_params is not None:
        decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
        ema_params = jax.tree.map(
            lambda mean, new: decay * mean + (1 - decay) * new, ema_params, params
        )
    return dataclasses.replace(
        state,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        skipped_in_a_row=jnp.zeros_like(state.skipped_in_a_row),
        ema_params=ema_params,
    )


def _skip(state: TrainState) -> TrainState:
    return dataclasses.replace(
        state, skipped=state.skipped + 1, skipped_in_a_row=state.skipped_in_a_row + 1
    )


def unexplained_share(
    predicted: Float[jax.Array, "B H W K"],
    target: Float[jax.Array, "B H W K"],
    keypoint_weights: Float[jax.Array, "B K"],
) -> Float[jax.Array, ""]:
    """1 - cos^2 between predicted and target heatmap, averaged over labelled joints.

    It ignores the heatmaps' height, and falls from 1 towards 0 long before they are as high as
    the targets.
    """
    product = (predicted * target).sum((1, 2))
    squares = jnp.square(predicted).sum((1, 2)) * jnp.square(target).sum((1, 2))
    explained = jnp.square(jnp.maximum(product, 0)) / jnp.maximum(squares, 1e-6)
    counted = (keypoint_weights > 0).astype(predicted.dtype)
    return 1 - (explained * counted).sum() / jnp.maximum(counted.sum(), 1)


def on_all_devices(step: TrainStep, devices: Devices = None) -> Any:
    """The jitted step over the devices; by default over every device of every process.

    The state is replicated and donated, batches are sharded.
    """
    gradients = map_over(step.gradients, (REPLICATED, REPLICATED, SHARDED), REPLICATED, devices)
    return jit_step(TrainStep(gradients, step.update), devices)


Examples = tuple[
    UInt8[np.ndarray, "N H W 3"], Float[np.ndarray, "N h w"], Float[np.ndarray, "N h w"]
]


def example_heatmaps(
    model: MSPN, count: int = 4
) -> Callable[[TrainState, TrainingBatch], Examples]:
    """A function (state, batch) -> what the network predicts for the batch's first crops.

    It returns `count` crops, their targets and their predictions: the maximum over all joints'
    finest heatmaps, on the 0..255 scale, h = H / 4 and w = W / 4.
    """

    @jax.jit
    def heatmaps_of(variables, crops, keypoints_crop_xy, visibility):
        predicted: Any = model.apply(variables, normalise(crops), method="predict")
        targets, _ = heatmaps.encode(
            keypoints_crop_xy, visibility, crops.shape[1:3], predicted.shape[1:3]
        )
        return targets[:, -1].max(-1), predicted.max(-1)

    def examples(state: TrainState, batch: TrainingBatch) -> Examples:
        rows = {name: array[:count] for name, array in vars(batch).items()}
        targets, predicted = heatmaps_of(jax.device_get(state.variables), **rows)
        return rows["crops"], np.asarray(targets), np.asarray(predicted)

    return examples
