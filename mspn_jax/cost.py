"""What each part of a network costs, by tracing: parameters, multiplications, bytes."""

import dataclasses
import operator
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from mspn_jax.model import MSPN, ConvBias, ConvNorm
from mspn_jax.variables import count_parameters


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of one part of the network."""

    part: str  # stem, or a stage's encoder, decoder (with its skips to the next stage) or heads
    parameters: int = 0  # the number of trained values
    weight_bytes: int = 0  # bytes of the parameters and running statistics
    macs: int = 0  # multiply-accumulates of the convolutions for one crop
    # Bytes of the convolutions' outputs for one crop. Only in training do all of them exist at
    # once.
    feature_bytes: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        mine, others = (dataclasses.astuple(each)[1:] for each in (self, other))
        return Cost(self.part, *map(operator.add, mine, others))


def costs(model: MSPN, crop_hw: tuple[int, int], method: str = "__call__") -> list[Cost]:
    """The costs of the parts, in order. The method `predict` counts only the last head."""
    parts: dict[str, Cost] = {}

    def count(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext):
        y = call(*args, **kwargs)
        module = context.module
        if isinstance(module, (ConvNorm, ConvBias)) and context.method_name == "__call__":
            name = _part(module.path)
            *batch_hw, in_channels = args[0].shape  # of the input: the output may be resized
            pixels = int(np.prod(batch_hw)) // module.stride**2
            parts[name] = parts.get(name, Cost(name)) + Cost(
                name,
                parameters=count_parameters(module.variables["params"]),
                weight_bytes=_num_bytes(module.variables),
                macs=pixels * module.channels * module.size**2 * in_channels,
                feature_bytes=_num_bytes(y),
            )
        return y

    images = np.zeros((1, *crop_hw, 3), np.float32)
    with nn.intercept_methods(count):
        jax.eval_shape(lambda x: model.init(jax.random.key(0), x, method=method), images)
    return list(parts.values())


def _num_bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _part(path: tuple[str, ...]) -> str:
    """("stage0", "unit1_lateral") -> "stage0 decoder". Heads are siblings of their stage."""
    stage, _, head = path[0].partition("_")
    if stage == "stem":
        return stage
    if head:
        return f"{stage} heads"
    return f"{stage} encoder" if path[1].startswith("layer") else f"{stage} decoder"
