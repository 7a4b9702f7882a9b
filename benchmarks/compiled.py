"""A jitted function compiled ahead of time, and what XLA says of the program."""

import time
from typing import Any, NamedTuple

import jax
import numpy as np

from mspn_jax.training import TrainState, TrainStep


class Program(NamedTuple):
    """A compiled program for one device of those that it is mapped over.

    Attributes:
      run: the program; takes what it was compiled for.
      seconds: of tracing and compiling it.
      operations: floating-point, as written in the model: counted before XLA rewrites it.
      bytes_accessed: what its fused kernels read and write, as XLA counts them; caches are not
        thought of.
      peak_bytes: arguments, results and temporaries together, by XLA's plan.
    """

    run: Any
    seconds: float
    operations: float
    bytes_accessed: float
    peak_bytes: int


def compiled(jitted: Any, *arguments: Any) -> Program:
    """Compiles a function of `jax.jit` for arguments like these."""
    start = time.perf_counter()
    lowered = jitted.lower(*arguments)
    run = lowered.compile()
    seconds = time.perf_counter() - start
    written, made, memory = lowered.cost_analysis(), run.cost_analysis(), run.memory_analysis()
    peak_bytes = (
        memory.argument_size_in_bytes + memory.output_size_in_bytes
        - memory.alias_size_in_bytes + memory.temp_size_in_bytes
    )  # fmt: skip
    return Program(run, seconds, written["flops"], made["bytes accessed"], peak_bytes)


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
        gradients.operations + update.operations,
        gradients.bytes_accessed + update.bytes_accessed,
        max(gradients.peak_bytes + idle, update.peak_bytes),
    )


def two_programs(step: TrainStep, state: TrainState, batch: dict[str, Any]) -> list[tuple]:
    """(jitted, *arguments) of a CPU's step: gradients are like parameters."""
    variables = state.params, state.batch_stats
    loss = jax.ShapeDtypeStruct((), np.float32, sharding=state.step.sharding)
    return [(step.gradients, *variables, batch), (step.update, state, *variables, loss)]
