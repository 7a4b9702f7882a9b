"""Adam and the learning rate's course: linear warm-up, then two drops."""

import jax.numpy as jnp
import optax

REFERENCE_BATCH_SIZE = 256  # the batch that a config's learning rate is meant for
WARMUP_START = 0.001  # the first step's share of the learning rate


def learning_rate_schedule(
    learning_rate: float,
    batch_size: int,
    steps_per_epoch: int,
    warmup_steps: int = 500,
    drop_epochs: tuple[float, ...] = (170, 200),
    drop_factor: float = 0.1,
) -> optax.Schedule:
    """step -> learning rate, scaled linearly with the global batch size from batch 256.

    Step 0 takes a thousandth of the rate and step `warmup_steps - 1` the whole, as torch's
    LinearLR does; each of `drop_epochs` multiplies it by `drop_factor`.
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
    """The reference's Adam: betas 0.9 and 0.999, epsilon 1e-8, no decay.

    Args:
      clip_norm: where the norm of all gradients together is above it they are scaled down to it;
        0, as in the reference, never.
    """
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    return optax.chain(clip, optax.adam(schedule, b1=0.9, b2=0.999, eps=1e-8))
