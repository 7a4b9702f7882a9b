"""A jitted function compiled ahead of time, and what XLA says of the program."""

from typing import Any, NamedTuple

import jax
import numpy as np

import mspn_jax.compiled
from mspn_jax.training import TrainState, TrainStep


class Program(NamedTuple):
    """A compiled program for one device of those that it is mapped over.

    Attributes:
      run, seconds, peak_bytes, bytes_moved: see `mspn_jax.compiled.Program`.
      operations: floating-point, as written in the model: counted before XLA rewrites it.
    """

    run: Any
    seconds: float
    peak_bytes: int
    bytes_moved: float
    operations: float


def compiled(jitted: Any, *arguments: Any) -> Program:
    """Compiles a function of `jax.jit` for arguments like these."""
    made = mspn_jax.compiled.compiled(jitted, *arguments)
    return Program(*made, jitted.lower(*arguments).cost_analysis()["flops"])


def compiled_step(step: Any, state: TrainState, batch: dict[str, Any]) -> Program:
    """Compiles a step `on_all_devices`. Its `run` is the step.

    On a CPU it is two programs, counted together. While the gradients are computed the optimiser's
    arrays lie in memory too.
    """
    if not isinstance(step, TrainStep):
        return compiled(step, state, batch)
    gradients, update = (compiled(*each) for each in two_programs(step, state, batch))
    idle = sum(leaf.nbytes for leaf in jax.tree.leaves((state.opt_state, state.ema_params)))
    return Program(
        TrainStep(gradients.run, update.run),
        gradients.seconds + update.seconds,
        max(gradients.peak_bytes + idle, update.peak_bytes),
        gradients.bytes_moved + update.bytes_moved,
        gradients.operations + update.operations,
    )


def two_programs(step: TrainStep, state: TrainState, batch: dict[str, Any]) -> list[tuple]:
    """(jitted, *arguments) of a CPU's step: gradients are like parameters."""
    variables = state.params, state.batch_stats
    loss = jax.ShapeDtypeStruct((), np.float32, sharding=state.step.sharding)
    return [(step.gradients, *variables, batch), (step.update, state, *variables, loss)]
