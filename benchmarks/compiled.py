"""Compiles a jitted function ahead of time, and asks XLA for its cost."""

from typing import Any, NamedTuple

import jax
import numpy as np

import mspn_jax.compiled
from mspn_jax.training import TrainState, TrainStep


class Program(NamedTuple):
    """A compiled program, and its cost on one device.

    Attributes:
      run, seconds, peak_bytes, bytes_moved: see `mspn_jax.compiled.Program`.
      operations: floating-point operations of the model as written, before XLA optimises it.
    """

    run: Any
    seconds: float
    peak_bytes: int
    bytes_moved: float
    operations: float


def compiled(jitted: Any, *arguments: Any) -> Program:
    """Compiles a jitted function for arguments of these shapes."""
    made = mspn_jax.compiled.compiled(jitted, *arguments)
    return Program(*made, jitted.lower(*arguments).cost_analysis()["flops"])


def compiled_step(step: Any, state: TrainState, batch: dict[str, Any]) -> Program:
    """Compiles a training step of `on_all_devices`.

    On a CPU it is two programs, and the result is their sum. The optimiser's arrays stay in memory
    while the gradients are computed.
    """
    if not isinstance(step, TrainStep):
        return compiled(step, state, batch)
    variables = state.params, state.batch_stats
    loss = jax.ShapeDtypeStruct((), np.float32, sharding=state.step.sharding)
    gradients = compiled(step.gradients, *variables, batch)
    update = compiled(step.update, state, *variables, loss)  # gradients are as large as parameters
    idle = sum(leaf.nbytes for leaf in jax.tree.leaves((state.opt_state, state.ema_params)))
    return Program(
        TrainStep(gradients.run, update.run),
        gradients.seconds + update.seconds,
        max(gradients.peak_bytes + idle, update.peak_bytes),
        gradients.bytes_moved + update.bytes_moved,
        gradients.operations + update.operations,
    )
