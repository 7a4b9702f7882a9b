"""A network's variables without running it: their shapes, new values, how many."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from mspn_jax.model import COARSEST_STRIDE, MSPN


def variable_shapes(
    model: MSPN,
    crop_hw: tuple[int, int] = (COARSEST_STRIDE, COARSEST_STRIDE),
    method: str = "__call__",
) -> dict[str, Any]:
    """{"params", "batch_stats"} with a `jax.ShapeDtypeStruct` for each array that `method` needs.

    Traced whole, random key and all: nothing is computed, and no device is set up for it.
    """
    images = np.zeros((1, *crop_hw, 3), np.float32)
    return jax.eval_shape(lambda: model.init(jax.random.key(0), images, method=method))


def initial_variables(model: MSPN, seed: int, crop_hw: tuple[int, int]) -> dict[str, Any]:
    """What `model.init` returns, as NumPy arrays, in a moment instead of a minute of compiling.

    The shapes come from tracing, the values leaf by leaf from the leaf's own generator:
    kernels kaiming normal (fan out), scales and variances 1, the rest 0.
    """
    leaves, tree = jax.tree.flatten_with_path(variable_shapes(model, crop_hw))

    def value(index: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name != "kernel":
            return np.full(shape, float(name in ("scale", "var")), np.float32)
        fan_out = shape[0] * shape[1] * shape[3]
        rng = np.random.default_rng([seed, index])
        return rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / fan_out))

    names = [path[-1].key for path, _ in leaves]
    shapes = [leaf.shape for _, leaf in leaves]
    with ThreadPoolExecutor() as pool:  # NumPy draws without the interpreter's lock
        return jax.tree.unflatten(tree, pool.map(value, range(len(leaves)), names, shapes))


def count_parameters(params: Any) -> int:
    """How many trainable numbers a tree of arrays or shapes holds."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
