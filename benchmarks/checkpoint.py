"""What a checkpoint costs the training loop.

    python benchmarks/checkpoint.py [--stages 1] [--batch 8] [--repeats 5]

Times the training step, then the same steps with a checkpoint saved in between: how long the loop
stands still for it, how long the disk is written to in the background, and by how much the steps
beside that writing are slower. All of it as a share of 500 steps, after which the published
configs save.
"""

import argparse
import pathlib
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import numpy as np

from mspn_jax import training
from mspn_jax.devices import replicate, shard
from mspn_jax.model import MSPN
from mspn_jax.optimizer import adam
from mspn_jax.variables import initial_variables
from mspn_jax.weights.run import Checkpoints

CROP_HW = (256, 192)
STEPS_BETWEEN = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8, help="of each device")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()

    model, optimizer = MSPN(options.stages), adam(1e-4)
    state = training.new_state(initial_variables(model, 0, CROP_HW), optimizer)
    num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    state = replicate(state)
    step = training.on_all_devices(training.train_step(model, optimizer))
    rng = np.random.default_rng(0)
    rows = jax.local_device_count() * options.batch
    batch = {
        "crops": rng.integers(0, 256, (rows, *CROP_HW, 3), np.uint8),
        "keypoints_crop_xy": rng.uniform(0, 192, (rows, 17, 2)).astype(np.float32),
        "visibility": np.ones((rows, 17), np.float32),
    }

    def seconds_of_a_step() -> float:
        nonlocal state
        start = time.perf_counter()
        state, metrics = step(state, shard(batch))
        jax.block_until_ready(metrics)
        return time.perf_counter() - start

    seconds_of_a_step()  # compiles
    alone, beside, still, background = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(pathlib.Path(folder) / "checkpoints")
        for i in range(options.repeats):
            alone.append(seconds_of_a_step())
            start = time.perf_counter()
            checkpoints.save(i + 1, state)
            still.append(time.perf_counter() - start)
            beside.append(seconds_of_a_step())
            checkpoints.wait()
            background.append(time.perf_counter() - start)
        checkpoints.close()
    alone, beside, still, background = map(statistics.median, (alone, beside, still, background))
    # Steps that fall into the background writing are slower, the first of them most.
    slower = max(beside - alone, 0) * max(1.0, (background - still) / beside)
    share = (still + slower) / (STEPS_BETWEEN * alone)
    print(
        f"MSPN of {options.stages} stages, batch {rows[0]} x {rows[1]},"
        f" {jax.devices()[0].device_kind}, jax {jax.__version__}, median of {options.repeats}\n"
        f"| state | step | loop stands still | saved after | step beside it | of 500 steps |\n"
        f"|---|---|---|---|---|---|\n"
        f"| {num_bytes / 1e6:.0f} MB | {alone:.2f} s | {still:.2f} s | {background:.2f} s |"
        f" {beside:.2f} s | {share:.2%} |"
    )


if __name__ == "__main__":
    main()
