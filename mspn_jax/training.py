"""The training state and the training step."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from mspn_jax import heatmaps
from mspn_jax.data.pipeline import TrainingBatch
from mspn_jax.devices import AXIS, REPLICATED, SHARDED, Devices, jit_step, map_over
from mspn_jax.losses import mspn_loss
from mspn_jax.model import MSPN, STRIDE, normalise

Metrics = dict[str, Any]


@flax.struct.dataclass
class TrainState:
    """Everything that a step changes. One plain tree, the same on every device.

    Attributes:
      step: how many steps are done, skipped ones among them: it says where the data stand.
      skipped, skipped_in_a_row: steps whose loss or gradients were not finite, so that they
        changed nothing else of the state; all of them, and the latest without one in between.
      ema_params: the parameters' moving average, or None where none is kept.
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
        """What to infer with: the averaged parameters if there are any."""
        params = self.params if self.ema_params is None else self.ema_params
        return {"params": params, "batch_stats": self.batch_stats}


def new_state(
    variables: Any, optimizer: optax.GradientTransformation, with_ema: bool = False
) -> TrainState:
    """The state before the first step: the variables as they are, the optimiser's arrays of JAX."""
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
    """A training step, (state, batch) -> (state, metrics): gradients, then the update.

    Attributes:
      gradients: (params, batch_stats, batch) -> (gradients, batch_stats, metrics), the means over
        all devices. Runs on each device, for its part of the batch, under the axis `AXIS`.
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
    num_parts: int = 1,
    ema_decay: float = 0.0,
) -> TrainStep:
    """The step of one device.

    Each device normalises with the statistics of its own crops (of all devices' if the model has
    an `axis_name`); gradients, metrics and the new running statistics are averaged. With
    `num_parts` a device takes its crops in so many equal parts, one after the other, and each
    part counts as a device would: the memory of one part, and the numbers of so many devices.

    A step whose loss or gradients are not finite is counted and leaves all else as it was.

    Args:
      ema_decay: of the moving average of the parameters, if the state has one; the first steps
        take the smaller (1 + n) / (10 + n), so that it soon forgets where it began.

    Metrics: `loss`; its terms by stage and unit; `gradient_norm`; `skipped` and
    `skipped_in_a_row`; `stop`, the largest of the batch's `stop` on any device, if it has that;
    and `unexplained`, the share of the labelled joints' targets that the last heatmaps do not have
    the shape of, whatever their height: it falls from 1 towards 0 long before the heatmaps have
    grown to the targets' height.
    """

    def gradients_of(params, batch_stats, crops, keypoints_crop_xy, visibility):
        crop_hw = crops.shape[1:3]
        heatmap_hw = (crop_hw[0] // STRIDE, crop_hw[1] // STRIDE)
        images = normalise(crops)
        targets, keypoint_weights = heatmaps.encode(
            keypoints_crop_xy, visibility, crop_hw, heatmap_hw
        )

        def loss_of(params):
            predicted, updates = model.apply(
                {"params": params, "batch_stats": batch_stats},
                images,
                train=True,
                mutable=["batch_stats"],
            )
            loss, terms = mspn_loss(predicted, targets, keypoint_weights, num_hard_keypoints)
            unexplained = _unexplained(predicted[-1, -1], targets[:, -1], keypoint_weights)
            metrics = {"loss": loss, **terms, "unexplained": unexplained}
            return loss, (updates["batch_stats"], metrics)

        gradients, (new_batch_stats, metrics) = jax.grad(loss_of, has_aux=True)(params)
        return gradients, new_batch_stats, metrics

    def mean_gradients(params, batch_stats, batch):
        batch = dict(batch)
        stop = batch.pop("stop", None)
        means = _mean_over_parts(
            lambda part: gradients_of(params, batch_stats, **part), batch, num_parts
        )
        gradients, batch_stats, metrics = jax.lax.pmean(means, AXIS)
        if stop is not None:
            metrics["stop"] = jax.lax.pmax(stop.max(), AXIS)
        return gradients, batch_stats, metrics

    def update(state, gradients, batch_stats, loss):
        norm = optax.tree.norm(gradients)

        def apply(state):
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

        def skip(state):
            return dataclasses.replace(
                state,
                skipped=state.skipped + 1,
                skipped_in_a_row=state.skipped_in_a_row + 1,
            )

        # A branch: to choose between old and new leaf by leaf would hold all moments twice.
        is_finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        state = jax.lax.cond(is_finite, apply, skip, state)
        return dataclasses.replace(state, step=state.step + 1), {
            "gradient_norm": norm,
            "skipped": state.skipped,
            "skipped_in_a_row": state.skipped_in_a_row,
        }

    return TrainStep(mean_gradients, update)


def _mean_over_parts(function: Callable, batch: dict[str, Any], num_parts: int) -> Any:
    """The mean of a function of so many equal parts of a batch, taken one after the other."""
    if num_parts == 1:
        return function(batch)
    (count,) = {len(rows) for rows in batch.values()}
    if count % num_parts:
        raise ValueError(f"{count} crops of a device do not divide into {num_parts} parts")
    parts = jax.tree.map(lambda rows: rows.reshape(num_parts, -1, *rows.shape[1:]), batch)
    like = jax.eval_shape(function, jax.tree.map(lambda rows: rows[0], parts))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)

    def add(total, part):
        return jax.tree.map(jnp.add, total, function(part)), None

    total, _ = jax.lax.scan(add, zeros, parts)
    return jax.tree.map(lambda leaf: leaf / num_parts, total)


def _unexplained(predicted, target, keypoint_weights):
    """1 - cos^2 of the angle between each joint's predicted and target map, weighted mean."""
    product = (predicted * target).sum((1, 2))
    squares = jnp.square(predicted).sum((1, 2)) * jnp.square(target).sum((1, 2))
    explained = jnp.square(jnp.maximum(product, 0)) / jnp.maximum(squares, 1e-6)
    counted = (keypoint_weights > 0).astype(predicted.dtype)
    return 1 - (explained * counted).sum() / jnp.maximum(counted.sum(), 1)


def on_all_devices(step: TrainStep, devices: Devices = None) -> Any:
    """The jitted step over every device of every process, or over the given ones.

    The state is replicated and donated, batches are sharded.
    """
    gradients = map_over(step.gradients, (REPLICATED, REPLICATED, SHARDED), REPLICATED, devices)
    return jit_step(TrainStep(gradients, step.update), devices)


def sample_heatmaps(
    model: MSPN, count: int = 4
) -> Callable[[TrainState, TrainingBatch], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """A function of a state and a batch, for people to look at what is learnt.

    Returns, of the batch's first `count` crops: the crops (n, H, W, 3) uint8, and of each the
    highest of all joints' finest targets and predictions, (n, H/4, W/4) on the 0..255 scale.
    """

    @jax.jit
    def heatmaps_of(variables, crops, keypoints_crop_xy, visibility):
        predicted: Any = model.apply(variables, normalise(crops), method="predict")
        targets, _ = heatmaps.encode(
            keypoints_crop_xy, visibility, crops.shape[1:3], predicted.shape[1:3]
        )
        return targets[:, -1].max(-1), predicted.max(-1)

    def sample(state: TrainState, batch: TrainingBatch):
        rows = {name: array[:count] for name, array in vars(batch).items()}
        targets, predicted = heatmaps_of(jax.device_get(state.variables), **rows)
        return rows["crops"], np.asarray(targets), np.asarray(predicted)

    return sample
