"""onnxruntime against JAX: the same keypoints from every network; which of them is chosen."""

import gc
import logging
import sys
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_folding import trained_variables
from test_predictor import DESCRIPTION, VARIABLES, some_boxes, some_picture

from mspn_jax import backends, devices
from mspn_jax.errors import CheckpointError, UsageError
from mspn_jax.predictor import Predictor
from mspn_jax.skeletons import SKELETONS
from mspn_jax.weights.description import Description

pytest.importorskip("onnx")

ONE_STAGE = Description(
    variant="one stage",
    model=DESCRIPTION.model | dict(num_stages=1, num_keypoints=16),
    skeleton=SKELETONS["mpii"],
    crop_hw=(128, 96),
    padding=1.1,
)
BLOCKS = Description(  # those of ResNet-50 in both stages
    variant="blocks",
    model=DESCRIPTION.model | dict(blocks_per_unit=(3, 4, 6, 3), stem_channels=4, unit_channels=8),
    crop_hw=(64, 64),
)
NETWORKS = {
    each.variant: (each, trained_variables(each.new_model()))
    for each in (DESCRIPTION, ONE_STAGE, BLOCKS)
}


@pytest.mark.parametrize(
    "network, options",
    [
        ("tiny", {}),
        ("tiny", {"flip_test": False}),
        ("tiny", {"num_stages": 1}),
        ("tiny", {"decoding": "dark"}),
        ("tiny", {"decoding": "dark", "flip_test": False, "num_stages": 1}),
        ("one stage", {}),
        ("one stage", {"decoding": "dark"}),
        ("blocks", {}),
    ],
)
def test_both_find_the_same_keypoints(network, options):
    jaxs, onnxruntimes = (
        Predictor(*NETWORKS[network], **options, backend=backend) for backend in backends.BACKENDS
    )
    pictures = [  # 0, 1, and batches of eight and one
        (some_picture(), some_boxes(11)),
        (some_picture((50, 40)), []),
        (some_picture((200, 120)), some_boxes(34) * 2),
        (some_picture(), some_boxes(1)),
    ]
    for together in (1, 3):
        found = onnxruntimes.stream(pictures, together)
        for mine, other in zip(found, jaxs.stream(pictures, together), strict=True):
            np.testing.assert_allclose(mine[0], other[0], atol=0.01)
            np.testing.assert_allclose(mine[1], other[1], atol=1e-4)
    assert np.ptp(other[0], axis=1).min() > 1  # there was something to tell apart


def test_on_a_cpu_onnxruntime_is_chosen_if_it_can_compute(monkeypatch, caplog):
    assert backends.choose(None, jnp.float32) == "onnxruntime"
    assert backends.choose(None, jnp.bfloat16) == "jax"
    assert backends.choose("jax", np.float32) == "jax"
    with caplog.at_level(logging.INFO, logger="mspn_jax"):
        assert Predictor(DESCRIPTION, VARIABLES).backend == "onnxruntime"
        assert Predictor(DESCRIPTION, VARIABLES, dtype=jnp.bfloat16).backend == "jax"
    assert [record.getMessage() for record in caplog.records] == [
        "tiny: runs on onnxruntime's CPUExecutionProvider",
        "tiny: runs on JAX (cpu)",
    ]
    monkeypatch.setattr(devices, "are_cpus", lambda: False)
    assert backends.choose(None, jnp.float32) == "jax"
    assert backends.choose("onnxruntime", jnp.float32) == "onnxruntime"


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_without_a_package_jax_computes(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    assert Predictor(DESCRIPTION, VARIABLES).backend == "jax"
    with pytest.raises(UsageError, match=rf"{missing} is not installed: pip install .*\[onnx\]"):
        Predictor(DESCRIPTION, VARIABLES, backend="onnxruntime")


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(backend="torch"), "backend 'torch': must be jax or onnxruntime"),
        (dict(backend="onnxruntime", dtype=jnp.bfloat16), "onnxruntime: computes in float32"),
    ],
)
def test_what_cannot_compute_is_refused_before_anything_is_loaded(options, message):
    with pytest.raises(UsageError, match=message):
        Predictor.load("nowhere", **options)


@pytest.mark.parametrize("backend", backends.BACKENDS)
def test_too_many_stages_are_refused(backend):
    with pytest.raises(CheckpointError, match="stages 3: the checkpoint has 2"):
        Predictor(DESCRIPTION, VARIABLES, num_stages=3, backend=backend)


@pytest.mark.parametrize("backend", backends.BACKENDS)
def test_the_unfolded_weights_are_not_kept(backend):
    variables = jax.tree.map(np.array, VARIABLES)
    weights = [weakref.ref(leaf) for leaf in jax.tree.leaves(variables)]
    predictor = Predictor(DESCRIPTION, variables, backend=backend)
    del variables
    gc.collect()
    assert len(predictor(some_picture(), some_boxes(2))[0]) == 2
    assert [each() for each in weights] == [None] * len(weights)


def test_an_error_of_onnxruntime_reaches_the_caller(monkeypatch):
    predictor = Predictor(DESCRIPTION, VARIABLES, backend="onnxruntime")
    with pytest.raises(Exception, match="Got: 32 Expected: 64"):
        predictor._start_batch(np.zeros((1, 32, 96, 3), np.uint8))()
