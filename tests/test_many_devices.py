"""Several devices compute the same as one, and their programs lower for other platforms."""

import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mspn_jax import training
from mspn_jax.commands import stopping
from mspn_jax.inference import estimate
from mspn_jax.model import MSPN
from mspn_jax.optimizer import adam
from mspn_jax.skeletons import COCO
from mspn_jax.variables import initial_variables

HERE = pathlib.Path(__file__).parents[1]
TINY = dict(num_stages=1, blocks_per_unit=(1, 1, 1, 1), stem_channels=8, unit_channels=16)
CROP_HW = (64, 64)


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, float]:
    """What tests/stress/devices.py finds, with fewer devices and steps."""
    path = tmp_path_factory.mktemp("devices") / "found.json"
    subprocess.run(
        [
            sys.executable,
            "tests/stress/devices.py",
            "--devices",
            "1",
            "4",
            "--steps",
            "8",
            "--json",
            path,
        ],
        check=True,
        cwd=HERE,
    )
    return json.loads(path.read_text())


@pytest.mark.slow
def test_devices_with_synchronised_norm_are_as_one(found):
    first, last = found["loss of one device"]
    assert last < first
    assert found["float64, 4 devices"] < 1e-9
    assert found["float32, first loss, 4 devices"] < 1e-6
    assert found["float32, its gradients, 4 devices"] < 0.01


@pytest.mark.slow
def test_devices_find_the_keypoints_that_one_finds(found):
    assert found["float64, pixels between keypoints, 8 devices"] < 1e-6


@pytest.mark.slow
def test_parts_of_a_devices_crops_are_as_so_many_devices(found):
    assert found["float64, statistics apart"] > 1e-6  # each device has its own
    assert found["float64, 4 devices or 1 of 4 parts, statistics apart"] < 1e-9
    assert found["float64, 4 devices or 2 of 2 parts, statistics apart"] < 1e-9


def shapes_of(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_step_and_the_way_to_keypoints_lower_for_other_machines(dtype):
    """From a machine that has neither, and with nothing in them that calls back to the host."""
    model, optimizer = MSPN(**TINY, dtype=jnp.dtype(dtype), remat=True), adam(1e-3, clip_norm=1.0)
    state = training.new_state(initial_variables(model, 0, CROP_HW), optimizer, with_ema=True)
    step = training.train_step(model, optimizer, num_micro_batches=2, ema_decay=0.99)
    step = training.on_all_devices(stopping.with_signals(step))
    batch = {
        "crops": np.zeros((8, *CROP_HW, 3), np.uint8),
        "keypoints_crop_xy": np.zeros((8, 17, 2), np.float32),
        "visibility": np.zeros((8, 17), np.float32),
        "signal": np.zeros(1, np.int32),
    }
    shapes = shapes_of((state.params, state.batch_stats))
    loss = jax.ShapeDtypeStruct((), np.float32)
    inference = jax.jit(lambda v, crops: estimate(model, v, crops, COCO.flip_permutation))
    programs = {
        "convolution": step.gradients.trace(*shapes, shapes_of(batch)),
        "sqrt": step.update.trace(shapes_of(state), *shapes, loss),
        "reverse": inference.trace(shapes_of(state.variables), shapes_of(batch["crops"])),
    }
    for operation, traced in programs.items():
        for platform in ("tpu", "cuda"):
            text = traced.lower(lowering_platforms=(platform,)).as_text()
            assert f"stablehlo.{operation}" in text
            for word in ("callback", "infeed", "outfeed", "host_"):
                assert word not in text
