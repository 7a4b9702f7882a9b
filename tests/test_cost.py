"""The cost of networks against published numbers and XLA's; the command that prints it."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from test_predictor import DESCRIPTION, VARIABLES

from mspn_jax.cost import Cost, costs
from mspn_jax.folding import for_inference
from mspn_jax.model import MSPN
from mspn_jax.variables import count_parameters, variable_shapes
from mspn_jax.weights import checkpoints

HERE = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize("num_stages, gmacs", [(1, 5.07), (2, 11.26), (3, 17.45), (4, 23.64)])
def test_multiplications_are_the_published_ones(num_stages, gmacs):
    rows = costs(MSPN(num_stages), (256, 192))
    # A decoder unit convolves the coarser unit's 256 channels before it resizes them. The
    # published counts are of a convolution after it, with four times the pixels.
    spared = num_stages * 3 * (32 * 24 + 16 * 12 + 8 * 6) * 256**2
    assert (sum(row.macs for row in rows) + spared) / 1e9 == pytest.approx(gmacs, abs=0.005)
    assert [row.part for row in rows] == ["stem"] + [
        f"stage{s} {part}" for s in range(num_stages) for part in ("encoder", "decoder", "heads")
    ]


def test_parameters_and_bytes_are_those_of_the_variables():
    model = DESCRIPTION.new_model()
    whole = sum(costs(model, DESCRIPTION.crop_hw), start=Cost("all"))
    assert whole.parameters == count_parameters(VARIABLES["params"])
    assert whole.weight_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(VARIABLES))
    folded, variables = for_inference(model, VARIABLES)
    lean = sum(costs(folded, DESCRIPTION.crop_hw, "predict"), start=Cost("lean"))
    assert lean.weight_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(variables))


def test_prediction_multiplies_what_xla_says():
    """XLA also counts the resizes, and leaves out products with the zeros beyond a border."""
    model = MSPN(2, blocks_per_unit=(1, 1, 1, 1), stem_channels=16, unit_channels=32, folded=True)
    images = np.zeros((1, 256, 256, 3), np.float32)
    shapes = variable_shapes(model, (256, 256), "predict")
    lowered = jax.jit(lambda v, x: model.apply(v, x, method="predict")).lower(shapes, images)
    ours = sum(row.macs for row in costs(model, (256, 256), "predict"))
    assert ours == pytest.approx(lowered.cost_analysis()["flops"] / 2, rel=0.05)


@pytest.mark.slow
def test_the_command_tells_of_configs_and_of_checkpoints(tmp_path):
    checkpoints.save_variables(tmp_path / "saved", DESCRIPTION, VARIABLES)

    def info(*arguments: object) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "mspn_jax", "info", *map(str, arguments)],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(HERE)},
            cwd=HERE,
        )

    done = info("--config", "configs/mspn50_coco_256x192.py", "--config.batch_size=7")
    assert done.returncode == 0, done.stderr
    (row,) = [line.split() for line in done.stdout.splitlines() if line.startswith("all of it")]
    assert row[3] == "25,112,264" and row[5] == "4.874" and '"batch_size": 7' in done.stdout
    done = info("--checkpoint", tmp_path / "saved")
    assert "tiny, of one crop of 64x96" in done.stdout and "not evaluated" in done.stdout
    done = info()
    assert done.returncode == 1 and "one of --config and --checkpoint is needed" in done.stderr
