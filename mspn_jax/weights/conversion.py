"""PyTorch's state dicts <-> the Flax tree, by the table in `torch.names`.

Every tensor of a source and every leaf of the result is used exactly once. Otherwise the conversion
fails and names each one.
"""

import collections
import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from mspn_jax.errors import ConversionError
from mspn_jax.storage import files
from mspn_jax.variables import variable_shapes
from mspn_jax.weights.torch.names import (
    Architecture,
    Brick,
    Kind,
    Path,
    StateDict,
    architecture_of,
    kind_of,
)

Variables = dict[str, Any]

# Leaf of a brick (collection, name) -> its module and name in torch; in torch's order.
_LEAVES = {
    ("params", "kernel"): ("conv", "weight"),
    ("params", "scale"): ("norm", "weight"),
    ("params", "bias"): ("norm", "bias"),
    ("batch_stats", "mean"): ("norm", "running_mean"),
    ("batch_stats", "var"): ("norm", "running_var"),
}
_COUNT = "num_batches_tracked"  # of a norm in torch; nothing here needs it


def architecture_of_variables(variables: Variables) -> Architecture:
    """The sizes of the network that {"params", "batch_stats"} belong to.

    Raises:
      ConversionError: they are not an MSPN's.
    """
    try:
        params = variables["params"]
        stages = [name for name in params if re.fullmatch(r"stage\d+", name)]
        blocks = [re.fullmatch(r"layer(\d)_block\d+", name) for name in params["stage0"]]
        layers = [int(block[1]) for block in blocks if block]
        hidden, out = (params[f"stage0_head0_{part}"]["kernel"] for part in ("hidden", "out"))
        return Architecture(
            num_stages=len(stages),
            num_keypoints=out.shape[-1],
            blocks_per_unit=tuple(layers.count(i) for i in (1, 2, 3, 4)),
            stem_channels=params["stem"]["kernel"].shape[-1],
            unit_channels=hidden.shape[-1],
        )
    except (KeyError, TypeError) as error:
        raise ConversionError(f"not the variables of an MSPN: no {error}") from None


def from_torch(state_dict: StateDict) -> Variables:
    """Converts a state dict of any kind of MSPN to {"params", "batch_stats"} of `MSPN`, float32.

    Kernels are transposed from (out, in, h, w) to (h, w, in, out). The original authors' networks
    take BGR, so that their stem's input channels are reversed. Their convolutions have biases,
    which only shift what the norm subtracts: they are subtracted from the running mean. Other
    float32 leaves are views of the state dict's arrays, so that a large model is in memory once.

    Raises:
      ConversionError: the state dict is not an MSPN's, or tensors are missing, left over, of a
        wrong shape, not floating-point or not finite; each is named.
    """
    architecture = architecture_of(state_dict)
    shapes = _shapes(architecture)
    leaves = place_tensors(state_dict, kind_of(state_dict), architecture.bricks(), shapes)
    assert leaves.keys() == shapes.keys(), "the table of names does not mirror the network"
    return traverse_util.unflatten_dict(leaves)


@functools.cache
def _shapes(architecture: Architecture) -> dict[Path, tuple[int, ...]]:
    shapes = variable_shapes(architecture.new_model())
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(shapes).items()}


def batches_tracked(state_dict: StateDict) -> dict[str, int]:
    """The norms' `num_batches_tracked` by their names in mmpose 1.x.

    `from_torch` uses all other tensors of a state dict; `to_torch` takes these counts back.
    """
    kind = kind_of(state_dict)
    counts = {}
    for brick in architecture_of(state_dict).bricks():
        count = state_dict.get(f"{brick.names(kind).norm}.{_COUNT}")
        if count is not None and count.size == 1 and np.issubdtype(count.dtype, np.integer):
            counts[f"{brick.mmpose.norm}.{_COUNT}"] = int(count.item())
    return counts


def place_tensors(
    state_dict: StateDict,
    kind: Kind,
    table: Iterable[Brick],
    shapes: Mapping[Path, tuple[int, ...]],
) -> dict[Path, np.ndarray]:
    """Every leaf of the table's bricks, from the state dict. Errors are those of `from_torch`."""
    used = {"fc.weight", "fc.bias"} if kind == "torchvision" else set()
    problems = collections.defaultdict[str, list[str]](list)
    leaves: dict[Path, np.ndarray] = {}

    def take(name: str, shape: tuple[int, ...]) -> np.ndarray | None:
        used.add(name)
        return _float32(name, state_dict.get(name), shape, problems)

    for brick in table:
        names = brick.names(kind)
        used.add(f"{names.norm}.{_COUNT}")
        for (collection, leaf), (module, tensor_name) in _LEAVES.items():
            path = (collection, *brick.path, leaf)
            shape = shapes[path]
            if leaf == "kernel":
                shape = tuple(shape[axis] for axis in (3, 2, 0, 1))
            array = take(f"{getattr(names, module)}.{tensor_name}", shape)
            if kind == "authors" and leaf == "mean":
                conv_bias = take(f"{names.conv}.bias", shape)
                if array is not None and conv_bias is not None:
                    array = array - conv_bias
            if kind == "authors" and path == ("params", "stem", "kernel") and array is not None:
                array = array[:, ::-1]
            if array is not None:
                leaves[path] = array.transpose(2, 3, 1, 0) if leaf == "kernel" else array

    problems["left over"] = [name for name in state_dict if name not in used]
    whose = "a ResNet" if kind == "torchvision" else f"an MSPN ({kind} names)"
    _raise_if_any(problems, f"{whose}, but not exactly the one needed")
    return leaves


def _float32(
    name: str, tensor: np.ndarray | None, shape: tuple[int, ...], problems: dict[str, list[str]]
) -> np.ndarray | None:
    """A tensor in float32; None, and an entry in `problems`, if it is not usable."""
    if tensor is None:
        problems["missing"].append(name)
    elif tensor.shape != shape:
        problems["misshapen"].append(f"{name} is {tensor.shape}, expected {shape}")
    elif not jnp.issubdtype(tensor.dtype, jnp.floating):  # NumPy's own does not know bfloat16
        problems["not floating-point"].append(name)
    else:
        with np.errstate(over="ignore"):
            array = tensor.astype(np.float32, copy=False)
        is_finite = np.isfinite(array).all()
        files.release(tensor)
        if is_finite:
            return array
        problems["not finite"].append(name)
    return None


def to_torch(
    variables: Variables, batches_tracked: Mapping[str, int] | None = None
) -> dict[str, np.ndarray]:
    """Converts {"params", "batch_stats"} of `MSPN` to a state dict with mmpose 1.x names.

    The inverse of `from_torch`, bit-identical, in mmpose's order.

    Args:
      batches_tracked: the norms' `num_batches_tracked`, from `batches_tracked`. torch takes those
        that a state dict lacks for 0.

    Raises:
      ConversionError: leaves are missing or left over; each is named.
    """
    leaves = traverse_util.flatten_dict(variables)
    counts = batches_tracked or {}
    state_dict: dict[str, np.ndarray] = {}
    problems: dict[str, list[str]] = {"missing": []}
    for brick in architecture_of_variables(variables).bricks():
        for (collection, leaf), (module, tensor_name) in _LEAVES.items():
            path = (collection, *brick.path, leaf)
            if path not in leaves:
                problems["missing"].append("/".join(path))
                continue
            array = np.asarray(leaves.pop(path))
            array = array.transpose(3, 2, 0, 1) if leaf == "kernel" else array
            name = f"{getattr(brick.mmpose, module)}.{tensor_name}"
            state_dict[name] = np.ascontiguousarray(array)
        count = f"{brick.mmpose.norm}.{_COUNT}"
        if count in counts:
            state_dict[count] = np.array(counts[count], np.int64)
    problems["left over"] = ["/".join(path) for path in leaves]
    _raise_if_any(problems, "not the variables of an MSPN")
    return state_dict


def _raise_if_any(problems: Mapping[str, list[str]], what: str) -> None:
    listed = [
        f"{len(names)} {problem}: {', '.join(names)}"
        for problem, names in problems.items()
        if names
    ]
    if listed:
        raise ConversionError(f"{what}: {'; '.join(listed)}")
