"""Compares several devices with one: loss curves of 1, 2, 4 and 8 devices, and keypoints of 8.

    python tests/stress/devices.py [--devices 1 2 4 8] [--steps 50] [--json FILE]

A tiny network trains on virtual CPU devices, always on the same global batch of 8 crops. With
synchronised batch norm the curves must agree. Without it each device has its own statistics: N
devices must then agree with N micro-batches on one device. In float32 only the first step is
compared, because permuting four crops moves a float32 curve by 2e-3 in four steps.
"""

import argparse
import json
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
MOST_DEVICES = 8
os.environ["JAX_ENABLE_X64"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={MOST_DEVICES}"
)

import jax
import numpy as np

from mspn_jax import inference, training
from mspn_jax.devices import AXIS, replicate, shard
from mspn_jax.model import MSPN
from mspn_jax.optimizer import adam
from mspn_jax.skeletons import COCO
from mspn_jax.variables import initial_variables

TINY = dict(num_stages=1, blocks_per_unit=(1, 1, 1, 1), stem_channels=8, unit_channels=16)
ROWS, CROP_HW = 8, (64, 64)


def batch_of(step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    return {
        "crops": rng.integers(0, 256, (ROWS, *CROP_HW, 3), np.uint8),
        "keypoints_crop_xy": rng.uniform(0, 64, (ROWS, 17, 2)).astype(np.float32),
        "visibility": rng.integers(0, 3, (ROWS, 17)).astype(np.float32),
    }


def curve(
    steps: int, dtype: str, num_devices: int, num_parts: int = 1, synchronised: bool = True
) -> tuple[list[float], list[np.ndarray]]:
    """Returns the losses, and Adam's first moments after one step: 0.1 times the gradients."""
    optimizer = adam(1e-3)
    model = MSPN(**TINY, dtype=dtype, axis_name=AXIS if synchronised else None)
    devices = jax.local_devices()[:num_devices]
    step = training.on_all_devices(
        training.train_step(model, optimizer, num_micro_batches=num_parts), devices
    )
    variables = jax.tree.map(
        lambda leaf: leaf.astype(dtype), initial_variables(MSPN(**TINY), 0, CROP_HW)
    )
    state = replicate(training.new_state(variables, optimizer), devices)
    losses, moments = [], []
    for i in range(steps):
        state, metrics = step(state, shard(batch_of(i), devices))
        losses.append(float(metrics["loss"]))
        if i == 0:
            moments = jax.tree.leaves(jax.device_get(state.opt_state[1][0].mu))
    return losses, moments


def keypoints_apart() -> float:
    """Returns the largest distance, in pixels, between the keypoints of all devices and of one."""
    model = MSPN(**TINY, dtype="float64")
    variables = initial_variables(MSPN(**TINY), 0, CROP_HW)
    crops = batch_of(0)["crops"]
    on_devices = inference.estimate_on_devices(model, COCO.flip_permutation)
    dealt = shard(crops)
    together, _ = on_devices(replicate(variables), dealt)
    parts = {len(s.data) for array in (dealt, together) for s in array.addressable_shards}
    assert parts == {ROWS // MOST_DEVICES}, "a device computed another device's rows"
    one = jax.jit(lambda v, crops: inference.estimate(model, v, crops, COCO.flip_permutation))
    alone, _ = one(variables, crops)
    assert np.ptp(alone, axis=0).min() > 1, "the crops show the same"
    return float(np.abs(np.asarray(together) - alone).max())


def difference(curve: list[float], other: list[float]) -> float:
    """Returns the largest relative difference."""
    return float(np.abs(np.array(curve) / np.array(other) - 1).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    first, *others = options.devices
    most = max(options.devices)
    found = {}

    one, _ = curve(options.steps, "float64", first)
    found["loss of one device"] = [one[0], one[-1]]
    for count in others:
        other, _ = curve(options.steps, "float64", count)
        found[f"float64, {count} devices"] = difference(other, one)
    apart, _ = curve(options.steps, "float64", most, synchronised=False)
    found["float64, statistics apart"] = difference(apart, one)
    for count in {1, most // 2}:
        parts, _ = curve(options.steps, "float64", count, most // count, synchronised=False)
        name = f"float64, {most} devices or {count} of {most // count} parts, statistics apart"
        found[name] = difference(parts, apart)
    (loss_one, gradients), (loss_most, others) = (curve(1, "float32", n) for n in (first, most))
    found[f"float32, first loss, {most} devices"] = difference(loss_most, loss_one)
    found[f"float32, its gradients, {most} devices"] = max(
        float(np.linalg.norm(a - b) / np.linalg.norm(a))
        for a, b in zip(gradients, others, strict=True)
    )
    found[f"float64, pixels between keypoints, {MOST_DEVICES} devices"] = keypoints_apart()
    print(f"{options.steps} steps, jax {jax.__version__}; relative differences:\n")
    for name, value in found.items():
        print(f"| {name} | {value if isinstance(value, list) else format(value, '.1e')} |")
    if options.json:
        options.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
