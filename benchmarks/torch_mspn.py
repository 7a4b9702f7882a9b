"""The same MSPN and its loss in PyTorch, as a baseline, with the weights of a Flax network.

Layers have their paths in the Flax tree as names. Images and heatmaps are NCHW.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from flax import traverse_util
from torch import Tensor, nn

from mspn_jax.losses import COARSE_UNIT_WEIGHT
from mspn_jax.model import BATCH_NORM_EPSILON, MEAN_RGB, NUM_UNITS, STD_RGB, STRIDE
from mspn_jax.model import MSPN as JaxMSPN

NUM_HARD_KEYPOINTS = 8


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, and ReLU unless told otherwise."""

    def __init__(self, kernel, scale, bias, mean, var):
        super().__init__()
        self.kernel = nn.Parameter(torch.tensor(kernel.transpose(3, 2, 0, 1)))
        self.norm = nn.BatchNorm2d(len(scale), BATCH_NORM_EPSILON)
        weights = {"weight": scale, "bias": bias, "running_mean": mean, "running_var": var}
        self.norm.load_state_dict({name: torch.tensor(w) for name, w in weights.items()})

    def forward(self, x: Tensor, stride: int, relu: bool) -> Tensor:
        x = F.conv2d(x, self.kernel, stride=stride, padding=self.kernel.shape[-1] // 2)
        x = self.norm(x)
        return F.relu(x, inplace=True) if relu else x


class MSPN(nn.Module):
    """From images (B, 3, H, W) to a list of heatmaps (B, K, H/4, W/4), stage by stage."""

    def __init__(self, like: JaxMSPN, variables: Any):
        super().__init__()
        self.like = like
        self.register_buffer("mean_rgb", torch.tensor(MEAN_RGB, dtype=torch.float64))
        self.register_buffer("std_rgb", torch.tensor(STD_RGB, dtype=torch.float64))
        leaves = traverse_util.flatten_dict(variables["params"])
        leaves |= traverse_util.flatten_dict(variables["batch_stats"])
        self.layers = nn.ModuleDict()
        for path in [path[:-1] for path in leaves if path[-1] == "kernel"]:
            names = ("kernel", "scale", "bias", "mean", "var")
            self.layers["/".join(path)] = ConvNorm(*(leaves[(*path, name)] for name in names))

    def normalised(self, crops: np.ndarray, memory_format: torch.memory_format) -> Tensor:
        """(B, H, W, 3) uint8 of the host -> images on the device."""
        dtype = self.layers["stem"].kernel.dtype
        on_device = torch.from_numpy(crops).to(self.mean_rgb.device).to(dtype)
        images = (on_device - self.mean_rgb.to(dtype)) / self.std_rgb.to(dtype)
        return images.permute(0, 3, 1, 2).contiguous(memory_format=memory_format)

    def forward(self, images: Tensor, last_only: bool = False) -> list[Tensor]:
        heatmap_hw = [side // STRIDE for side in images.shape[2:]]
        x = F.max_pool2d(self.conv("stem", images, stride=2), 3, 2, 1)
        skips: list[Tensor] = []
        features = {}
        for s in range(self.like.num_stages):
            of_stage, skips = self.stage(f"stage{s}", x, skips)
            features |= {f"stage{s}_head{u}": y for u, y in enumerate(of_stage)}
            if skips:
                x = self.conv(f"stage{s}/next_stage_input", of_stage[-1])
        chosen = list(features)[-1:] if last_only else features
        return [self.head(name, features[name], heatmap_hw) for name in chosen]

    def conv(self, name: str, x: Tensor, stride: int = 1, relu: bool = True) -> Tensor:
        return self.layers[name](x, stride, relu)

    def stage(
        self, stage: str, x: Tensor, skips: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The decoder's features, coarsest first, and what the next stage adds to its own."""
        encoded = []
        for layer, num_blocks in enumerate(self.like.blocks_per_unit):
            for block in range(num_blocks):
                stride = 2 if layer > 0 and block == 0 else 1
                x = self.bottleneck(f"{stage}/layer{layer + 1}_block{block}", x, stride)
            if skips:
                x = x + skips[layer]
            encoded.append(x)

        features, next_skips = [], []
        for u, x in enumerate(reversed(encoded)):
            unit = f"{stage}/unit{u}"
            y = self.conv(f"{unit}_lateral", x, relu=False)
            if features:
                coarser = _resized(features[-1], x.shape[2:])
                y = y + self.conv(f"{unit}_up", coarser, relu=False)
            features.append(F.relu(y, inplace=True))
            if f"{unit}_encoder_skip" in self.layers:
                skip = self.conv(f"{unit}_encoder_skip", x)
                next_skips.append(skip + self.conv(f"{unit}_decoder_skip", features[-1]))
        return features, next_skips[::-1]

    def bottleneck(self, block: str, x: Tensor, stride: int) -> Tensor:
        y = self.conv(f"{block}/conv1", x)
        y = self.conv(f"{block}/conv2", y, stride)
        y = self.conv(f"{block}/conv3", y, relu=False)
        if f"{block}/shortcut" in self.layers:
            x = self.conv(f"{block}/shortcut", x, stride, relu=False)
        return F.relu(x + y, inplace=True)

    def head(self, name: str, x: Tensor, heatmap_hw: list[int]) -> Tensor:
        y = self.conv(f"{name}_out", self.conv(f"{name}_hidden", x), relu=False)
        return _resized(y.to(torch.promote_types(y.dtype, torch.float32)), heatmap_hw)


def _resized(x: Tensor, hw: Any) -> Tensor:
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
