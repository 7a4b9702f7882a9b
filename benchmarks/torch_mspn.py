"""The same MSPN in PyTorch, as a baseline: same weights, losses and Adam.

Its modules have the names of mmpose 1.x, so `mspn_jax.weights.to_torch` gives its state dict.
Images and heatmaps are NCHW.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mspn_jax.losses import COARSE_UNIT_WEIGHT
from mspn_jax.model import BATCH_NORM_EPSILON, MEAN_RGB, NUM_UNITS, STD_RGB
from mspn_jax.model import MSPN as JaxMSPN

NUM_HARD_KEYPOINTS = 8


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, and ReLU unless told otherwise."""

    def __init__(self, inputs: int, outputs: int, size: int = 1, stride: int = 1, relu=True):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs, BATCH_NORM_EPSILON)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return F.relu(x, inplace=True) if self.relu else x


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, channels: int, stride: int):
        super().__init__()
        outputs = 4 * channels
        self.conv1 = nn.Conv2d(inputs, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels, BATCH_NORM_EPSILON)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels, BATCH_NORM_EPSILON)
        self.conv3 = nn.Conv2d(channels, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs, BATCH_NORM_EPSILON)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = ConvNorm(inputs, outputs, stride=stride, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        if self.downsample is not None:
            x = self.downsample(x)
        return F.relu(x + y, inplace=True)


class Encoder(nn.Module):
    def __init__(self, blocks_per_unit: tuple[int, ...], stem_channels: int):
        super().__init__()
        inputs = stem_channels
        for i, num_blocks in enumerate(blocks_per_unit):
            blocks = []
            for block in range(num_blocks):
                stride = 2 if i > 0 and block == 0 else 1
                blocks.append(Bottleneck(inputs, stem_channels * 2**i, stride))
                inputs = 4 * stem_channels * 2**i
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))

    def forward(self, x: Tensor, skips: list[Tensor] | None) -> list[Tensor]:
        encoded = []
        for i in range(NUM_UNITS):
            x = getattr(self, f"layer{i + 1}")(x)
            if skips is not None:
                x = x + skips[i]
            encoded.append(x)
        return encoded


class Unit(nn.Module):
    """One resolution of the decoder."""

    def __init__(self, index: int, inputs: int, channels: int, stem_channels: int, feeds_next):
        super().__init__()
        self.in_skip = ConvNorm(inputs, channels, relu=False)
        self.up_conv = ConvNorm(channels, channels, relu=False) if index > 0 else None
        self.out_skip1 = ConvNorm(inputs, inputs) if feeds_next else None
        self.out_skip2 = ConvNorm(channels, inputs) if feeds_next else None
        self.cross_conv = None
        if feeds_next and index == NUM_UNITS - 1:
            self.cross_conv = ConvNorm(channels, stem_channels)

    def forward(self, x: Tensor, coarser: Tensor | None) -> tuple[Tensor, Tensor | None]:
        y = self.in_skip(x)
        if self.up_conv is not None:
            y = y + self.up_conv(_resized(coarser, x.shape[2:]))
        y = F.relu(y, inplace=True)
        skip = None
        if self.out_skip1 is not None and self.out_skip2 is not None:
            skip = self.out_skip1(x) + self.out_skip2(y)
        return y, skip


class Decoder(nn.Module):
    def __init__(self, stem_channels: int, channels: int, feeds_next: bool):
        super().__init__()
        for i in range(NUM_UNITS):
            inputs = 4 * stem_channels * 2 ** (NUM_UNITS - 1 - i)
            unit = Unit(i, inputs, channels, stem_channels, feeds_next)
            self.add_module(f"up{i + 1}", unit)

    def forward(self, encoded: list[Tensor]) -> tuple[list[Tensor], list[Tensor], Any]:
        features, skips = [], []
        y = None
        for i, x in enumerate(reversed(encoded)):
            unit = getattr(self, f"up{i + 1}")
            y, skip = unit(x, y)
            features.append(y)
            skips.append(skip)
        return features, skips[::-1], None if unit.cross_conv is None else unit.cross_conv(y)


class Stage(nn.Module):
    def __init__(self, blocks_per_unit, stem_channels: int, unit_channels: int, feeds_next: bool):
        super().__init__()
        self.downsample = Encoder(blocks_per_unit, stem_channels)
        self.upsample = Decoder(stem_channels, unit_channels, feeds_next)

    def forward(self, x: Tensor, skips: list[Tensor] | None):
        return self.upsample(self.downsample(x, skips))


class Head(nn.Module):
    def __init__(self, channels: int, num_keypoints: int):
        super().__init__()
        self.conv_layers = nn.Sequential(
            ConvNorm(channels, channels), ConvNorm(channels, num_keypoints, 3, relu=False)
        )

    def forward(self, x: Tensor, heatmap_hw) -> Tensor:
        y = self.conv_layers(x)
        return _resized(y.to(torch.promote_types(y.dtype, torch.float32)), heatmap_hw)


class MSPN(nn.Module):
    """images (B, 3, H, W) -> heatmaps of all stages and units, each (B, K, H/4, W/4)."""

    def __init__(self, like: JaxMSPN):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.top = nn.Module()
        self.backbone.top.top = nn.Sequential(
            ConvNorm(3, like.stem_channels, 7, 2), nn.MaxPool2d(3, 2, 1)
        )
        sizes = (like.blocks_per_unit, like.stem_channels, like.unit_channels)
        self.backbone.multi_stage_mspn = nn.ModuleList(
            Stage(*sizes, feeds_next=s < like.num_stages - 1) for s in range(like.num_stages)
        )
        self.head = nn.Module()
        self.head.predict_layers = nn.ModuleList(
            Head(like.unit_channels, like.num_keypoints) for _ in range(like.num_stages * NUM_UNITS)
        )

    def forward(self, images: Tensor, last_only: bool = False) -> list[Tensor]:
        heatmap_hw = (images.shape[2] // 4, images.shape[3] // 4)
        x, skips = self.backbone.top.top(images), None
        features = []
        for stage in self.backbone.multi_stage_mspn:
            of_stage, skips, x = stage(x, skips)
            features += of_stage
        pairs = list(zip(self.head.predict_layers, features, strict=True))
        return [head(y, heatmap_hw) for head, y in (pairs[-1:] if last_only else pairs)]


def _resized(x: Any, hw) -> Tensor:
    return F.interpolate(x, size=tuple(hw), mode="bilinear", align_corners=True)


def mspn_loss(heatmaps: list[Tensor], targets: list[Tensor], weights: Tensor) -> Tensor:
    """The sum over stages and units; `targets` has one for each of the heatmaps."""
    total = torch.zeros((), device=weights.device)
    for i, (prediction, target) in enumerate(zip(heatmaps, targets, strict=True)):
        if i % NUM_UNITS < NUM_UNITS - 1:
            per_joint = (prediction - target).square().mean((2, 3)) * weights
            total = total + COARSE_UNIT_WEIGHT * per_joint.mean()
        else:
            by_weight = weights[:, :, None, None]
            per_joint = (prediction * by_weight - target * by_weight).square().mean((2, 3))
            hardest = per_joint.topk(min(NUM_HARD_KEYPOINTS, per_joint.shape[1]), dim=1).values
            total = total + (hardest.sum(1) / NUM_HARD_KEYPOINTS).mean()
    return total


# --- the ways to run it ---------------------------------------------------------------------------


class Setup(NamedTuple):
    """A way for PyTorch to run a network."""

    name: str
    channels_last: bool
    compiled: bool


SETUPS = {
    setup.name: setup
    for setup in (
        Setup("plain", False, False),
        Setup("channels-last", True, False),
        Setup("compiled", False, True),
        Setup("channels-last-compiled", True, True),
    )
}


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def new_network(like: JaxMSPN, state_dict: Mapping[str, np.ndarray], setup: Setup) -> MSPN:
    """A network with these weights; every one of them is used."""
    network = MSPN(like)
    network.load_state_dict({k: torch.tensor(v) for k, v in state_dict.items()}, strict=True)
    memory_format = torch.channels_last if setup.channels_last else torch.contiguous_format
    return network.to(device(), memory_format=memory_format)


def normaliser(setup: Setup, dtype: torch.dtype = torch.float32) -> Callable[[np.ndarray], Tensor]:
    """(B, H, W, 3) uint8 of the host -> (B, 3, H, W) of the device, in the setup's format."""
    mean_rgb, std_rgb = (
        torch.tensor(of, dtype=dtype, device=device()) for of in (MEAN_RGB, STD_RGB)
    )
    memory_format = torch.channels_last if setup.channels_last else torch.contiguous_format

    def normalised(crops: np.ndarray) -> Tensor:
        images = (torch.from_numpy(crops).to(device(), dtype) - mean_rgb) / std_rgb
        return images.permute(0, 3, 1, 2).contiguous(memory_format=memory_format)

    return normalised


@contextlib.contextmanager
def in_full_precision() -> Iterator[None]:
    """Without gradients, and without the TF32 products that a GPU makes of float32 elsewhere."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _autocast(dtype: str) -> contextlib.AbstractContextManager:
    return torch.autocast(device().type, torch.bfloat16, enabled=dtype == "bfloat16")


def forward_way(
    network: MSPN, crops: np.ndarray, setup: Setup, dtype: str, flip_permutation: Any
) -> Callable[[], Tensor]:
    """Crops -> the last heatmaps, merged with the mirrored ones if a permutation is given."""
    network = network.eval()

    def heatmaps(images: Tensor) -> Tensor:
        if flip_permutation is not None:
            images = torch.cat([images, images.flip(3)])
        with _autocast(dtype):
            maps = network(images, last_only=True)[0]
        if flip_permutation is None:
            return maps
        maps, mirrored = maps.chunk(2)
        return 0.5 * (maps + mirrored.flip(3)[:, flip_permutation])

    heatmaps = torch.compile(heatmaps) if setup.compiled else heatmaps
    normalised = normaliser(setup)

    @torch.inference_mode()
    def way() -> Tensor:
        maps = heatmaps(normalised(crops))
        synchronise()
        return maps

    return way


class TrainingStep:
    """A training step that returns its loss. Targets are on the device already.

    With dtype float64 the whole step is float64, for `step.check_same_step`.
    """

    def __init__(
        self,
        network: MSPN,
        crops: np.ndarray,
        targets: list[np.ndarray],
        keypoint_weights: np.ndarray,
        setup: Setup,
        dtype: str,
        learning_rate: float,
    ):
        exact = dtype == "float64"
        self.network = network.double().train() if exact else network.train()
        self.crops = crops
        self.normalised = normaliser(setup, torch.float64 if exact else torch.float32)
        self.adam = torch.optim.Adam(network.parameters(), learning_rate, fused=True)
        on_device = [torch.tensor(target, device=device()) for target in targets]
        weights = torch.tensor(keypoint_weights, device=device())

        def loss_of(images: Tensor) -> Tensor:
            with _autocast(dtype):
                heatmaps = network(images)
            return mspn_loss(heatmaps, on_device, weights)

        self.loss_of = torch.compile(loss_of) if setup.compiled else loss_of

    def __call__(self) -> Tensor:
        self.adam.zero_grad(set_to_none=True)
        loss = self.loss_of(self.normalised(self.crops))
        loss.backward()
        self.adam.step()
        synchronise()
        return loss.detach()

    def gradient_norm(self) -> float:
        """Of the last step."""
        squares = [p.grad.double().square().sum() for p in self.network.parameters()]
        return float(torch.stack(squares).sum().sqrt())
