"""The start of a training from existing weights: a ResNet, or an MSPN with other keypoints."""

import dataclasses
import os

from flax import traverse_util

from mspn_jax.errors import CheckpointError, ConversionError
from mspn_jax.storage import mirror, paths
from mspn_jax.weights import checkpoints, published
from mspn_jax.weights.conversion import (
    Variables,
    architecture_of_variables,
    from_torch,
    place_tensors,
)
from mspn_jax.weights.torch import state_dicts
from mspn_jax.weights.torch.names import StateDict, kind_of


def initial_from(
    path: str | os.PathLike, variables: Variables, *, new_heads: bool = False
) -> tuple[Variables, str]:
    """Replaces a network's initial values by those that a file holds.

    A ResNet gives the stem and the encoder of every stage. An MSPN gives all values, except the
    last convolution and norm of every head, which depend on the keypoints, if the number of
    keypoints differs or `new_heads` is set.

    Args:
      path: a `.pth` or `.safetensors`, or one of our own checkpoints.
      variables: initial values of the network, from `initial_variables`.

    Returns:
      The variables to start with, and a line that says what was taken.

    Raises:
      ConversionError, TorchFileError, CheckpointError: the file is not a checkpoint, or one of
        another network.
    """
    try:
        path = paths.path(published.local(path))
        with paths.named(path):
            if not path.exists():
                raise CheckpointError(f"{path}: no such checkpoint")
        if paths.is_folder(path):
            return start_from(checkpoints.load(path)[1], variables, new_heads=new_heads)
        state_dict = state_dicts.read(mirror.fetched(path))
        if kind_of(state_dict) == "torchvision":
            return start_from_resnet(state_dict, variables)
        return start_from(from_torch(state_dict), variables, new_heads=new_heads)
    except ConversionError as error:
        raise ConversionError(f"{path}: {error}") from None


def start_from(
    loaded: Variables, initial: Variables, *, new_heads: bool = False
) -> tuple[Variables, str]:
    """Starts from an MSPN: see `initial_from`."""
    found, needed = architecture_of_variables(loaded), architecture_of_variables(initial)
    if dataclasses.replace(found, num_keypoints=needed.num_keypoints) != needed:
        raise ConversionError(f"an MSPN of {found}, but one of {needed} is needed")
    said = f"an MSPN of {found}"
    taken = traverse_util.flatten_dict(loaded)
    if new_heads or found.num_keypoints != needed.num_keypoints:
        taken = {path: leaf for path, leaf in taken.items() if not path[1].endswith("_out")}
        said += f"; the last convolution of each head is new, for {needed.num_keypoints} keypoints"
    return traverse_util.unflatten_dict(traverse_util.flatten_dict(initial) | taken), said


def start_from_resnet(state_dict: StateDict, initial: Variables) -> tuple[Variables, str]:
    """Starts from torchvision's ResNet-50: see `initial_from`."""
    needed = architecture_of_variables(initial)
    leaves = traverse_util.flatten_dict(initial)
    table = (brick for brick in needed.bricks() if brick.torchvision is not None)
    shapes = {path: leaf.shape for path, leaf in leaves.items()}
    leaves |= place_tensors(state_dict, "torchvision", table, shapes)
    stages = "1 stage" if needed.num_stages == 1 else f"each of {needed.num_stages} stages"
    return traverse_util.unflatten_dict(leaves), (
        f"a ResNet in the stem and the encoder of {stages}; decoders and heads are new, and the"
        " ResNet's fc is not used"
    )
