"""All that only a CPU needs: nothing here takes part in a program for a GPU or a TPU."""

import dataclasses
import functools
import importlib.metadata
import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mspn_jax import allocator


def prepare() -> None:
    """Makes the process keep freed arrays, if JAX will compute on the CPU.

    Call it before there are threads, and so before JAX finds its devices.
    """
    platforms = jax.config.jax_platforms  # type: ignore[attr-defined]
    if platforms:
        is_alone = platforms == "cpu"
    else:
        plugins = importlib.metadata.entry_points(group="jax_plugins")
        is_alone = not plugins and importlib.util.find_spec("libtpu") is None
    # Threads that share an arena can wait for each other, so a GPU's or TPU's host does without.
    allocator.keep_freed_memory(of_threads=is_alone)


def pointwise_convolution(
    x: Float[Array, "B H W I"], kernel: Float[Array, "1 1 I O"], stride: int
) -> Float[Array, "B h w O"]:
    """A 1x1 convolution as a product of two matrices.

    XLA's CPU backend is slow in the gradients of 1x1 convolutions. It is slow in those of products
    of arrays with four axes, too, whose operands it transposes first.
    """
    x = x[:, ::stride, ::stride]
    product = jnp.matmul(
        x.reshape(-1, x.shape[-1]), kernel[0, 0], precision=jax.lax.Precision.HIGHEST
    )
    return product.reshape(*x.shape[:-1], kernel.shape[-1])


def owned(tree: Any) -> Any:
    """Copies NumPy arrays into buffers of JAX's own.

    On CPU, JAX aliases 64-byte-aligned NumPy buffers, and aliased buffers cannot be donated.
    """
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else jnp.array(leaf), tree)


@functools.cache
def compiler_options() -> dict[str, Any]:
    """XLA's options for programs that run the network on a CPU, for `jax.jit`.

    By default XLA leaves convolutions, products and sums to YNN. Eigen, its other library, computes
    convolutions faster; its products are as fast and load sooner (docs/benchmarks.md).
    """
    return _if_known({"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"})


def _if_known(options: dict[str, Any]) -> dict[str, Any]:
    """The options, or none where this XLA does not have them: its experiments come and go."""
    cpu = jax.local_devices(backend="cpu")[0]
    try:
        with jax.default_device(cpu):
            jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return options


def two_programs(step: Any) -> Any:
    """A `training.TrainStep` over devices, its gradients and its update jitted apart.

    On CPU, the time to load a program from JAX's cache grows with the square of its size
    (docs/benchmarks.md). The numbers are those of one program: no parameter can change before the
    norm of all gradients is known.
    """
    options = compiler_options()
    return dataclasses.replace(
        step,
        gradients=jax.jit(step.gradients, compiler_options=options),
        update=jax.jit(step.update, donate_argnums=0, compiler_options=options),
    )
