"""An equal network of Flax's own layers, as one would write it first: a baseline for bytes.py.

It has the methods that training and inference call. Its resizing is `jax.image.resize`, which does
not align the corners.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mspn_jax.model import NUM_UNITS, STRIDE


class PlainMSPN(nn.Module):
    """MSPN of `nn.Conv`, `nn.BatchNorm`, `nn.max_pool` and `jax.image.resize`."""

    num_stages: int
    num_keypoints: int = 17
    blocks_per_unit: tuple[int, ...] = (3, 4, 6, 3)
    stem_channels: int = 64
    unit_channels: int = 256
    dtype: Any = jnp.float32

    def units(self, images: Any, train: bool = False) -> list[list[Any]]:
        """The heatmaps of every stage and unit."""
        return self._units(images, train)

    def predict(self, images: Any) -> Any:
        """The last stage's finest heatmaps."""
        return self._units(images, train=False)[-1][-1]

    @nn.compact
    def _units(self, images: Any, train: bool) -> list[list[Any]]:
        def conv(x, channels, size=1, stride=1, relu=True):
            pad = [(size // 2, size // 2)] * 2
            x = nn.Conv(
                channels, (size, size), stride, padding=pad, use_bias=False, dtype=self.dtype
            )(x)
            x = nn.BatchNorm(not train, momentum=0.9, dtype=self.dtype)(x)
            return nn.relu(x) if relu else x

        def resize(x, factor):
            batch, height, width, channels = x.shape
            shape = (batch, height * factor, width * factor, channels)
            return jax.image.resize(x, shape, "bilinear")

        def block(x, channels, stride):
            y = conv(x, channels)
            y = conv(y, channels, size=3, stride=stride)
            y = conv(y, 4 * channels, relu=False)
            if x.shape != y.shape:
                x = conv(x, 4 * channels, stride=stride, relu=False)
            return nn.relu(x + y)

        x = conv(images, self.stem_channels, size=7, stride=2)
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        skips = [0] * NUM_UNITS
        stages = []
        for stage in range(self.num_stages):
            encoded = []
            for layer, num_blocks in enumerate(self.blocks_per_unit):
                for i in range(num_blocks):
                    x = block(x, self.stem_channels * 2**layer, 2 if layer and not i else 1)
                x = x + skips[layer]
                encoded.append(x)
            units, next_skips, y = [], [], None
            for x in reversed(encoded):
                lateral = conv(x, self.unit_channels, relu=False)
                if y is not None:
                    lateral += conv(resize(y, 2), self.unit_channels, relu=False)
                y = nn.relu(lateral)
                heatmaps = conv(conv(y, self.unit_channels), self.num_keypoints, 3, relu=False)
                factor = images.shape[1] // STRIDE // heatmaps.shape[1]
                units.append(resize(heatmaps, factor).astype(jnp.float32))
                if stage < self.num_stages - 1:
                    next_skips.append(conv(x, x.shape[-1]) + conv(y, x.shape[-1]))
            if next_skips:
                x, skips = conv(y, self.stem_channels), next_skips[::-1]
            stages.append(units)
        return stages
