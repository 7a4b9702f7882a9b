"""The time of each part of PyTorch's inference or training step, on a CPU, by its profiler."""

import collections
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

CONVOLUTIONS = "convolutions: 3x3, stem"
PRODUCTS = "products: 1x1 convolutions, resizing"
PARTS = {
    "native_batch_norm": "batch norm",
    "native_batch_norm_backward": "batch norm, backward",
    "max_pool2d_with_indices": "max pooling",
    "max_pool2d_with_indices_backward": "max pooling, backward",
    "threshold_backward": "ReLU, backward",
    "upsample_bilinear2d": PRODUCTS,
    "upsample_bilinear2d_backward": f"{PRODUCTS}, backward",
    "_fused_adam_": "Adam",
}


def traced(way: Callable[[], Any]) -> tuple[collections.Counter, float]:
    """(milliseconds of each part in a round, seconds of the round)."""
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, record_shapes=True) as profile:
        start = time.perf_counter()
        way()
        seconds = time.perf_counter() - start
    parts: collections.Counter = collections.Counter()
    for event in profile.key_averages(group_by_input_shape=True):
        part = part_of(event.key.removeprefix("aten::"), event.input_shapes)
        parts[part] += event.self_cpu_time_total / 1e3
    return parts, seconds


def part_of(operation: str, input_shapes: Sequence[Sequence[int]]) -> str:
    if operation == "mkldnn_convolution":  # of x and the kernel
        return PRODUCTS if input_shapes[1][-1] == 1 else CONVOLUTIONS
    if operation == "convolution_backward":  # of y's gradient, x and the kernel
        return f"{PRODUCTS if input_shapes[2][-1] == 1 else CONVOLUTIONS}, backward"
    return PARTS.get(operation, "ReLU, sums of branches, losses, copies, Python")
