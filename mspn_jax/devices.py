"""Data parallelism: arrays on many devices, and functions that each device runs on its part.

The devices form a mesh with one axis, `AXIS`. An array is either replicated (a copy on each device)
or sharded (equal parts of its leading axis, in the devices' order). `jax.pmap` did the same;
`jax.shard_map` is its successor, and since JAX 0.8 `pmap` is a wrapper of it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mspn_jax import cpu

AXIS = "batch"
REPLICATED, SHARDED = PartitionSpec(), PartitionSpec(AXIS)

Devices = Sequence[jax.Device] | None  # None: all of every process

# By default XLA skips rounding to bfloat16 between two operations, and then stores float32.
_COMPILER_OPTIONS = {"xla_allow_excess_precision": False}

_BATCH_SIZES = (1, 2, 4, 8, 16, 32)  # few programs, and less than half of a batch is padding


def replicate(tree: Any, devices: Devices = None) -> Any:
    """Copies arrays to each device. With several processes, each passes the same arrays."""
    return _put(cpu.owned(tree) if are_cpus(devices) else tree, REPLICATED, devices)


def shard(tree: Any, devices: Devices = None) -> Any:
    """Splits rows over the devices. With several processes, each passes its own devices' rows.

    Raises:
      ValueError: the rows do not divide among the devices.
    """
    return _put(tree, SHARDED, devices)


def sharding(spec: PartitionSpec, devices: Devices = None) -> NamedSharding:
    """REPLICATED or SHARDED over the devices."""
    return NamedSharding(_mesh(devices), spec)


def on_each_device(
    function: Callable, in_specs: Any, out_specs: Any, devices: Devices = None
) -> Any:
    """A jitted function that every device runs on its part of the arguments.

    Do not call it in another jitted function: that one's compiler options would apply. Outputs
    declared REPLICATED must already be equal on all devices (use `jax.lax.pmean(..., AXIS)`).

    Args:
      in_specs, out_specs: REPLICATED or SHARDED, for each argument and each result.
    """
    return jit(map_over(function, in_specs, out_specs, devices), devices)


def map_over(function: Callable, in_specs: Any, out_specs: Any, devices: Devices = None) -> Any:
    """`on_each_device` without the `jit`, for use in a larger program."""
    return jax.shard_map(
        function, mesh=_mesh(devices), in_specs=in_specs, out_specs=out_specs, check_vma=False
    )


def jit(function: Callable, devices: Devices = None) -> Any:
    """`jax.jit`, with the compiler options for these devices."""
    options = cpu.compiler_options() if are_cpus(devices) else _COMPILER_OPTIONS
    return jax.jit(function, compiler_options=options)


def jit_step(step: Callable, devices: Devices = None) -> Any:
    """Jits a training step, (state, batch) -> (state, metrics). The state is donated."""
    if are_cpus(devices):
        return cpu.two_programs(step)
    return jax.jit(step, donate_argnums=0, compiler_options=_COMPILER_OPTIONS)


def are_cpus(devices: Devices = None) -> bool:
    """Whether these devices are CPUs."""
    return (jax.devices() if devices is None else devices)[0].platform == "cpu"


def batch_sizes(count: int) -> list[int]:
    """The sizes of the batches in which so many crops go to the default device.

    On GPU and TPU the last batch is padded. On CPU none is.
    """
    if are_cpus():
        return cpu.batch_sizes(count)
    full, rest = divmod(count, _BATCH_SIZES[-1])
    padded = [next(size for size in _BATCH_SIZES if size >= rest)] if rest else []
    return full * [_BATCH_SIZES[-1]] + padded


def _put(tree: Any, spec: PartitionSpec, devices: Devices) -> Any:
    return jax.make_array_from_process_local_data(sharding(spec, devices), tree)


def _mesh(devices: Devices) -> Mesh:
    return Mesh(np.array(jax.devices() if devices is None else devices), (AXIS,))
