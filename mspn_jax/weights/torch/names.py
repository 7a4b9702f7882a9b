"""The names of MSPN's tensors in PyTorch's files.

The network consists of one brick, a convolution with its batch norm, so the names are a table of
bricks. The table's loops mirror the network (arXiv 1901.00148). The names come from

- mmpose 1.x: `models/backbones/mspn.py` and `models/heads/heatmap_heads/mspn_head.py`;
- mmpose 0.x: the same, with `keypoint_head` for `head`; the published files have these;
- authors: `network.py` of the authors' own code (github.com/megvii-research/MSPN);
- torchvision: `models/resnet.py`, whose ResNet-50 has the stem and the encoder only.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
from jaxtyping import Shaped

from mspn_jax.errors import ConversionError
from mspn_jax.model import MSPN, NUM_UNITS

Kind = Literal["mmpose 1.x", "mmpose 0.x", "authors", "torchvision"]
Path = tuple[str, ...]  # in the Flax tree
StateDict = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Names:
    """The prefixes of a brick's two modules in a state dict."""

    conv: str
    norm: str


@dataclasses.dataclass(frozen=True)
class Brick:
    """One ConvNorm: its path in the Flax tree, and its names in each kind of file.

    torchvision's ResNet has the encoder of one stage; every stage takes it from there.
    """

    path: Path
    mmpose: Names
    authors: Names
    torchvision: Names | None = None

    def names(self, kind: Kind) -> Names:
        match kind:
            case "mmpose 0.x":
                conv, norm = (
                    re.sub("^head", "keypoint_head", name)
                    for name in (self.mmpose.conv, self.mmpose.norm)
                )
                return Names(conv, norm)
            case "authors":
                return self.authors
            case "torchvision":
                assert self.torchvision is not None
                return self.torchvision
        return self.mmpose


def bricks(num_stages: int, blocks_per_unit: tuple[int, ...]) -> Iterator[Brick]:
    """Every ConvNorm of the network, in the order in which mmpose registers them."""
    stem = _conv_bn("backbone.top.top.0"), _conv_bn("top.conv"), Names("conv1", "bn1")
    yield Brick(("stem",), *stem)
    for stage in range(num_stages):
        yield from _encoder(stage, blocks_per_unit)
        yield from _decoder(stage, feeds_next=stage < num_stages - 1)
    for stage in range(num_stages):
        yield from _heads(stage)


def _conv_bn(name: str) -> Names:
    return Names(f"{name}.conv", f"{name}.bn")


def _encoder(stage: int, blocks_per_unit: tuple[int, ...]) -> Iterator[Brick]:
    for layer, num_blocks in enumerate(blocks_per_unit, start=1):
        for b in range(num_blocks):
            path, block = (f"stage{stage}", f"layer{layer}_block{b}"), f"layer{layer}.{b}"
            mmpose = f"backbone.multi_stage_mspn.{stage}.downsample.{block}"
            authors = f"stage{stage}.downsample.{block}"
            for i in (1, 2, 3):
                yield Brick(
                    (*path, f"conv{i}"),
                    Names(f"{mmpose}.conv{i}", f"{mmpose}.bn{i}"),
                    _conv_bn(f"{authors}.conv_bn_relu{i}"),
                    Names(f"{block}.conv{i}", f"{block}.bn{i}"),
                )
            if b == 0:
                yield Brick(
                    (*path, "shortcut"),
                    _conv_bn(f"{mmpose}.downsample"),
                    _conv_bn(f"{authors}.downsample"),
                    Names(f"{block}.downsample.0", f"{block}.downsample.1"),
                )


def _decoder(stage: int, *, feeds_next: bool) -> Iterator[Brick]:
    mmpose, authors = f"backbone.multi_stage_mspn.{stage}.upsample", f"stage{stage}.upsample"
    for u in range(NUM_UNITS):
        parts = [("lateral", "in_skip", "u_skip")]
        if u > 0:
            parts.append(("up", "up_conv", "up_conv"))
        if feeds_next:
            parts.append(("encoder_skip", "out_skip1", "skip1"))
            parts.append(("decoder_skip", "out_skip2", "skip2"))
        for ours, mmpose_part, authors_part in parts:
            yield Brick(
                (f"stage{stage}", f"unit{u}_{ours}"),
                _conv_bn(f"{mmpose}.up{u + 1}.{mmpose_part}"),
                _conv_bn(f"{authors}.up{u + 1}.{authors_part}"),
            )
    if feeds_next:
        last = f"up{NUM_UNITS}.cross_conv"
        path = (f"stage{stage}", "next_stage_input")
        yield Brick(path, _conv_bn(f"{mmpose}.{last}"), _conv_bn(f"{authors}.{last}"))


def _heads(stage: int) -> Iterator[Brick]:
    for u in range(NUM_UNITS):
        for i, part in enumerate(("hidden", "out")):
            yield Brick(
                (f"stage{stage}_head{u}_{part}",),
                _conv_bn(f"head.predict_layers.{stage * NUM_UNITS + u}.conv_layers.{i}"),
                _conv_bn(f"stage{stage}.upsample.up{u + 1}.res_conv{i + 1}"),
            )


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The sizes of a network: keyword arguments of `MSPN`."""

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
    """The family of names that a state dict has: of an MSPN, or of a ResNet-50."""
    if "backbone.top.top.0.conv.weight" in state_dict:
        is_old = any(name.startswith("keypoint_head.") for name in state_dict)
        return "mmpose 0.x" if is_old else "mmpose 1.x"
    if "top.conv.conv.weight" in state_dict:
        return "authors"
    if "conv1.weight" in state_dict and "layer1.0.conv3.weight" in state_dict:
        return "torchvision"
    some = ", ".join(list(state_dict)[:3])
    raise ConversionError(
        f"not an MSPN: its {len(state_dict)} tensors ({some}, ...) include no stem. The names of"
        " mmpose 0.x and 1.x, of the original authors, and of torchvision's ResNet-50 are known"
    )


def architecture_of(state_dict: StateDict) -> Architecture:
    """The sizes of an MSPN, from the names and shapes of its state dict."""
    kind = kind_of(state_dict)
    if kind == "torchvision":
        raise ConversionError(
            "a ResNet: it has an MSPN's encoder only, and can only initialise a training"
        )
    stage = r"stage(\d+)" if kind == "authors" else r"backbone\.multi_stage_mspn\.(\d+)"

    def count(pattern: str) -> int:
        # The number of indices, not the highest one: a file cannot claim more than it holds.
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


def _convolution(state_dict: StateDict, name: str) -> Shaped[np.ndarray, "O I h w"]:
    kernel = state_dict.get(name)
    if kernel is None or kernel.ndim != 4 or not kernel.size:
        found = "none" if kernel is None else f"shape {kernel.shape}"
        raise ConversionError(f"an MSPN without the convolution {name} ({found})")
    return kernel
