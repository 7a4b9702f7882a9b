"""What XLA is told beside its defaults."""

import functools
from typing import Any

import jax


@functools.cache
def compiler_options() -> dict[str, Any]:
    """For `jax.jit`, of whatever runs the network; none but for CPUs.

    XLA leaves convolutions, products and sums there to YNN. Eigen, its other choice, has the faster
    convolutions; its products are as fast and load from JAX's cache sooner (docs/benchmarks.md).
    """
    if jax.default_backend() != "cpu":
        return {}
    return _if_known({"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"})


def _if_known(options: dict[str, Any]) -> dict[str, Any]:
    """The options, or none where this XLA does not have them: its experiments come and go."""
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return options
