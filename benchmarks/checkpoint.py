"""The time that a checkpoint takes from the training loop.

    python benchmarks/checkpoint.py [--stages 1] [--batch 8] [--repeats 5]

Times the training step alone, then saves a checkpoint and times the next step. Prints how long the
loop waits for the save, when the checkpoint is on disk, and how long the step beside the writing
takes. The cost is a share of 500 steps, after which the published configs save.
"""

import pathlib
import statistics
import sys
import tempfile
import time
from typing import Any

import jax

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks.report import Report, new_parser
from benchmarks.timing import spread
from benchmarks.workload import new_adam, new_network, new_state, random_batch
from mspn_jax import training
from mspn_jax.devices import shard
from mspn_jax.weights.run import Checkpoints

STEPS_BETWEEN = 500


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--stages", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8, help="crops a device")
    args = parser.parse_args()
    report = Report(args.json)

    network = new_network(args.stages, "float32", args.quick)
    rows = jax.local_device_count() * args.batch
    batch = vars(random_batch(rows, network.crop_hw))
    state: Any = new_state(network)
    num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    step = training.on_all_devices(training.train_step(network.model, new_adam()))

    def timed_step() -> float:
        nonlocal state
        start = time.perf_counter()
        state, metrics = step(state, shard(batch))
        jax.block_until_ready(metrics)
        return time.perf_counter() - start

    timed_step()  # compiles
    alone, beside, waits, written = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(pathlib.Path(folder) / "checkpoints")
        for i in range(args.repeats):
            alone.append(timed_step())
            start = time.perf_counter()
            checkpoints.save(i + 1, state)
            waits.append(time.perf_counter() - start)
            beside.append(timed_step())
            checkpoints.wait()
            written.append(time.perf_counter() - start)
        checkpoints.close()

    step_s, beside_s, wait_s, written_s = map(statistics.median, (alone, beside, waits, written))
    # Every step that overlaps the writing counts as slow as the first of them.
    slower = max(beside_s - step_s, 0) * max(1.0, (written_s - wait_s) / beside_s)
    report.row(
        stages=args.stages,
        batch=rows,
        state_MB=num_bytes / 1e6,
        step_s=spread(alone),
        loop_waits_s=spread(waits),
        on_disk_after_s=spread(written),
        step_beside_writing_s=spread(beside),
        share_of_500_steps=(wait_s + slower) / (STEPS_BETWEEN * step_s),
    )


if __name__ == "__main__":
    main()
