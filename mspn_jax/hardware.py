"""Devices that a program can be compiled for on a machine that has none of them.

XLA's compilers for TPU and NVIDIA run on any x86-64 Linux machine. Peaks and bandwidths come from
NVIDIA's and Google's data sheets.
"""

import dataclasses
import importlib.metadata
import importlib.util
import math
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from mspn_jax.errors import MissingCompilerError

# The share of a GPU's memory that JAX takes by default (XLA_PYTHON_CLIENT_MEM_FRACTION).
GPU_MEMORY_FRACTION = 0.75

INSTALL = "pip install 'mspn-jax[compile]'"


@dataclasses.dataclass(frozen=True)
class Hardware:
    """A kind of device.

    Attributes:
      name: short name, for the command line.
      kind: `jax.Device.device_kind`.
      memory_bytes: memory of one device.
      bytes_per_second: bandwidth of that memory.
      bfloat16_flops, float32_flops: dense products a second. float32 products have precision
        HIGHEST: no TF32 on a GPU, six bfloat16 passes on a TPU.
    """

    name: str
    kind: str
    memory_bytes: float
    bytes_per_second: float
    bfloat16_flops: float
    float32_flops: float

    @property
    def usable_bytes(self) -> float:
        """The memory that programs can have. A TPU's `memory_bytes` excludes the system's."""
        return self.memory_bytes

    def flops(self, dtype: Any) -> float:
        """Floating-point operations a second of convolutions in this dtype."""
        return self.bfloat16_flops if jnp.dtype(dtype) == jnp.bfloat16 else self.float32_flops


@dataclasses.dataclass(frozen=True)
class Chip:
    """What XLA's compiler for NVIDIA asks of a GPU.

    Attributes:
      capability: CUDA's compute capability.
      num_cores: streaming multiprocessors.
      shared_kib: shared memory of a core. A block can have one KiB less.
      threads: threads that a core holds.
      l2_mib: size of the L2 cache.
      clock_ghz: maximum clock rate.
    """

    capability: tuple[int, int]
    num_cores: int
    shared_kib: int
    threads: int
    l2_mib: int
    clock_ghz: float


@dataclasses.dataclass(frozen=True)
class Gpu(Hardware):
    """An NVIDIA GPU."""

    chip: Chip

    @property
    def usable_bytes(self) -> float:
        return self.memory_bytes * GPU_MEMORY_FRACTION

    def target(self) -> str:
        """XLA's GpuTargetConfigProto, as text."""
        chip = self.chip
        major, minor = chip.capability
        return f"""gpu_device_info {{
          threads_per_block_limit: 1024 threads_per_warp: 32
          shared_memory_per_block: 49152 shared_memory_per_core: {chip.shared_kib * 1024}
          shared_memory_per_block_optin: {(chip.shared_kib - 1) * 1024}
          threads_per_core_limit: {chip.threads} core_count: {chip.num_cores} fpus_per_core: 128
          block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
          memory_bandwidth: {self.bytes_per_second:.0f} l2_cache_size: {chip.l2_mib << 20}
          clock_rate_ghz: {chip.clock_ghz} device_memory_size: {self.memory_bytes:.0f}
          cuda_compute_capability {{ major: {major} minor: {minor} }}
          registers_per_core_limit: 65536 registers_per_block_limit: 65536 }}
        platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 patch: 2 }}
        device_description_str: "{self.kind}" """


@dataclasses.dataclass(frozen=True)
class Tpu(Hardware):
    """A TPU.

    Attributes:
      slices: shapes of the available slices, smaller ones first.
    """

    slices: tuple[tuple[int, ...], ...]


_HOPPER = Chip((9, 0), num_cores=132, shared_kib=228, threads=2048, l2_mib=50, clock_ghz=1.98)
_AMPERE = Chip((8, 0), num_cores=108, shared_kib=164, threads=2048, l2_mib=40, clock_ghz=1.41)
_ADA = Chip((8, 9), num_cores=58, shared_kib=100, threads=1536, l2_mib=48, clock_ghz=2.04)
_FLAT = ((2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_CUBES = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4), (4, 4, 4), (4, 4, 8), (4, 8, 8))
_GIB = 2**30

# name, kind, memory bytes, bytes a second, bfloat16 and float32 operations a second
_DEVICES = (
    Gpu("h100", "NVIDIA H100 80GB HBM3", 84978958336, 3.352e12, 989e12, 67e12, _HOPPER),
    Gpu("h200", "NVIDIA H200", 150.1e9, 4.8e12, 989e12, 67e12, _HOPPER),
    Gpu("a100", "NVIDIA A100-SXM4-80GB", 84987740160, 2.039e12, 312e12, 19.5e12, _AMPERE),
    Gpu("a100-40", "NVIDIA A100-SXM4-40GB", 42.3e9, 1.555e12, 312e12, 19.5e12, _AMPERE),
    Gpu("l4", "NVIDIA L4", 23.6e9, 0.3e12, 121e12, 30.3e12, _ADA),
    Tpu("v5e", "TPU v5 lite", 15.75 * _GIB, 0.819e12, 197e12, 197e12 / 6, _FLAT),
    Tpu("v5p", "TPU v5", 95.73 * _GIB, 2.765e12, 459e12, 459e12 / 6, _CUBES),
    Tpu("v6e", "TPU v6 lite", 31.24 * _GIB, 1.64e12, 918e12, 918e12 / 6, _FLAT),
)
HARDWARE: dict[str, Gpu | Tpu] = {device.name: device for device in _DEVICES}


def check_compiler(hardware: Gpu | Tpu, count: int) -> None:
    """Checks that `count` devices can be compiled for.

    Raises:
      MissingCompilerError: libtpu or JAX's plugin for CUDA is not installed.
      ValueError: no slice has so many devices.
    """
    if isinstance(hardware, Gpu):
        plugins = importlib.metadata.entry_points(group="jax_plugins")
        if not any("cuda" in plugin.name for plugin in plugins):
            raise MissingCompilerError(
                f"{hardware.name}: JAX's plugin for CUDA is not installed: {INSTALL}"
            )
    elif importlib.util.find_spec("libtpu") is None:
        raise MissingCompilerError(f"{hardware.name}: libtpu is not installed: {INSTALL}")
    elif (most := math.prod(hardware.slices[-1])) < count:
        raise ValueError(f"{hardware.name}: at most {most} devices, not {count}")


def absent_devices(hardware: Gpu | Tpu, count: int) -> Sequence[jax.Device]:
    """Devices to compile for, as arguments of `devices.on_each_device`. Nothing can run on them.

    TPUs are the first of the smallest slice that has `count`. Errors are those of `check_compiler`.
    """
    check_compiler(hardware, count)
    if isinstance(hardware, Gpu):
        hosts, on_each = math.ceil(count / 8), min(count, 8)
        return topologies.get_topology_desc(
            "any", "cuda", topology=f"1x{hosts}x{on_each}", target_config=hardware.target()
        ).devices[:count]

    shape = next(shape for shape in hardware.slices if math.prod(shape) >= count)
    # Without these libtpu asks Google's metadata server for the machine's type.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    # libtpu must not look for a TPU, which another process may hold.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    name = f"{hardware.name}:{'x'.join(map(str, shape))}"
    return topologies.get_topology_desc(name, "tpu").devices[:count]
