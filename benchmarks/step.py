"""The training step: its speed, the device's peak, and PyTorch beside it.

    python benchmarks/step.py [--stages 1 2] [--batch 8 32] [--dtype float32 bfloat16]

The step is train.py's own, on all devices, from a batch of bytes on the host to the new state.
XLA counts operations in the program as written (forward, backward, loss and Adam), and bytes in the
compiled one. A device's peak is that of its data sheet; on a CPU a large matrix product is timed in
turn. `memory GB` is XLA's plan of the step, `memory GB seen` the most that JAX has held so far.

PyTorch, if installed, runs an equal network with the same weights, losses and Adam. Its targets are
on the device already, ours are drawn in the step. First it must give the same heatmaps, and in
float64 the same loss and gradient norm. With other work on the machine set OMP_WAIT_POLICY=PASSIVE,
since its threads wait for each other.
"""

import argparse
import itertools
import pathlib
import sys
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks import beside
from benchmarks.compiled import compiled_step
from benchmarks.peaks import Yardstick
from benchmarks.report import Report
from benchmarks.timing import in_turn, spread
from benchmarks.workload import (
    LEARNING_RATE,
    Network,
    new_adam,
    new_network,
    new_state,
    random_batch,
)
from mspn_jax import training
from mspn_jax.data.pipeline import TrainingBatch
from mspn_jax.devices import shard

SAME = 1e-9  # relative difference of the first step's loss and gradient norm, in float64


def main() -> None:
    args = beside.parser_with_torch(__doc__, batches=[8]).parse_args()

    report = Report(args.json)
    for num_stages, dtype in itertools.product(args.stages, args.dtype):
        network = new_network(num_stages, dtype, args.quick)
        theirs = beside.torch_beside(network, args.torch, report)
        for batch_size in args.batch:
            measure(network, batch_size, dtype, theirs, args, report)


def measure(
    network: Network,
    batch_size: int,
    dtype: str,
    theirs: beside.Torch | None,
    args: argparse.Namespace,
    report: Report,
) -> None:
    num_devices = jax.local_device_count()
    batch = random_batch(batch_size * num_devices, network.crop_hw)
    state = new_state(network)
    step = training.on_all_devices(training.train_step(network.model, new_adam()))
    program = compiled_step(step, state, shard(vars(batch)))

    def ours() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(program.run(state, shard(vars(batch))))

    ours()
    yardstick = Yardstick(dtype)
    ways = {"ours": ours, **yardstick.ways}
    torch_setup = None
    if theirs is not None:
        check_same_step(network, batch, theirs, report)
        torch_setup, ways["theirs"] = theirs.fastest(
            lambda setup: torch_step(network, batch, theirs, setup, dtype)
        )
    seconds = in_turn(ways, args.repeats)

    pace = [len(batch.crops) / t for t in seconds["ours"]]
    flops = [program.operations * num_devices / t for t in seconds["ours"]]
    stats = jax.local_devices()[0].memory_stats() or {}
    report.row(
        stages=network.model.num_stages,
        batch=len(batch.crops),
        dtype=dtype,
        compile_s=program.seconds,
        crops_per_s=spread(pace),
        GFLOP_per_crop=program.operations / batch_size / 1e9,
        GFLOPs_per_s=spread([f / 1e9 for f in flops]),
        share_of_peak=yardstick.share(program.operations, "ours", seconds),
        peak_from=yardstick.source,
        share_of_bandwidth=yardstick.share_of_bandwidth(program.bytes_moved, seconds["ours"]),
        memory_GB=program.peak_bytes / 1e9,
        memory_GB_seen=stats["peak_bytes_in_use"] / 1e9 if stats else None,
        **beside.columns(torch_setup, len(batch.crops), seconds, ours="ours"),
    )


def torch_step(
    network: Network, batch: TrainingBatch, theirs: beside.Torch, setup: Any, dtype: str
) -> Any:
    targets, weights = beside.targets_for_torch(batch, network)
    return theirs.mspn.TrainingStep(
        theirs.new_network(setup), batch.crops, targets, weights, setup, dtype, LEARNING_RATE
    )


def check_same_step(
    network: Network, batch: TrainingBatch, theirs: beside.Torch, report: Report
) -> None:
    """Asserts that PyTorch's first step has our loss and gradient norm.

    Both run in float64: float32 gradients of random weights have errors of up to 2e-2.
    """
    with jax.enable_x64(True):
        exact = network._replace(
            model=network.model.clone(dtype=np.dtype("float64")),
            variables=jax.tree.map(lambda leaf: leaf.astype(np.float64), network.variables),
        )
        step = training.on_all_devices(training.train_step(exact.model, new_adam()))
        _, ours = step(new_state(exact), shard(vars(batch)))
        way = torch_step(exact, batch, theirs, theirs.mspn.SETUPS["plain"], "float64")
    loss, norm = float(way()), way.gradient_norm()
    apart = abs(loss / float(ours["loss"]) - 1), abs(norm / float(ours["gradient_norm"]) - 1)
    assert max(apart) < SAME, f"PyTorch: loss {loss}, gradients' norm {norm}; ours: {ours}"
    report.say(
        f"first step in float64, PyTorch's relative to ours: loss {apart[0]:.1e} apart, gradient"
        f" norm {apart[1]:.1e} apart"
    )


if __name__ == "__main__":
    main()
