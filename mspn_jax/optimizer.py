"""Adam, and learning rates with a linear warm-up: step drops, a line, or a cosine.

Source: mmpose 1.3.2 for Adam and the step drops; the original authors' code for the line.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

REFERENCE_BATCH_SIZE = 256  # a config's learning rate holds for this global batch
WARMUP_START = 0.001  # factor on the learning rate at the first step


def learning_rate_schedule(
    learning_rate: float,
    batch_size: int,
    steps_per_epoch: int,
    warmup_steps: int = 500,
    drop_epochs: tuple[float, ...] = (170, 200),
    drop_factor: float = 0.1,
) -> optax.Schedule:
    """A schedule: step -> learning rate.

    The peak is `learning_rate * batch_size / 256`. The factor rises linearly from 0.001 at step 0
    to 1 at step `warmup_steps - 1`, as in torch's LinearLR. At each of `drop_epochs` the rate is
    multiplied by `drop_factor`.
    """
    peak = learning_rate * batch_size / REFERENCE_BATCH_SIZE
    drop_steps = [epoch * steps_per_epoch for epoch in drop_epochs]

    def schedule(step):
        last_warmup_step = max(warmup_steps - 1, 1)
        progress = jnp.minimum(step, last_warmup_step) / last_warmup_step
        warmup = WARMUP_START + (1 - WARMUP_START) * progress if warmup_steps else 1.0
        drops = sum(jnp.where(step >= drop, 1, 0) for drop in drop_steps)
        return peak * warmup * drop_factor**drops

    return schedule


def linear_schedule(
    learning_rate: float, batch_size: int, num_steps: int, warmup_share: float
) -> optax.Schedule:
    """A schedule that fits a run of any length: step -> learning rate.

    The rate rises linearly from 0.001 of its peak over `warmup_share` of the run, and falls
    linearly to 0 at its end. The peak is `learning_rate * batch_size / 256`.
    """
    peak = learning_rate * batch_size / REFERENCE_BATCH_SIZE
    warmup_steps = round(warmup_share * num_steps)
    rise = optax.linear_schedule(peak * WARMUP_START, peak, max(warmup_steps, 1))
    fall = optax.linear_schedule(peak, 0.0, max(num_steps - warmup_steps, 1))
    return optax.join_schedules([rise, fall], [warmup_steps])


def cosine_schedule(
    learning_rate: float, batch_size: int, num_steps: int, warmup_share: float
) -> optax.Schedule:
    """A schedule that fits a run of any length: step -> learning rate.

    The rate rises linearly from 0.001 of its peak over `warmup_share` of the run, and falls to 0 at
    its end by half a cosine. The peak is `learning_rate * batch_size / 256`.
    """
    peak = learning_rate * batch_size / REFERENCE_BATCH_SIZE
    warmup_steps = round(warmup_share * num_steps)
    return optax.warmup_cosine_decay_schedule(
        peak * (WARMUP_START if warmup_steps else 1),
        peak,
        warmup_steps=warmup_steps,
        decay_steps=max(num_steps, warmup_steps + 1),
    )


def adam(
    schedule: optax.ScalarOrSchedule,
    clip_norm: float = 0.0,
    rate_of: Callable[[tuple[str, ...]], float] | None = None,
) -> optax.GradientTransformation:
    """The reference's Adam: betas 0.9 and 0.999, epsilon 1e-8, no weight decay.

    Args:
      clip_norm: gradients with a larger global norm are scaled down to it. 0, as in the
        reference, does not clip.
      rate_of: the path of a parameter -> factor on its learning rate; None: 1 for all.
    """
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    plain = optax.chain(clip, optax.adam(schedule, b1=0.9, b2=0.999, eps=1e-8))
    if rate_of is None:
        return plain

    # Not another link of the chain: the state would have another form, and a run that was started
    # without factors could not continue with them.
    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = plain.update(gradients, state, params)
        scaled = jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf * rate_of(tuple(key.key for key in path)), updates
        )
        return scaled, state

    return optax.GradientTransformation(plain.init, update)
