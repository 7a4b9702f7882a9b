"""What only a CPU needs. Nothing here takes part in a program for a GPU or a TPU."""

import dataclasses
import functools
import importlib.metadata
import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from mspn_jax import allocator


def prepare() -> None:
    """Makes the process keep freed memory; that of threads, too, if JAX will compute on the CPU.

    Call it before any thread starts, so before JAX initialises its backends.
    """
    platforms = jax.config.jax_platforms  # type: ignore[attr-defined]
    if platforms:
        is_alone = platforms == "cpu"
    else:
        plugins = importlib.metadata.entry_points(group="jax_plugins")
        is_alone = not plugins and importlib.util.find_spec("libtpu") is None
    # Threads that share an arena contend for its lock. The host of a GPU or TPU keeps one each.
    allocator.keep_freed_memory(of_threads=is_alone)


def pointwise_convolution(
    x: Float[jax.Array, "B H W I"], kernel: Float[jax.Array, "1 1 I O"], stride: int
) -> Float[jax.Array, "B h w O"]:
    """A 1x1 convolution as a product of two matrices.

    XLA's CPU backend is slow in the gradients of 1x1 convolutions. It is also slow in those of
    products of 4-D arrays, whose operands it transposes first.
    """
    x = x[:, ::stride, ::stride]
    product = jnp.matmul(
        x.reshape(-1, x.shape[-1]), kernel[0, 0], precision=jax.lax.Precision.HIGHEST
    )
    return product.reshape(*x.shape[:-1], kernel.shape[-1])


def batch_sizes(count: int) -> list[int]:
    """The sizes of batches for so many crops, without padding.

    On a CPU a crop takes as long alone as in a batch. Batches of eight save calls, which take time
    with a small network.
    """
    return [8] * (count // 8) + [1] * (count % 8)


def owned(tree: Any) -> Any:
    """Copies NumPy arrays into buffers of JAX's own.

    On CPU, JAX aliases 64-byte-aligned NumPy buffers, and aliased buffers cannot be donated.
    """
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else jnp.array(leaf), tree)


@functools.cache
def compiler_options() -> dict[str, Any]:
    """Options for `jax.jit` of programs that run the network on a CPU.

    By default XLA calls the YNN library for convolutions, products and sums. This leaves only the
    sums to it. Eigen computes convolutions faster, and its products are as fast and load sooner
    (docs/benchmarks.md).
    """
    return _if_known({"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"})


def _if_known(options: dict[str, Any]) -> dict[str, Any]:
    """The options, or none if this version of XLA lacks one: experimental flags come and go."""
    cpu = jax.local_devices(backend="cpu")[0]
    try:
        with jax.default_device(cpu):
            jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return options


def two_programs(step: Any) -> Any:
    """A `training.TrainStep` whose gradients and update are jitted separately.

    On CPU, the time to load a program from JAX's cache grows with the square of its size
    (docs/benchmarks.md). Results are those of one program, since no parameter can change before the
    norm of all gradients is known.
    """
    options = compiler_options()
    return dataclasses.replace(
        step,
        gradients=jax.jit(step.gradients, compiler_options=options),
        update=jax.jit(step.update, donate_argnums=0, compiler_options=options),
    )
