"""Arrays on many devices, and functions that each device runs on its part of them.

The devices are one row, the mesh axis `AXIS`. An array is either replicated, whole on each of them,
or sharded: its rows, along the leading axis, in equal parts and in the devices' order.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mspn_jax import xla

AXIS = "batch"
REPLICATED, SHARDED = PartitionSpec(), PartitionSpec(AXIS)

Devices = Sequence[jax.Device] | None  # None: all of every process


def replicate(tree: Any, devices: Devices = None) -> Any:
    """Puts a whole copy on each device. With several processes, each passes the same arrays."""
    # On CPU, JAX aliases 64-byte-aligned NumPy buffers, and aliased buffers cannot be donated.
    owned = jax.tree.map(
        lambda leaf: leaf if isinstance(leaf, jax.Array) else jnp.array(leaf), tree
    )
    return _put(owned, REPLICATED, devices)


def shard(tree: Any, devices: Devices = None) -> Any:
    """Rows dealt to the devices; of several processes each gives the rows of its own.

    Raises:
      ValueError: the rows do not divide among the devices.
    """
    return _put(tree, SHARDED, devices)


def on_each_device(
    function: Callable, in_specs: Any, out_specs: Any, devices: Devices = None
) -> Any:
    """A function jitted such that every device runs it on its part of the arguments.

    Compiled once for each shape; not to be called in another jitted function, whose options for XLA
    would be others. Of what it returns as REPLICATED the function itself must see to it that all
    devices have the same, as by `jax.lax.pmean(..., AXIS)`.

    Args:
      in_specs, out_specs: REPLICATED or SHARDED, for each argument and each result.
    """
    mapped = jax.shard_map(
        function, mesh=_mesh(devices), in_specs=in_specs, out_specs=out_specs, check_vma=False
    )
    return jax.jit(mapped, compiler_options=xla.compiler_options())


def _put(tree: Any, spec: PartitionSpec, devices: Devices) -> Any:
    return jax.make_array_from_process_local_data(NamedSharding(_mesh(devices), spec), tree)


def _mesh(devices: Devices) -> Mesh:
    return Mesh(np.array(jax.devices() if devices is None else devices), (AXIS,))
