"""Deterministic weights from parameter NAMES (numpy only, no torch, no weights shipped).

value(name) depends only on (name, shape, SEED): every tensor has its own generator,
    rng = numpy.random.default_rng(zlib.crc32(name.encode('utf-8')) + SEED)
so the order in which tensors are made does not matter, and a port may produce any
single tensor on its own.  All draws are made in float64 with the tensor's torch shape
(conv weight = [out, in, kh, kw], C order) and then cast to float32.

  ndim == 4  (conv weight)         rng.standard_normal(shape) * sqrt(2 / (in*kh*kw))
  '*.running_mean'                 rng.standard_normal(shape) * 0.1
  '*.running_var'                  rng.uniform(0.5, 1.5, shape)
  '*.num_batches_tracked'          int64 zero, shape ()
  '*.bias'  (BN bias, conv bias)   rng.standard_normal(shape) * 0.1
  '*.weight' with ndim == 1 (BN)   rng.uniform(0.5, 1.5, shape) * gain(name)

gain(name): keeps activations near unit scale through all stages (the table GAINS below,
first match wins, else 1): 0.25 for the last BN of a residual block and for the
cross-stage skips, 0.5 for the shortcut and the upsample BNs, 10 for the last BN of a
prediction head, which brings the heatmaps to a std of about 10..40.
"""

import math
import zlib

import numpy as np

GAINS = (
    # mmpose 1.x name parts
    (".bn3.", 0.25),
    (".out_skip1.bn.", 0.25),
    (".out_skip2.bn.", 0.25),
    (".cross_conv.bn.", 0.5),
    (".downsample.bn.", 0.5),
    (".in_skip.bn.", 0.5),
    (".up_conv.bn.", 0.5),
    (".conv_layers.1.bn.", 10.0),
    # Megvii name parts ('.cross_conv.bn.', '.up_conv.bn.' and '.downsample.bn.' as above)
    (".conv_bn_relu3.bn.", 0.25),
    (".skip1.bn.", 0.25),
    (".skip2.bn.", 0.25),
    (".u_skip.bn.", 0.5),
    (".res_conv2.bn.", 10.0),
)


def gain(name):
    for part, g in GAINS:
        if part in name:
            return g
    return 1.0


def make_tensor(name, shape, seed):
    shape = tuple(int(s) for s in shape)
    rng = np.random.default_rng(zlib.crc32(name.encode("utf-8")) + int(seed))
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if len(shape) == 4:
        fan_in = shape[1] * shape[2] * shape[3]
        return (rng.standard_normal(shape) * math.sqrt(2.0 / fan_in)).astype(np.float32)
    if name.endswith("running_mean"):
        return (rng.standard_normal(shape) * 0.1).astype(np.float32)
    if name.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if name.endswith(".bias"):
        return (rng.standard_normal(shape) * 0.1).astype(np.float32)
    if name.endswith(".weight") and len(shape) == 1:
        return (rng.uniform(0.5, 1.5, shape) * gain(name)).astype(np.float32)
    raise KeyError(f"no rule for {name} {shape}")


def make_state_dict(entries, seed):
    """entries: iterable of (name, shape, dtype) as in state_dict_*stage.json."""
    return {e[0]: make_tensor(e[0], e[1], seed) for e in entries}


def random_images(tag, shape, seed):
    """float32 'already normalised' NCHW input with coarse and fine structure.

    shape = (N, 3, H, W) with H, W multiples of 16; own generator per tag.
    coarse: standard normal (N,3,H/16,W/16), each value repeated over 16x16 pixels,
    plus 0.5 * standard normal (N,3,H,W); both drawn in float64 (coarse first),
    summed, cast to float32.
    """
    n, c, h, w = shape
    rng = np.random.default_rng(zlib.crc32(tag.encode("utf-8")) + int(seed))
    coarse = rng.standard_normal((n, c, h // 16, w // 16))
    fine = rng.standard_normal((n, c, h, w))
    x = coarse.repeat(16, axis=2).repeat(16, axis=3) + 0.5 * fine
    return x.astype(np.float32)


def head_pred(seed, i, keypoints, joint_shift, level_sigma=2.0, hw=(64, 48)):
    """i-th predicted heatmap stack [B, 17, 64, 48] float32 for the head-loss case.

    A Gaussian bump of height 150 and sigma `level_sigma` heatmap pixels at
    keypoints / 4 + joint_shift (both (B, 17, 2), x then y), plus noise
    default_rng([seed, 31, i]).standard_normal((B, 17, 64, 48)) * 12.  float64, then cast.
    """
    h, w = hw
    rng = np.random.default_rng([int(seed), 31, int(i)])
    c = keypoints.astype(np.float64) / 4.0 + joint_shift.astype(np.float64)
    x = np.arange(w)[None, None, None, :] - c[..., 0][..., None, None]
    y = np.arange(h)[None, None, :, None] - c[..., 1][..., None, None]
    g = 150.0 * np.exp(-(x * x + y * y) / (2.0 * level_sigma**2))
    return (g + rng.standard_normal(g.shape) * 12.0).astype(np.float32)
