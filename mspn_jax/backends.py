"""What computes a predictor's network: JAX on its device, or onnxruntime on the CPU.

onnxruntime runs the graph of `mspn export --format onnx`, up to the heatmaps. On a CPU it is faster
than XLA (docs/benchmarks.md). Both ways decode with `heatmaps.decode`.
"""

import concurrent.futures
import functools
import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, UInt8

from mspn_jax import cpu, devices, heatmaps, inference
from mspn_jax.errors import UsageError
from mspn_jax.export import formats
from mspn_jax.export.formats import Deployment
from mspn_jax.model import STRIDE
from mspn_jax.onnx_session import CPU_PROVIDER

BACKENDS = ("jax", "onnxruntime")

# Waits for keypoints_crop_xy and keypoint_scores.
Wait = Callable[[], tuple[Float32[np.ndarray, "B K 2"], Float32[np.ndarray, "B K"]]]
# Starts to compute the keypoints of crops.
Start = Callable[[UInt8[np.ndarray, "B H W 3"]], Wait]

log = logging.getLogger(__name__)


def choose(backend: str | None, dtype: Any) -> str:
    """A name of `BACKENDS`.

    Args:
      backend: such a name. None: onnxruntime if JAX's default device is a CPU, `dtype` is float32
        and onnx is installed, else JAX.
      dtype: of the convolutions.

    Raises:
      UsageError: there is no such backend, it cannot compute in this dtype, or onnx is missing.
    """
    is_float32 = jnp.dtype(dtype) == jnp.float32
    if backend is None:
        is_faster = devices.are_cpus() and is_float32
        return "onnxruntime" if is_faster and not _missing_package() else "jax"
    if backend not in BACKENDS:
        raise UsageError(f"backend {backend!r}: must be {' or '.join(BACKENDS)}")
    if backend == "onnxruntime" and not is_float32:
        raise UsageError("backend onnxruntime: computes in float32; choose it, or backend jax")
    if backend == "onnxruntime" and (missing := _missing_package()):
        raise UsageError(
            f"backend onnxruntime: {missing} is not installed: pip install 'mspn-jax[onnx]'"
        )
    return backend


def _missing_package() -> str | None:
    """The package without which onnxruntime cannot run the network."""
    try:
        import onnx  # noqa: F401  (it writes the graph)
        import onnxruntime  # noqa: F401
    except ImportError as error:
        return error.name or str(error)
    return None


def open_network(backend: str, deployment: Deployment, decoding: str) -> Start:
    """The function that estimates keypoints.

    Args:
      backend: of `BACKENDS`.
      deployment: the network, for any batch and without decoding.
      decoding: as in `heatmaps.decode`.

    Raises:
      CheckpointError: the network has fewer stages.
    """
    open_on = {"jax": _on_jax, "onnxruntime": _on_onnxruntime}[backend]
    return open_on(deployment, decoding)


def batch_sizes(backend: str, count: int) -> list[int]:
    """The sizes of the batches for so many crops. onnxruntime's are a CPU's on any machine."""
    return cpu.batch_sizes(count) if backend == "onnxruntime" else devices.batch_sizes(count)


def _on_jax(deployment: Deployment, decoding: str) -> Start:
    model, variables = deployment.network()
    flip_permutation = deployment.description.new_skeleton().flip_permutation
    flip_test = deployment.flip_test  # alone: the deployment holds unfolded variables

    def estimate(variables: Any, crops: UInt8[jax.Array, "B H W 3"]):
        return inference.estimate(model, variables, crops, flip_permutation, flip_test, decoding)

    run = functools.partial(devices.jit(estimate), jax.device_put(variables))
    log.info("%s: runs on JAX (%s)", deployment.description.variant, jax.default_backend())
    return lambda crops: functools.partial(jax.device_get, run(crops))


def _on_onnxruntime(deployment: Deployment, decoding: str) -> Start:
    run = formats.open_onnx(formats.to_onnx(deployment))
    decode = devices.jit(
        functools.partial(
            heatmaps.decode, stride=STRIDE, decoding=decoding, merged=deployment.flip_test
        )
    )
    # A call of onnxruntime returns when it is done.
    thread = concurrent.futures.ThreadPoolExecutor(1, "onnxruntime")
    log.info("%s: runs on onnxruntime's %s", deployment.description.variant, CPU_PROVIDER)
    return lambda crops: thread.submit(lambda: jax.device_get(decode(*run(crops)))).result
