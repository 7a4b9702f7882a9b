"""PyTorch's state dicts <-> the Flax tree, by the table of `torch.names`.

Every tensor of a source and every leaf of the result is used exactly once, or the conversion fails
and names what is left.
"""

import collections
import dataclasses
import functools
import os
import re
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from mspn_jax.errors import ConversionError
from mspn_jax.storage import files, mirror, paths
from mspn_jax.variables import variable_shapes
from mspn_jax.weights import checkpoints
from mspn_jax.weights.torch import state_dicts
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

# Leaf of a brick (collection, name) -> whose it is in torch, and under what name; in torch's order.
_LEAVES = {
    ("params", "kernel"): ("conv", "weight"),
    ("params", "scale"): ("norm", "weight"),
    ("params", "bias"): ("norm", "bias"),
    ("batch_stats", "mean"): ("norm", "running_mean"),
    ("batch_stats", "var"): ("norm", "running_var"),
}
_COUNT = "num_batches_tracked"  # a norm has it in torch, and nothing here needs it


def architecture_of_variables(variables: Variables) -> Architecture:
    """Finds the size of the network whose {"params", "batch_stats"} these are.

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


# --- from torch -----------------------------------------------------------------------------------


def from_torch(state_dict: StateDict) -> Variables:
    """A state dict of any kind of MSPN -> {"params", "batch_stats"} of `MSPN`, float32.

    Kernels turn from (out, in, h, w) to (h, w, in, out). The original authors' convolutions have
    biases, which only shift what the norm subtracts: they are taken off the running mean. Where
    nothing has to be computed the leaves are views of the state dict's arrays, lest a large model
    be in memory twice.

    Raises:
      ConversionError: not an MSPN, tensors missing, left over, of a wrong shape, or not
        floating-point and finite; each is named.
    """
    architecture = architecture_of(state_dict)
    shapes = _shapes(architecture)
    leaves = _place(state_dict, kind_of(state_dict), architecture.bricks(), shapes)
    assert leaves.keys() == shapes.keys(), "the table of names does not mirror the network"
    return traverse_util.unflatten_dict(leaves)


def batches_tracked(state_dict: StateDict) -> dict[str, int]:
    """The norms' `num_batches_tracked`, by their names in mmpose 1.x: all of a state dict that
    `from_torch` leaves behind."""
    kind = kind_of(state_dict)
    counts = {}
    for brick in architecture_of(state_dict).bricks():
        count = state_dict.get(f"{brick.names(kind).norm}.{_COUNT}")
        if count is not None and count.size == 1 and np.issubdtype(count.dtype, np.integer):
            counts[f"{brick.mmpose.norm}.{_COUNT}"] = int(count.item())
    return counts


def _place(
    state_dict: StateDict, kind: Kind, table: Iterable[Brick], shapes: dict[Path, tuple[int, ...]]
) -> dict[Path, np.ndarray]:
    """The leaves of the table's bricks, by path; or ConversionError."""
    left = dict.fromkeys(state_dict)
    if kind == "torchvision":
        for name in ("fc.weight", "fc.bias"):
            left.pop(name, None)
    problems = collections.defaultdict[str, list[str]](list)
    leaves: dict[Path, np.ndarray] = {}

    def take(name: str, shape: tuple[int, ...]) -> np.ndarray | None:
        left.pop(name, None)
        tensor = state_dict.get(name)
        if tensor is None:
            problems["missing"].append(name)
        elif tensor.shape != shape:
            problems["misshapen"].append(f"{name} is {tensor.shape} where {shape} belongs")
        elif not jnp.issubdtype(tensor.dtype, jnp.floating):  # which knows bfloat16
            problems["not floating-point"].append(name)
        else:
            with np.errstate(over="ignore"):
                tensor = tensor.astype(np.float32, copy=False)
            finite = np.isfinite(tensor).all()
            files.release(state_dict[name])
            if finite:
                return tensor
            problems["not finite"].append(name)
        return None

    for brick in table:
        names = brick.names(kind)
        left.pop(f"{names.norm}.{_COUNT}", None)
        for (collection, leaf), (module, tensor_name) in _LEAVES.items():
            path = (collection, *brick.path, leaf)
            shape = shapes[path]
            if leaf == "kernel":
                shape = tuple(shape[axis] for axis in (3, 2, 0, 1))
            tensor = take(f"{getattr(names, module)}.{tensor_name}", shape)
            if kind == "authors" and leaf == "mean":
                conv_bias = take(f"{names.conv}.bias", shape)
                if tensor is not None and conv_bias is not None:
                    tensor = tensor - conv_bias
            if tensor is not None:
                leaves[path] = tensor.transpose(2, 3, 1, 0) if leaf == "kernel" else tensor

    problems["left over"] = list(left)
    listed = "; ".join(
        f"{len(names)} {what}: {', '.join(names)}" for what, names in problems.items() if names
    )
    if listed:
        whose = "a ResNet" if kind == "torchvision" else f"an MSPN ({kind} names)"
        raise ConversionError(f"{whose}, but not wholly the one needed: {listed}")
    return leaves


@functools.cache
def _shapes(architecture: Architecture) -> dict[Path, tuple[int, ...]]:
    """The model's own word for every leaf."""
    shapes = variable_shapes(architecture.new_model())
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(shapes).items()}


# --- to torch -------------------------------------------------------------------------------------


def to_torch(variables: Variables) -> dict[str, np.ndarray]:
    """{"params", "batch_stats"} of `MSPN` -> a state dict with mmpose 1.x names, in its order.

    The inverse of `from_torch`, to the bit. It lacks `num_batches_tracked`, which torch takes for
    0 where a state dict does not have it.

    Raises:
      ConversionError: leaves missing or left over; each is named.
    """
    leaves = traverse_util.flatten_dict(variables)
    state_dict, missing = {}, []
    for brick in architecture_of_variables(variables).bricks():
        for (collection, leaf), (module, tensor_name) in _LEAVES.items():
            path = (collection, *brick.path, leaf)
            if path not in leaves:
                missing.append("/".join(path))
                continue
            array = np.asarray(leaves.pop(path))
            array = array.transpose(3, 2, 0, 1) if leaf == "kernel" else array
            name = f"{getattr(brick.mmpose, module)}.{tensor_name}"
            state_dict[name] = np.ascontiguousarray(array)
    left = ["/".join(path) for path in leaves]
    listed = "; ".join(
        f"{len(names)} {what}: {', '.join(names)}"
        for what, names in (("missing", missing), ("left over", left))
        if names
    )
    if listed:
        raise ConversionError(f"not the variables of an MSPN: {listed}")
    return state_dict


# --- as the start of a training -------------------------------------------------------------------


def initial_from(
    path: str | os.PathLike, variables: Variables, new_heads: bool = False
) -> tuple[Variables, str]:
    """What a file has of a network, put over a network's initial values.

    A ResNet gives the stem and every stage's encoder. An MSPN gives everything, except the last
    convolution and norm of every head (all that depends on the keypoints) where the number of
    keypoints is another, or `new_heads` says so.

    Args:
      path: PyTorch's `.pth`, a `.safetensors`, or one of our own checkpoints.
      variables: of the network to start, from `initial_variables`.

    Returns:
      The variables to start with, and a line that says what was taken.

    Raises:
      ConversionError, TorchFileError, CheckpointError: the file is
        not a checkpoint, or not of this network.
    """
    try:
        if paths.is_folder(paths.path(path)):
            return start_from(checkpoints.load(path)[1], variables, new_heads)
        state_dict = state_dicts.read(mirror.fetched(path))
        if kind_of(state_dict) == "torchvision":
            return start_from_resnet(state_dict, variables)
        return start_from(from_torch(state_dict), variables, new_heads)
    except ConversionError as error:
        raise ConversionError(f"{path}: {error}") from None


def start_from(
    loaded: Variables, initial: Variables, new_heads: bool = False
) -> tuple[Variables, str]:
    """An MSPN over another's initial values: see `initial_from`."""
    found, needed = architecture_of_variables(loaded), architecture_of_variables(initial)
    if dataclasses.replace(found, num_keypoints=needed.num_keypoints) != needed:
        raise ConversionError(f"an MSPN of {found}, where one of {needed} is to start")
    taken = traverse_util.flatten_dict(loaded)
    new_heads = new_heads or found.num_keypoints != needed.num_keypoints
    if new_heads:
        taken = {path: leaf for path, leaf in taken.items() if not path[1].endswith("_out")}
    merged = traverse_util.flatten_dict(initial) | taken
    said = f"an MSPN of {found}"
    if new_heads:
        said += f"; the last convolution of each head is new, for {needed.num_keypoints} keypoints"
    return traverse_util.unflatten_dict(merged), said


def start_from_resnet(state_dict: StateDict, initial: Variables) -> tuple[Variables, str]:
    """torchvision's ResNet-50 in the stem and in every stage's encoder: see `initial_from`."""
    needed = architecture_of_variables(initial)
    merged = traverse_util.flatten_dict(initial)
    shapes = {path: leaf.shape for path, leaf in merged.items()}
    table = (brick for brick in needed.bricks() if brick.torchvision is not None)
    merged |= _place(state_dict, "torchvision", table, shapes)
    stages = "1 stage" if needed.num_stages == 1 else f"each of {needed.num_stages} stages"
    return traverse_util.unflatten_dict(merged), (
        f"a ResNet in the stem and the encoder of {stages}; decoders and heads are new, and the"
        " ResNet's fc is not used"
    )
