"""What the network's parts are called in PyTorch's files, and what a file's names say of it.

The network is made of one brick, a convolution with its batch norm, so its names are a table of
bricks, made by loops that mirror the network.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np

from mspn_jax.errors import ConversionError
from mspn_jax.model import MSPN, NUM_UNITS

Kind = Literal["mmpose 1.x", "mmpose 0.x", "authors", "torchvision"]
Path = tuple[str, ...]
StateDict = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Names:
    """What the two modules of a brick are called in a state dict."""

    conv: str
    norm: str


@dataclasses.dataclass(frozen=True)
class Brick:
    """One ConvNorm: its path in the Flax tree, and its names in the families of files.

    torchvision's ResNet has only the encoder's, and lends them to every stage.
    """

    path: Path
    mmpose: Names
    authors: Names
    torchvision: Names | None = None

    def names(self, kind: Kind) -> Names:
        match kind:
            case "mmpose 0.x":
                return Names(*(re.sub("^head", "keypoint_head", name) for name in
                               (self.mmpose.conv, self.mmpose.norm)))  # fmt: skip
            case "authors":
                return self.authors
            case "torchvision":
                assert self.torchvision is not None
                return self.torchvision
        return self.mmpose


def bricks(num_stages: int, blocks_per_unit: tuple[int, ...]) -> Iterator[Brick]:
    """Every ConvNorm of the network, in torch's order of registration."""

    def conv_and_bn(name: str) -> Names:
        return Names(f"{name}.conv", f"{name}.bn")

    yield Brick(
        ("stem",),
        conv_and_bn("backbone.top.top.0"),
        conv_and_bn("top.conv"),
        Names("conv1", "bn1"),
    )
    for s in range(num_stages):
        stage = f"stage{s}"
        mmpose, authors = f"backbone.multi_stage_mspn.{s}", f"stage{s}"
        for layer, num_blocks in enumerate(blocks_per_unit, start=1):
            for b in range(num_blocks):
                path, block = (stage, f"layer{layer}_block{b}"), f"layer{layer}.{b}"
                for i in (1, 2, 3):
                    yield Brick(
                        (*path, f"conv{i}"),
                        Names(*(f"{mmpose}.downsample.{block}.{m}{i}" for m in ("conv", "bn"))),
                        conv_and_bn(f"{authors}.downsample.{block}.conv_bn_relu{i}"),
                        Names(f"{block}.conv{i}", f"{block}.bn{i}"),
                    )
                if b == 0:
                    yield Brick(
                        (*path, "shortcut"),
                        conv_and_bn(f"{mmpose}.downsample.{block}.downsample"),
                        conv_and_bn(f"{authors}.downsample.{block}.downsample"),
                        Names(f"{block}.downsample.0", f"{block}.downsample.1"),
                    )
        feeds_next = s < num_stages - 1
        for u in range(NUM_UNITS):
            parts = [("lateral", "in_skip", "u_skip")]
            if u > 0:
                parts.append(("up", "up_conv", "up_conv"))
            if feeds_next:
                parts.append(("encoder_skip", "out_skip1", "skip1"))
                parts.append(("decoder_skip", "out_skip2", "skip2"))
            for ours, mmpose_part, authors_part in parts:
                yield Brick(
                    (stage, f"unit{u}_{ours}"),
                    conv_and_bn(f"{mmpose}.upsample.up{u + 1}.{mmpose_part}"),
                    conv_and_bn(f"{authors}.upsample.up{u + 1}.{authors_part}"),
                )
        if feeds_next:
            yield Brick(
                (stage, "next_stage_input"),
                conv_and_bn(f"{mmpose}.upsample.up{NUM_UNITS}.cross_conv"),
                conv_and_bn(f"{authors}.upsample.up{NUM_UNITS}.cross_conv"),
            )
    for s in range(num_stages):
        for u in range(NUM_UNITS):
            for i, part in enumerate(("hidden", "out")):
                yield Brick(
                    (f"stage{s}_head{u}_{part}",),
                    conv_and_bn(f"head.predict_layers.{s * NUM_UNITS + u}.conv_layers.{i}"),
                    conv_and_bn(f"stage{s}.upsample.up{u + 1}.res_conv{i + 1}"),
                )


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What a file or a tree says of its network: the keyword arguments of `MSPN`."""

    num_stages: int
    num_keypoints: int = MSPN.num_keypoints
    blocks_per_unit: tuple[int, ...] = MSPN.blocks_per_unit
    stem_channels: int = MSPN.stem_channels
    unit_channels: int = MSPN.unit_channels

    def new_model(self) -> MSPN:
        return MSPN(**dataclasses.asdict(self))

    def bricks(self) -> Iterator[Brick]:
        return bricks(self.num_stages, self.blocks_per_unit)

    def __str__(self) -> str:
        stages = "1 stage" if self.num_stages == 1 else f"{self.num_stages} stages"
        return (
            f"{stages} of {'-'.join(map(str, self.blocks_per_unit))} blocks,"
            f" {self.num_keypoints} keypoints, {self.stem_channels} channels in the stem,"
            f" {self.unit_channels} in the decoder"
        )


def kind_of(state_dict: StateDict) -> Kind:
    """Finds from the names who wrote a state dict.

    Raises:
      ConversionError: the names are neither an MSPN's nor a ResNet-50's.
    """
    if "backbone.top.top.0.conv.weight" in state_dict:
        is_old = any(name.startswith("keypoint_head.") for name in state_dict)
        return "mmpose 0.x" if is_old else "mmpose 1.x"
    if "top.conv.conv.weight" in state_dict:
        return "authors"
    if "conv1.weight" in state_dict and "layer1.0.conv3.weight" in state_dict:
        return "torchvision"
    some = ", ".join(list(state_dict)[:3])
    raise ConversionError(
        f"not an MSPN: no stem among its {len(state_dict)} tensors ({some}, ...). Known are the"
        " names of mmpose 0.x and 1.x, of the original authors, and of torchvision's ResNet-50"
    )


def architecture_of(state_dict: StateDict) -> Architecture:
    """Finds the size of an MSPN from the names and shapes of its state dict, of any kind.

    Raises:
      ConversionError: it is not an MSPN's, or lacks what tells its size.
    """
    kind = kind_of(state_dict)
    if kind == "torchvision":
        raise ConversionError(
            "a ResNet, which has an MSPN's encoder and no more: it can only start a training"
        )
    stage = r"stage(\d+)" if kind == "authors" else r"backbone\.multi_stage_mspn\.(\d+)"

    def count(pattern: str) -> int:
        # How many different ones and not the highest: a file cannot claim more than it has.
        return len({m.groups()[-1] for name in state_dict if (m := re.match(pattern, name))})

    num_stages = count(rf"{stage}\.")
    blocks = tuple(count(rf"{stage}\.downsample\.layer{i}\.(\d+)\.") for i in (1, 2, 3, 4))
    if not num_stages or 0 in blocks:
        raise ConversionError(
            f"an MSPN ({kind} names) without an encoder: {num_stages} stages of {blocks} blocks"
        )
    table = list(bricks(num_stages, blocks))
    stem, hidden, out = (
        _convolution(state_dict, f"{brick.names(kind).conv}.weight")
        for brick in (table[0], table[-2], table[-1])
    )
    return Architecture(
        num_stages=num_stages,
        num_keypoints=out.shape[0],
        blocks_per_unit=blocks,
        stem_channels=stem.shape[0],
        unit_channels=hidden.shape[0],
    )


def _convolution(state_dict: StateDict, name: str) -> np.ndarray:
    kernel = state_dict.get(name)
    if kernel is None or kernel.ndim != 4 or not kernel.size:
        found = "none" if kernel is None else f"shape {kernel.shape}"
        raise ConversionError(f"an MSPN without the convolution {name} ({found})")
    return kernel
