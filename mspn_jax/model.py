"""MSPN, the Multi-Stage Pose Network (arXiv 1901.00148), in Flax Linen.

A stage is a ResNet encoder (four layers, strides 4 to 32) and a decoder of four units (strides 32
to 4, unit 0 the coarsest). Each unit predicts heatmaps. A later stage starts from the finest unit
of the previous one, and adds that stage's features at every resolution.

Arrays are NHWC. Batch norm follows every convolution (`ConvNorm`). For inference `folding.py` folds
it into the convolution (`ConvBias`).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float, UInt8

from mspn_jax.convolution import convolve
from mspn_jax.pooling import max_pool
from mspn_jax.upsampling import upsample

BATCH_NORM_EPSILON = 1e-5
BATCH_NORM_DECAY = 0.9  # of the running statistics: torch calls it momentum 0.1
STRIDE = 4  # of the heatmaps, in crop pixels
NUM_UNITS = 4  # resolutions of a stage
COARSEST_STRIDE = STRIDE * 2 ** (NUM_UNITS - 1)
MEAN_RGB = (123.675, 116.28, 103.53)  # ImageNet's, in grey levels
STD_RGB = (58.395, 57.12, 57.375)


def initial_value(name: str, shape: tuple[int, ...], normal: Callable[..., Any]) -> Any:
    """A variable before training: float32, by the variable's name.

    Kernels are kaiming normal (fan out), scales and variances 1, biases and means 0.

    Args:
      normal: shape -> standard normal values, by NumPy or JAX.
    """
    if name == "kernel":
        height, width, _, out_channels = shape
        return normal(shape) * np.float32(np.sqrt(2 / (height * width * out_channels)))
    return np.full(shape, {"scale": 1, "bias": 0, "mean": 0, "var": 1}[name], np.float32)


def _initialiser(name: str) -> Callable[[Any, tuple[int, ...]], Float[jax.Array, "..."]]:
    """`initial_value` in Flax's form."""

    def initialise(key: Any, shape: tuple[int, ...]) -> Float[jax.Array, "..."]:
        normal = functools.partial(jax.random.normal, key, dtype=jnp.float32)
        return jnp.asarray(initial_value(name, shape, normal))

    return initialise


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, and by default ReLU.

    Parameters and statistics are float32, the convolution runs in `dtype`. In training the
    statistics of the batch normalise (of all devices along `axis_name`, if given). The running
    variance averages the unbiased estimate, as in torch and unlike `nn.BatchNorm`.
    """

    channels: int
    size: int = 1
    stride: int = 1
    relu: bool = True
    train: bool = False
    dtype: Any = jnp.float32
    axis_name: str | None = None
    upsampling: int = 1

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B H W I"]) -> Float[jax.Array, "B h w O"]:
        kernel_shape = (self.size, self.size, x.shape[-1], self.channels)
        kernel = self.param("kernel", _initialiser("kernel"), kernel_shape).astype(self.dtype)
        scale = self.param("scale", _initialiser("scale"), (self.channels,))
        bias = self.param("bias", _initialiser("bias"), (self.channels,))
        running_mean, running_var = (
            self.variable("batch_stats", name, _initialiser(name), None, (self.channels,))
            for name in ("mean", "var")
        )

        x = upsample(convolve(x, kernel, self.stride), self.upsampling)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if self.train:
            axis_name = None if self.is_initializing() else self.axis_name
            mean, var, unbiased_var = batch_statistics(x, axis_name)
            if not self.is_initializing():
                for running, new in ((running_mean, mean), (running_var, unbiased_var)):
                    running.value = BATCH_NORM_DECAY * running.value + (1 - BATCH_NORM_DECAY) * new
        else:
            mean, var = running_mean.value, running_var.value
        x = batch_norm(x, mean, var, scale, bias)
        return (nn.relu(x) if self.relu else x).astype(self.dtype)


class ConvBias(nn.Module):
    """Convolution with bias, and by default ReLU: a ConvNorm with its norm folded in.

    Parameters are float32, the convolution runs in `dtype`.
    """

    channels: int
    size: int = 1
    stride: int = 1
    relu: bool = True
    dtype: Any = jnp.float32
    upsampling: int = 1

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B H W I"]) -> Float[jax.Array, "B h w O"]:
        kernel_shape = (self.size, self.size, x.shape[-1], self.channels)
        kernel = self.param("kernel", _initialiser("kernel"), kernel_shape).astype(self.dtype)
        bias = self.param("bias", _initialiser("bias"), (self.channels,))
        x = upsample(convolve(x, kernel, self.stride), self.upsampling)
        # In the convolution's dtype: a GPU then adds the bias and applies ReLU within it.
        x += bias.astype(x.dtype)
        return nn.relu(x) if self.relu else x


# With jax.jit, here and below, a function is traced once per shape instead of once per layer.
@functools.partial(jax.jit, static_argnames="axis_name")
def batch_statistics(
    x: Float[jax.Array, "B H W C"], axis_name: str | None
) -> tuple[Float[jax.Array, " C"], Float[jax.Array, " C"], Float[jax.Array, " C"]]:
    """Each channel's mean, variance and unbiased variance, of all devices along `axis_name`."""
    mean, square = x.mean((0, 1, 2)), jnp.square(x).mean((0, 1, 2))
    count = x.size / x.shape[-1]
    if axis_name is not None:
        mean, square = jax.lax.pmean((mean, square), axis_name)
        count *= jax.lax.axis_size(axis_name)
    var = jnp.maximum(square - jnp.square(mean), 0.0)
    return mean, var, var * (count / max(count - 1, 1))


@jax.jit
def batch_norm(
    x: Float[jax.Array, "B H W C"],
    mean: Float[jax.Array, " C"],
    var: Float[jax.Array, " C"],
    scale: Float[jax.Array, " C"],
    bias: Float[jax.Array, " C"],
) -> Float[jax.Array, "B H W C"]:
    """Each channel normalised, scaled and shifted."""
    # With one factor and one term per channel the gradient needs two sums over x instead of four.
    factor = scale * jax.lax.rsqrt(var + BATCH_NORM_EPSILON)
    return x * factor + (bias - mean * factor)


class Bottleneck(nn.Module):
    """ResNet's residual block: 1x1, 3x3 (which has the stride), 1x1 to four times the channels."""

    channels: int
    stride: int
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B H W I"]) -> Float[jax.Array, "B h w O"]:
        out_channels = 4 * self.channels
        y = self.conv(self.channels, name="conv1")(x)
        y = self.conv(self.channels, size=3, stride=self.stride, name="conv2")(y)
        y = self.conv(out_channels, relu=False, name="conv3")(y)
        if x.shape != y.shape:
            x = self.conv(out_channels, stride=self.stride, relu=False, name="shortcut")(x)
        return nn.relu(x + y)


class MSPN(nn.Module):
    """The network.

    Attributes:
      num_stages: S, 1 to 4 in the published models.
      num_keypoints: K.
      blocks_per_unit: residual blocks in the encoder's four layers, finest first; ResNet-50's.
      stem_channels: channels of the stem; sets the width of every encoder layer.
      unit_channels: channels of every decoder unit.
      dtype: of the convolutions. Parameters, statistics and heatmaps are float32.
      axis_name: the mesh axis to take batch statistics over, or None for each device's own.
      remat: store only the inputs of residual blocks and recompute the blocks in the backward pass:
        less memory, a third more work, the same numbers.
      folded: for inference with the variables that `folding.fold` returns.
    """

    num_stages: int
    num_keypoints: int = 17
    blocks_per_unit: tuple[int, ...] = (3, 4, 6, 3)
    stem_channels: int = 64
    unit_channels: int = 256
    dtype: Any = jnp.float32
    axis_name: str | None = None
    remat: bool = False
    folded: bool = False

    def __call__(
        self, images: Float[jax.Array, "B H W 3"], train: bool = False
    ) -> Float[jax.Array, "S U B h w K"]:
        """Heatmaps of every stage and unit, unit 0 the coarsest; the last is the prediction.

        Args:
          images: RGB, normalised; H and W multiples of 32.
          train: normalise with the batch's statistics and update the running ones
            (with `mutable=["batch_stats"]`).

        Returns:
          float32 on the 0..255 scale of the targets, h = H / 4 and w = W / 4.
        """
        return jnp.stack([jnp.stack(units) for units in self.units(images, train)])

    def units(
        self, images: Float[jax.Array, "B H W 3"], train: bool = False
    ) -> list[list[Float[jax.Array, "B h w K"]]]:
        """The heatmaps of `__call__` as a list of units for each stage, for training.

        The gradient of a stack is an array as large as the stack for each heatmap.
        """
        heatmaps = self._heatmaps(images, train, last_only=False)
        return [heatmaps[first : first + NUM_UNITS] for first in range(0, len(heatmaps), NUM_UNITS)]

    def predict(self, images: Float[jax.Array, "B H W 3"]) -> Float[jax.Array, "B h w K"]:
        """The last stage's finest heatmaps, without computing the others."""
        return self._heatmaps(images, train=False, last_only=True)[0]

    @nn.compact
    def _heatmaps(self, images, train: bool, last_only: bool) -> list[Float[jax.Array, "B h w K"]]:
        if (
            images.ndim != 4
            or images.shape[-1] != 3
            or any(side % COARSEST_STRIDE for side in images.shape[1:3])
        ):
            raise ValueError(
                "images must be (B, H, W, 3) with H and W multiples of"
                f" {COARSEST_STRIDE}, got {images.shape}"
            )
        if self.folded and train:
            raise ValueError("a folded network has no batch norm to train")
        conv: Callable[..., nn.Module] = functools.partial(
            ConvNorm, train=train, dtype=self.dtype, axis_name=self.axis_name
        )
        if self.folded:
            conv = functools.partial(ConvBias, dtype=self.dtype)
        heatmap_height = images.shape[1] // STRIDE

        x = conv(self.stem_channels, size=7, stride=2, name="stem")(images)
        x = max_pool(x)
        heatmaps = []
        skips = None
        for s in range(self.num_stages):
            is_last = s == self.num_stages - 1
            features, next_x, skips = Stage(
                blocks_per_unit=self.blocks_per_unit,
                stem_channels=self.stem_channels,
                unit_channels=self.unit_channels,
                feeds_next=not is_last,
                conv=conv,
                block=nn.remat(Bottleneck) if self.remat and train else Bottleneck,
                name=f"stage{s}",
            )(x, skips)
            for u, feature in enumerate(features):
                if last_only and not (is_last and u == NUM_UNITS - 1):
                    continue
                y = conv(self.unit_channels, name=f"stage{s}_head{u}_hidden")(feature)
                y = conv(self.num_keypoints, size=3, relu=False, name=f"stage{s}_head{u}_out")(y)
                y = y.astype(jnp.promote_types(y.dtype, jnp.float32))
                heatmaps.append(upsample(y, heatmap_height // y.shape[1]))
            x = next_x
        return heatmaps


class Stage(nn.Module):
    """One encoder-decoder pass.

    Returns the decoder's features, coarsest first; the input of the next stage; and, for each
    encoder layer, finest first, what the next stage adds to its own (both None if `feeds_next`
    is False).
    """

    blocks_per_unit: tuple[int, ...]
    stem_channels: int
    unit_channels: int
    feeds_next: bool
    conv: Callable[..., nn.Module]
    block: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Any, skips: Any) -> tuple[list[Float[jax.Array, "B _ _ C"]], Any, Any]:
        encoded = []
        for layer, num_blocks in enumerate(self.blocks_per_unit):
            for block in range(num_blocks):
                stride = 2 if layer > 0 and block == 0 else 1
                x = self.block(
                    self.stem_channels * 2**layer,
                    stride,
                    self.conv,
                    name=f"layer{layer + 1}_block{block}",
                )(x)
            if skips is not None:
                x = x + skips[layer]
            encoded.append(x)

        features: list[Float[jax.Array, "B _ _ C"]] = []
        next_skips: list[Float[jax.Array, "B _ _ _"]] = []
        y: Any = None
        for unit, x in enumerate(reversed(encoded)):
            name = f"unit{unit}"
            lateral = self.conv(self.unit_channels, relu=False, name=f"{name}_lateral")(x)
            if y is not None:
                # A 1x1 convolution commutes with upsampling, and costs a quarter before it.
                lateral += self.conv(
                    self.unit_channels, relu=False, upsampling=2, name=f"{name}_up"
                )(y)
            y = nn.relu(lateral)
            features.append(y)
            if self.feeds_next:
                next_skips.append(
                    self.conv(x.shape[-1], name=f"{name}_encoder_skip")(x)
                    + self.conv(x.shape[-1], name=f"{name}_decoder_skip")(y)
                )
        if not self.feeds_next:
            return features, None, None
        next_x = self.conv(self.stem_channels, name="next_stage_input")(y)
        return features, next_x, next_skips[::-1]


def is_encoder(path: tuple[str, ...]) -> bool:
    """Whether a parameter, by its path in `params`, is of the stem or of a stage's encoder."""
    return path[0] == "stem" or any(name.startswith("layer") for name in path[1:])


def normalise(crops: UInt8[jax.Array, "B H W 3"]) -> Float[jax.Array, "B H W 3"]:
    """The network's input: RGB crops minus `MEAN_RGB`, divided by `STD_RGB`."""
    return (crops.astype(jnp.float32) - jnp.array(MEAN_RGB)) / jnp.array(STD_RGB)
