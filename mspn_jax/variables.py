"""A network's variables without running it: their shapes, initial values and number."""

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from mspn_jax.model import COARSEST_STRIDE, MSPN, initial_value


def variable_shapes(
    model: MSPN,
    crop_hw: tuple[int, int] = (COARSEST_STRIDE, COARSEST_STRIDE),
    method: str = "__call__",
) -> dict[str, Any]:
    """{"params", "batch_stats"} with a `jax.ShapeDtypeStruct` for each array that `method` uses.

    The whole of `model.init` is traced, random key included, so no device is initialised.
    """
    images = np.zeros((1, *crop_hw, 3), np.float32)
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, method=method), images)


def initial_variables(model: MSPN, seed: int, crop_hw: tuple[int, int]) -> dict[str, Any]:
    """New variables, as `model.init` makes them, in NumPy: a moment, where it compiles a minute.

    The model's own shapes and initialiser (`model.initial_value`); only the random numbers differ
    from `model.init`. Each leaf has its own generator, seeded by `seed` and the leaf's position.
    """
    leaves, tree = jax.tree.flatten_with_path(variable_shapes(model, crop_hw))

    def new_leaf(index: int) -> Float[np.ndarray, "..."]:
        path, leaf = leaves[index]
        rng = np.random.default_rng([seed, index])
        normal = functools.partial(rng.standard_normal, dtype=np.float32)
        return initial_value(path[-1].key, leaf.shape, normal)

    with ThreadPoolExecutor() as pool:  # NumPy's generators release the GIL.
        return jax.tree.unflatten(tree, pool.map(new_leaf, range(len(leaves))))


def count_parameters(params: Any) -> int:
    """The number of trainable numbers in a tree of arrays or shapes."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
