"""What a network costs, by part: parameters, multiplications, features. Nothing is computed."""

import dataclasses
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from mspn_jax.model import MSPN, ConvBias, ConvNorm
from mspn_jax.variables import count_parameters


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of a part of the network.

    Attributes:
      part: stem, or a stage's encoder, decoder (with what it gives the next stage) or heads.
      parameters: trained numbers.
      weight_bytes: of these and of the running statistics.
      macs: multiplications of the convolutions for one crop.
      feature_bytes: of the convolutions' outputs for one crop; not all of them exist at once, save
        in training.
    """

    part: str
    parameters: int = 0
    weight_bytes: int = 0
    macs: int = 0
    feature_bytes: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        numbers = (getattr(self, f.name) + getattr(other, f.name)
                   for f in dataclasses.fields(self)[1:])  # fmt: skip
        return Cost(self.part, *numbers)


def costs(model: MSPN, crop_hw: tuple[int, int], method: str = "__call__") -> list[Cost]:
    """The parts in the order of the computation.

    Args:
      method: `__call__` counts every head, `predict` only the one that predicts.
    """
    parts: dict[str, Cost] = {}

    def count(call, args, kwargs, context) -> Any:
        y = call(*args, **kwargs)
        brick = context.module
        if isinstance(brick, (ConvNorm, ConvBias)) and context.method_name == "__call__":
            name = _part(brick.path)
            *batch_hw, in_channels = args[0].shape  # what it convolves: it may resize afterwards
            pixels = int(np.prod(batch_hw)) // brick.stride**2
            parts[name] = parts.get(name, Cost(name)) + Cost(
                name,
                parameters=count_parameters(brick.variables["params"]),
                weight_bytes=sum(
                    x.size * x.dtype.itemsize for x in jax.tree.leaves(brick.variables)
                ),
                macs=pixels * brick.channels * brick.size**2 * in_channels,
                feature_bytes=_num_bytes(y),
            )
        return y

    images = np.zeros((1, *crop_hw, 3), np.float32)
    with nn.intercept_methods(count):
        jax.eval_shape(lambda: model.init(jax.random.key(0), images, method=method))
    return list(parts.values())


def _num_bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _part(path: tuple[str, ...]) -> str:
    """("stage0", "unit1_lateral") -> "stage0 decoder"; a head is beside its stage in the tree."""
    stage, _, head = path[0].partition("_")
    if stage == "stem":
        return stage
    if head:
        return f"{stage} heads"
    return f"{stage} encoder" if path[1].startswith("layer") else f"{stage} decoder"
