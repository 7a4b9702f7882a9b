"""Arrays on many devices, and functions that each device runs on its part of them.

The devices form a mesh with one axis, `AXIS`. An array is either replicated, whole on each of them,
or sharded: its rows, along the leading axis, in equal parts and in the devices' order. This is what
`jax.pmap` did; `jax.shard_map` is its successor, and since JAX 0.8 `pmap` is a wrapper of it.
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


def replicate(tree: Any, devices: Devices = None) -> Any:
    """Puts a whole copy on each device. With several processes, each passes the same arrays."""
    return _put(cpu.owned(tree) if _are_cpus(devices) else tree, REPLICATED, devices)


def shard(tree: Any, devices: Devices = None) -> Any:
    """Deals rows to the devices. With several processes, each passes the rows of its own devices.

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

    Compiled once for each shape. Do not call it in another jitted function, whose compiler options
    would be others. Outputs declared REPLICATED must already be equal on all devices (use
    `jax.lax.pmean(..., AXIS)`).

    Args:
      in_specs, out_specs: REPLICATED or SHARDED, for each argument and each result.
    """
    return jit(map_over(function, in_specs, out_specs, devices), devices)


def map_over(function: Callable, in_specs: Any, out_specs: Any, devices: Devices = None) -> Any:
    """`on_each_device` before it is jitted: a part of a larger program."""
    return jax.shard_map(
        function, mesh=_mesh(devices), in_specs=in_specs, out_specs=out_specs, check_vma=False
    )


def jit(function: Callable, devices: Devices = None) -> Any:
    """`jax.jit`, with the compiler options for these devices."""
    options = cpu.compiler_options() if _are_cpus(devices) else {}
    return jax.jit(function, compiler_options=options)


def jit_step(step: Callable, devices: Devices = None) -> Any:
    """A training step, (state, batch) -> (state, metrics), jitted; the state is donated."""
    if _are_cpus(devices):
        return cpu.two_programs(step)
    return jax.jit(step, donate_argnums=0)


def _put(tree: Any, spec: PartitionSpec, devices: Devices) -> Any:
    return jax.make_array_from_process_local_data(sharding(spec, devices), tree)


def _mesh(devices: Devices) -> Mesh:
    return Mesh(np.array(jax.devices() if devices is None else devices), (AXIS,))


def _are_cpus(devices: Devices) -> bool:
    return (jax.devices() if devices is None else devices)[0].platform == "cpu"
