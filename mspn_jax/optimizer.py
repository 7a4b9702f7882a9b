"""Adam, and a learning rate with a linear warm-up and step drops. Source: mmpose 1.3.2."""

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


def adam(schedule: optax.ScalarOrSchedule, clip_norm: float = 0.0) -> optax.GradientTransformation:
    """The reference's Adam: betas 0.9 and 0.999, epsilon 1e-8, no weight decay.

    Args:
      clip_norm: gradients with a larger global norm are scaled down to it. 0, as in the
        reference, does not clip.
    """
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    return optax.chain(clip, optax.adam(schedule, b1=0.9, b2=0.999, eps=1e-8))
