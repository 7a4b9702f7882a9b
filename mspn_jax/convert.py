"""PyTorch names <-> the Flax tree.

The network is made of one brick, a convolution with its batch norm, so a conversion is a table
of bricks: where each one stands in the Flax tree, and what the others call it. The table is made
by loops that mirror the network. Every tensor of a source and every leaf of the result is used
exactly once, or the conversion fails and names what is left.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from mspn_jax.model import COARSEST_STRIDE, MSPN, NUM_UNITS

Path = tuple[str, ...]
StateDict = Mapping[str, np.ndarray]
Variables = dict[str, Any]

# Leaf of a brick (collection, name) -> whose it is in torch, and under what name.
_LEAVES = {
    ("params", "kernel"): ("conv", "weight"),
    ("params", "scale"): ("norm", "weight"),
    ("params", "bias"): ("norm", "bias"),
    ("batch_stats", "mean"): ("norm", "running_mean"),
    ("batch_stats", "var"): ("norm", "running_var"),
}


class ConversionError(ValueError):
    """A state dict that is not an MSPN's, or not wholly."""


@dataclasses.dataclass(frozen=True)
class Names:
    """What the two modules of a brick are called in a state dict."""

    conv: str
    norm: str


@dataclasses.dataclass(frozen=True)
class Brick:
    """One ConvNorm: its path in the Flax tree, and its names in the two families of files."""

    path: Path
    mmpose: Names
    authors: Names


def bricks(num_stages: int, blocks_per_unit: tuple[int, ...]) -> Iterator[Brick]:
    """Every ConvNorm of the network, in torch's order of registration."""

    def conv_and_bn(path: Path, mmpose: str, authors: str) -> Brick:
        return Brick(path, *(Names(f"{n}.conv", f"{n}.bn") for n in (mmpose, authors)))

    yield conv_and_bn(("stem",), "backbone.top.top.0", "top.conv")
    for s in range(num_stages):
        stage, mmpose_stage, authors_stage = (
            f"stage{s}", f"backbone.multi_stage_mspn.{s}", f"stage{s}"
        )  # fmt: skip
        for layer, num_blocks in enumerate(blocks_per_unit, start=1):
            for b in range(num_blocks):
                path = (stage, f"layer{layer}_block{b}")
                place = f"downsample.layer{layer}.{b}"
                for i in (1, 2, 3):
                    authors = f"{authors_stage}.{place}.conv_bn_relu{i}"
                    yield Brick(
                        (*path, f"conv{i}"),
                        Names(f"{mmpose_stage}.{place}.conv{i}", f"{mmpose_stage}.{place}.bn{i}"),
                        Names(f"{authors}.conv", f"{authors}.bn"),
                    )
                if b == 0:
                    names = (f"{p}.{place}.downsample" for p in (mmpose_stage, authors_stage))
                    yield conv_and_bn((*path, "shortcut"), *names)
        feeds_next = s < num_stages - 1
        for u in range(NUM_UNITS):
            parts = [("lateral", "in_skip", "u_skip")]
            if u > 0:
                parts.append(("up", "up_conv", "up_conv"))
            if feeds_next:
                parts.append(("encoder_skip", "out_skip1", "skip1"))
                parts.append(("decoder_skip", "out_skip2", "skip2"))
            for ours, mmpose, authors in parts:
                yield conv_and_bn(
                    (stage, f"unit{u}_{ours}"),
                    f"{mmpose_stage}.upsample.up{u + 1}.{mmpose}",
                    f"{authors_stage}.upsample.up{u + 1}.{authors}",
                )
        if feeds_next:
            names = (f"{p}.upsample.up4.cross_conv" for p in (mmpose_stage, authors_stage))
            yield conv_and_bn((stage, "next_stage_input"), *names)
    for s in range(num_stages):
        for u in range(NUM_UNITS):
            for i, part in enumerate(("hidden", "out")):
                yield conv_and_bn(
                    (f"stage{s}_head{u}_{part}",),
                    f"head.predict_layers.{s * NUM_UNITS + u}.conv_layers.{i}",
                    f"stage{s}.upsample.up{u + 1}.res_conv{i + 1}",
                )


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What a state dict says of the network it was saved from."""

    kind: Literal["mmpose 1.x", "mmpose 0.x", "authors"]
    num_stages: int
    num_keypoints: int
    blocks_per_unit: tuple[int, ...]
    stem_channels: int
    unit_channels: int

    def model_arguments(self) -> dict[str, Any]:
        """Keyword arguments of `MSPN`."""
        arguments = dataclasses.asdict(self)
        del arguments["kind"]
        return arguments


def recognise(state_dict: StateDict) -> Architecture:
    """Finds the kind of file and the size of the network from names and shapes.

    Raises:
      ConversionError: the names are not an MSPN's.
    """
    if "backbone.top.top.0.conv.weight" in state_dict:
        kind = "mmpose 0.x" if any(n.startswith("keypoint_head.") for n in state_dict) else (
            "mmpose 1.x"
        )  # fmt: skip
        stem = "backbone.top.top.0.conv.weight"
        stages = re.compile(r"backbone\.multi_stage_mspn\.(\d+)\.")
    elif "top.conv.conv.weight" in state_dict:
        kind, stem, stages = "authors", "top.conv.conv.weight", re.compile(r"stage(\d+)\.")
    else:
        some = ", ".join(list(state_dict)[:3])
        raise ConversionError(
            f"not an MSPN: no stem among its {len(state_dict)} tensors ({some}, ...)."
            " Known are the names of mmpose 0.x and 1.x and of the original authors"
        )
    num_stages = 1 + max((int(m[1]) for n in state_dict if (m := stages.match(n))), default=-1)
    blocks = [
        1 + max((int(m[1]) for n in state_dict if (m := re.search(pattern, n))), default=-1)
        for pattern in (rf"\.?0\.downsample\.layer{layer}\.(\d+)\." for layer in (1, 2, 3, 4))
    ]
    head = [b for b in bricks(num_stages, tuple(blocks)) if "_head" in b.path[0]][-2:]
    hidden, out = (
        state_dict.get(_torch_name(brick, kind, "params", "kernel")) for brick in head
    ) if head else (None, None)  # fmt: skip
    if hidden is None or out is None:
        raise ConversionError(
            f"an MSPN of {num_stages} stages ({kind} names) without its last head"
        )
    return Architecture(
        kind=kind,
        num_stages=num_stages,
        num_keypoints=out.shape[0],
        blocks_per_unit=tuple(blocks),
        stem_channels=state_dict[stem].shape[0],
        unit_channels=hidden.shape[0],
    )


def _torch_name(brick: Brick, kind: str, collection: str, leaf: str) -> str:
    names = brick.authors if kind == "authors" else brick.mmpose
    module, tensor = _LEAVES[collection, leaf]
    name = f"{getattr(names, module)}.{tensor}"
    return f"keypoint_{name}" if kind == "mmpose 0.x" and name.startswith("head.") else name


def from_torch(state_dict: StateDict) -> Variables:
    """A state dict of any known kind -> {"params", "batch_stats"} of `MSPN`.

    Kernels turn from (out, in, h, w) to (h, w, in, out). The original authors' convolutions have
    biases, which only shift what the norm subtracts: they are taken off the running mean.
    `num_batches_tracked` is counted as used: nothing here needs it.

    Raises:
      ConversionError: not an MSPN, tensors missing, left over, or of a wrong shape; each is named.
    """
    architecture = recognise(state_dict)
    kind = architecture.kind
    expected = _leaf_shapes(architecture)
    left = {name for name in state_dict if not name.endswith(".num_batches_tracked")}
    missing: list[str] = []
    wrong: list[str] = []
    variables: Variables = {"params": {}, "batch_stats": {}}

    def take(name: str) -> np.ndarray | None:
        left.discard(name)
        if name not in state_dict:
            missing.append(name)
        return state_dict.get(name)

    for brick in bricks(architecture.num_stages, architecture.blocks_per_unit):
        for collection, leaf in _LEAVES:
            name = _torch_name(brick, kind, collection, leaf)
            tensor = take(name)
            if tensor is None:
                continue
            if leaf == "kernel" and tensor.ndim == 4:
                tensor = tensor.transpose(2, 3, 1, 0)
            if leaf == "mean" and kind == "authors":
                conv_bias = take(f"{brick.authors.conv}.bias")
                if conv_bias is None:
                    continue
                tensor = tensor - conv_bias
            shape = expected[(collection, *brick.path, leaf)]
            if tensor.shape != shape:
                wrong.append(f"{name} gives {tensor.shape} where {shape} belongs")
            parent = variables[collection]
            for key in brick.path:
                parent = parent.setdefault(key, {})
            parent[leaf] = np.ascontiguousarray(tensor, np.float32)

    problems = [
        f"{len(names)} {what}: {', '.join(names)}"
        for what, names in (("missing", missing), ("left over", sorted(left)), ("misshapen", wrong))
        if names
    ]
    if problems:
        raise ConversionError(
            f"an MSPN of {architecture.num_stages} stages ({kind} names) but not wholly: "
            + "; ".join(problems)
        )
    return variables


def _leaf_shapes(architecture: Architecture) -> dict[Path, tuple[int, ...]]:
    model = MSPN(**architecture.model_arguments())
    images = jnp.zeros((1, COARSEST_STRIDE, COARSEST_STRIDE, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    return {
        tuple(key.key for key in path): leaf.shape
        for path, leaf in jax.tree.leaves_with_path(shapes)
    }
