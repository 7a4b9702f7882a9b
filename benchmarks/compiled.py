"""A jitted function compiled ahead of time, and what XLA says of the program."""

import time
from typing import Any, NamedTuple

import jax

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


def compiled_step(step: TrainStep, state: TrainState, batch: dict[str, Any]) -> Program:
    """Compiles both halves of a step `on_all_devices`, and counts them together.

    Its `run` is a step. While the gradients are computed the optimiser's arrays lie in memory too.
    """
    gradients, update = (compiled(half, *given) for half, given in step.halves(state, batch))
    idle = sum(leaf.nbytes for leaf in jax.tree.leaves((state.opt_state, state.ema_params)))
    return Program(
        TrainStep(gradients.run, update.run),
        gradients.seconds + update.seconds,
        gradients.operations + update.operations,
        gradients.bytes_accessed + update.bytes_accessed,
        max(gradients.peak_bytes + idle, update.peak_bytes),
    )
