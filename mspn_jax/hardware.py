"""Devices that programs can be compiled for on a machine that has none of them.

XLA's compilers for TPU and NVIDIA run on any x86-64 Linux machine. What they say of a program's
memory and traffic is theirs; the figures of the devices are from NVIDIA's and Google's data sheets.
"""

import dataclasses
import importlib.metadata
import importlib.util
import math
import os
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from mspn_jax.errors import MissingCompilerError

# Of a GPU's memory, what JAX takes unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
GPU_MEMORY_FRACTION = 0.75

INSTALL = "pip install 'mspn-jax[compile]'"


@dataclasses.dataclass(frozen=True)
class Hardware:
    """A kind of device.

    Attributes:
      name: short, as the command line takes it.
      kind: `jax.Device.device_kind`.
      platform: JAX's.
      memory_bytes: of one device.
      bytes_per_second: of its memory.
      bfloat16_flops, float32_flops: a second, of dense products. float32 products are those of
        precision HIGHEST: no TF32 on a GPU, six bfloat16 passes on a TPU.
    """

    name: str
    kind: str
    platform: Literal["cuda", "tpu"]
    memory_bytes: float
    bytes_per_second: float
    bfloat16_flops: float
    float32_flops: float

    @property
    def usable_bytes(self) -> float:
        """What a program can have. Of a TPU the compiler already leaves out its own share."""
        return self.memory_bytes * (GPU_MEMORY_FRACTION if self.platform == "cuda" else 1)

    def flops(self, dtype: Any) -> float:
        return self.bfloat16_flops if jnp.dtype(dtype) == jnp.bfloat16 else self.float32_flops


@dataclasses.dataclass(frozen=True)
class Gpu(Hardware):
    """An NVIDIA GPU, with what XLA's compiler asks of it.

    Attributes:
      capability: CUDA's compute capability.
      num_cores: streaming multiprocessors.
      shared_kib: shared memory of a core; a block can have one KiB less.
      threads: that a core holds.
      l2_mib: cache.
      clock_ghz: at most.
    """

    capability: tuple[int, int]
    num_cores: int
    shared_kib: int
    threads: int
    l2_mib: int
    clock_ghz: float

    def target(self) -> str:
        """XLA's GpuTargetConfigProto, as text."""
        major, minor = self.capability
        return f"""gpu_device_info {{
          threads_per_block_limit: 1024 threads_per_warp: 32
          shared_memory_per_block: 49152 shared_memory_per_core: {self.shared_kib * 1024}
          shared_memory_per_block_optin: {(self.shared_kib - 1) * 1024}
          threads_per_core_limit: {self.threads} core_count: {self.num_cores} fpus_per_core: 128
          block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
          memory_bandwidth: {self.bytes_per_second:.0f} l2_cache_size: {self.l2_mib << 20}
          clock_rate_ghz: {self.clock_ghz} device_memory_size: {self.memory_bytes:.0f}
          cuda_compute_capability {{ major: {major} minor: {minor} }}
          registers_per_core_limit: 65536 registers_per_block_limit: 65536 }}
        platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 patch: 2 }}
        device_description_str: "{self.kind}" """


@dataclasses.dataclass(frozen=True)
class Tpu(Hardware):
    """A TPU.

    Attributes:
      slices: shapes of the slices there are, smaller ones first.
    """

    slices: tuple[tuple[int, ...], ...]


_FLAT = ((2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_CUBES = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4), (4, 4, 4), (4, 4, 8), (4, 8, 8))
_GIB = 2**30

HARDWARE: dict[str, Gpu | Tpu] = {
    each.name: each
    for each in (
        Gpu("h100", "NVIDIA H100 80GB HBM3", "cuda", 84978958336, 3.352e12, 989e12, 67e12,
            (9, 0), num_cores=132, shared_kib=228, threads=2048, l2_mib=50, clock_ghz=1.98),
        Gpu("h200", "NVIDIA H200", "cuda", 150.1e9, 4.8e12, 989e12, 67e12,
            (9, 0), num_cores=132, shared_kib=228, threads=2048, l2_mib=50, clock_ghz=1.98),
        Gpu("a100", "NVIDIA A100-SXM4-80GB", "cuda", 84987740160, 2.039e12, 312e12, 19.5e12,
            (8, 0), num_cores=108, shared_kib=164, threads=2048, l2_mib=40, clock_ghz=1.41),
        Gpu("a100-40", "NVIDIA A100-SXM4-40GB", "cuda", 42.3e9, 1.555e12, 312e12, 19.5e12,
            (8, 0), num_cores=108, shared_kib=164, threads=2048, l2_mib=40, clock_ghz=1.41),
        Gpu("l4", "NVIDIA L4", "cuda", 23.6e9, 0.3e12, 121e12, 30.3e12,
            (8, 9), num_cores=58, shared_kib=100, threads=1536, l2_mib=48, clock_ghz=2.04),
        Tpu("v5e", "TPU v5 lite", "tpu", 15.75 * _GIB, 0.819e12, 197e12, 197e12 / 6, _FLAT),
        Tpu("v5p", "TPU v5", "tpu", 95.73 * _GIB, 2.765e12, 459e12, 459e12 / 6, _CUBES),
        Tpu("v6e", "TPU v6 lite", "tpu", 31.24 * _GIB, 1.64e12, 918e12, 918e12 / 6, _FLAT),
    )
}  # fmt: skip


def check_compiler(hardware: Gpu | Tpu, count: int) -> None:
    """
    Raises:
      MissingCompilerError: libtpu or JAX's plugin for CUDA is not installed.
      ValueError: there is no slice of so many.
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
    """Devices to lower and compile for, as arguments of `devices.on_each_device`; nothing runs.

    Args:
      count: on a TPU the first of the smallest slice that has so many.

    Raises:
      MissingCompilerError, ValueError: as from `check_compiler`.
    """
    check_compiler(hardware, count)
    if isinstance(hardware, Gpu):
        hosts, on_each = math.ceil(count / 8), min(count, 8)
        return topologies.get_topology_desc(
            "any", "cuda", topology=f"1x{hosts}x{on_each}", target_config=hardware.target()
        ).devices[:count]

    shape = next(shape for shape in hardware.slices if math.prod(shape) >= count)
    # Without these libtpu asks Google's metadata server which machine this is.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    # Nor does it look for a TPU that another process may have.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    name = f"{hardware.name}:{'x'.join(map(str, shape))}"
    return topologies.get_topology_desc(name, "tpu").devices[:count]
