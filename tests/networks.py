"""Weights of small networks under PyTorch's names."""

import jax
import numpy as np

from conftest import golden_json
from mspn_jax.variables import initial_variables
from mspn_jax.weights import conversion
from mspn_jax.weights.torch.names import Architecture, Kind

TINY = Architecture(2, 5, blocks_per_unit=(2, 1, 1, 1), stem_channels=3, unit_channels=4)


def golden_entries(num_stages: int, names: str) -> list[tuple[str, list[int]]]:
    return golden_json(f"state_dict_{num_stages}stage.json")[names]


def tiny_variables(architecture: Architecture = TINY, seed: int = 0) -> conversion.Variables:
    """Every leaf its own random numbers."""
    rng = np.random.default_rng(seed)
    shapes = initial_variables(architecture.new_model(), 0, (32, 32))
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes)


def tiny_state_dict(kind: Kind, architecture: Architecture = TINY) -> dict[str, np.ndarray]:
    """A state dict of any kind, with batch counts.

    The authors' convolutions have biases, and their stem takes BGR.
    """
    variables = tiny_variables(architecture)
    bricks = list(architecture.bricks())
    state_dict = conversion.to_torch(variables)
    for i, brick in enumerate(bricks):
        names, new_names = brick.mmpose, brick.names(kind)
        state_dict[f"{names.norm}.num_batches_tracked"] = np.array(100 + i)
        for module in ("conv", "norm"):
            prefix = getattr(names, module) + "."
            for name in [name for name in state_dict if name.startswith(prefix)]:
                new_name = f"{getattr(new_names, module)}.{name.removeprefix(prefix)}"
                state_dict[new_name] = state_dict.pop(name)
        if kind == "authors":
            mean = state_dict[f"{new_names.norm}.running_mean"]
            state_dict[f"{new_names.conv}.bias"] = np.linspace(-1, 1, mean.size, dtype=np.float32)
            if brick.path == ("stem",):
                kernel = f"{new_names.conv}.weight"
                state_dict[kernel] = np.ascontiguousarray(state_dict[kernel][:, ::-1])
    return state_dict


def resnet_state_dict(blocks=(2, 1, 1, 1), stem_channels=3) -> dict[str, np.ndarray]:
    """torchvision's names, spelled out."""
    rng = np.random.default_rng(1)
    state_dict = {}

    def add(conv: str, norm: str, *shape: int) -> None:
        state_dict[f"{conv}.weight"] = rng.standard_normal(shape, np.float32)
        for name in ("weight", "bias", "running_mean", "running_var"):
            state_dict[f"{norm}.{name}"] = rng.standard_normal(shape[:1], np.float32)
        state_dict[f"{norm}.num_batches_tracked"] = np.array(7)

    add("conv1", "bn1", stem_channels, 3, 7, 7)
    channels = stem_channels
    for layer, num_blocks in enumerate(blocks):
        width = stem_channels * 2**layer
        for b in range(num_blocks):
            block = f"layer{layer + 1}.{b}"
            add(f"{block}.conv1", f"{block}.bn1", width, channels, 1, 1)
            add(f"{block}.conv2", f"{block}.bn2", width, width, 3, 3)
            add(f"{block}.conv3", f"{block}.bn3", 4 * width, width, 1, 1)
            if b == 0:
                add(f"{block}.downsample.0", f"{block}.downsample.1", 4 * width, channels, 1, 1)
            channels = 4 * width
    state_dict["fc.weight"] = rng.standard_normal((10, channels), np.float32)
    state_dict["fc.bias"] = rng.standard_normal(10, np.float32)
    return state_dict


def assert_same(tree, expected) -> None:
    """Asserts that two trees are bit-identical."""
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    for (path, leaf), other in zip(
        jax.tree.leaves_with_path(tree), jax.tree.leaves(expected), strict=True
    ):
        assert leaf.dtype == other.dtype and leaf.shape == other.shape, path
        assert np.array_equal(leaf, other), path
