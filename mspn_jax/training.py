"""The training state and the training step."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from mspn_jax import heatmaps
from mspn_jax.data.pipeline import TrainingBatch
from mspn_jax.losses import mspn_loss
from mspn_jax.model import MEAN_RGB, MSPN, STD_RGB, STRIDE, normalise

AXIS = "batch"  # the pmap axis

Metrics = dict[str, Any]


@flax.struct.dataclass
class TrainState:
    """Everything that a step changes. One plain tree, the same on every device."""

    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any


def new_state(variables: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step, as NumPy."""
    return TrainState(
        step=np.zeros((), np.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=jax.tree.map(np.asarray, optimizer.init(variables["params"])),
    )


def train_step(
    model: MSPN,
    optimizer: optax.GradientTransformation,
    num_hard_keypoints: int = 8,
    mean_rgb: tuple[float, float, float] = MEAN_RGB,
    std_rgb: tuple[float, float, float] = STD_RGB,
) -> Callable[[TrainState, dict[str, Any]], tuple[TrainState, Metrics]]:
    """One device's part of a step, to be mapped over the axis `AXIS`.

    Each device normalises with the statistics of its own crops (of all devices' if the model has
    an `axis_name`); gradients, metrics and the new running statistics are averaged.

    Metrics: `loss`; its terms by stage and unit; `gradient_norm`; and `unexplained`, the share of
    the labelled joints' targets that the last heatmaps do not have the shape of, whatever their
    height: it falls from 1 towards 0 long before the heatmaps have grown to the targets' height.
    """

    def step(state: TrainState, batch: dict[str, Any]) -> tuple[TrainState, Metrics]:
        crop_hw = batch["crops"].shape[1:3]
        heatmap_hw = (crop_hw[0] // STRIDE, crop_hw[1] // STRIDE)
        images = normalise(batch["crops"], mean_rgb, std_rgb)
        targets, keypoint_weights = heatmaps.encode(
            batch["keypoints_crop_xy"], batch["visibility"], crop_hw, heatmap_hw
        )

        def loss_of(params):
            predicted, updates = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                images,
                train=True,
                mutable=["batch_stats"],
            )
            loss, terms = mspn_loss(predicted, targets, keypoint_weights, num_hard_keypoints)
            unexplained = _unexplained(predicted[-1, -1], targets[:, -1], keypoint_weights)
            metrics = {"loss": loss, **terms, "unexplained": unexplained}
            return loss, (updates["batch_stats"], metrics)

        gradients, (batch_stats, metrics) = jax.grad(loss_of, has_aux=True)(state.params)
        gradients, batch_stats, metrics = jax.lax.pmean((gradients, batch_stats, metrics), AXIS)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        state = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        return state, metrics

    return step


def _unexplained(predicted, target, keypoint_weights):
    """1 - cos^2 of the angle between each joint's predicted and target map, weighted mean."""
    product = (predicted * target).sum((1, 2))
    squares = jnp.square(predicted).sum((1, 2)) * jnp.square(target).sum((1, 2))
    explained = jnp.square(jnp.maximum(product, 0)) / jnp.maximum(squares, 1e-6)
    counted = (keypoint_weights > 0).astype(predicted.dtype)
    return 1 - (explained * counted).sum() / jnp.maximum(counted.sum(), 1)


def on_all_devices(
    step: Callable[[TrainState, dict[str, Any]], tuple[TrainState, Metrics]],
) -> Callable[[TrainState, dict[str, Any]], tuple[TrainState, Metrics]]:
    """The step over every device of every process.

    The state stays one tree, not stacked by device; it is given away to the step. Batches are
    those of `on_this_process`; metrics come back with a leading axis of this process's devices.
    """
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=(None, 0), donate_argnums=0)


def on_this_process(batch: TrainingBatch) -> dict[str, Any]:
    """A batch's arrays with their rows dealt to this process's devices: (D, B/D, ...).

    Raises:
      ValueError: the rows do not divide among the devices.
    """
    num_devices = jax.local_device_count()
    if len(batch.crops) % num_devices:
        raise ValueError(
            f"{len(batch.crops)} crops of a batch do not divide among {num_devices} devices"
        )
    return {
        name: array.reshape(num_devices, -1, *array.shape[1:])
        for name, array in vars(batch).items()
    }
