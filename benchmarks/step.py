"""The training step: how fast, against what the device can do, and against PyTorch.

    python benchmarks/step.py [--stages 1 2] [--batch 8 32] [--dtype float32 bfloat16]

The step is train.py's own, on all devices, from a batch of bytes on the host to the new state.
Operations are counted by XLA in the program as written (forward, backward, loss and Adam), bytes
in the compiled one. A device's peak is its data sheet's; on a CPU a large matrix product is timed
in turn. `memory GB` is XLA's plan of the step, `memory GB seen` the most that JAX has held so far.

PyTorch, where it is installed, runs an equal network with the same weights, losses and Adam, its
targets ready on the device where ours are drawn in the step; first it must give the same heatmaps,
loss and norm of the gradients. With other work on the machine set OMP_WAIT_POLICY=PASSIVE, or its
threads get slow waiting for each other.
"""

import argparse
import itertools
import pathlib
import sys
from typing import Any

import jax

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks import beside
from benchmarks.compiled import compiled_step
from benchmarks.peaks import Yardstick
from benchmarks.report import Report
from benchmarks.timing import in_turn, ratio, spread
from benchmarks.workload import (
    LEARNING_RATE,
    Network,
    new_adam,
    new_network,
    new_state,
    random_batch,
)
from mspn_jax import sharding, training
from mspn_jax.data.pipeline import TrainingBatch

SAME_LOSS = 1e-4  # relative, of one step's loss
SAME_GRADIENTS = 1e-3  # relative, of their norm


def main() -> None:
    args = beside.parser_with_torch(__doc__, batches=[8]).parse_args()

    report = Report(args.json)
    for num_stages, dtype in itertools.product(args.stages, args.dtype):
        network = new_network(num_stages, dtype, args.quick)
        theirs = beside.torch_beside(network, args.torch, report)
        for batch_size in args.batch:
            measure(network, batch_size, dtype, theirs, args, report)


def measure(
    network: Network, batch_size: int, dtype: str, theirs: beside.Torch | None,
    args: argparse.Namespace, report: Report,
) -> None:  # fmt: skip
    num_devices = jax.local_device_count()
    batch = random_batch(batch_size * num_devices, network.crop_hw)
    state: Any = new_state(network)
    step = training.on_all_devices(training.train_step(network.model, new_adam()))
    program = compiled_step(step, state, sharding.shard(vars(batch)))
    metrics: Any = None

    def ours() -> None:
        nonlocal state, metrics
        state, metrics = jax.block_until_ready(program.run(state, sharding.shard(vars(batch))))

    ours()
    yardstick = Yardstick(dtype)
    ways = {"ours": ours, **yardstick.ways}
    torch_setup = None
    if theirs is not None:
        check_same_step(network, batch, theirs, metrics, dtype == "float32", report)
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
        share_of_bandwidth=yardstick.share_of_bandwidth(program.bytes_accessed, seconds["ours"]),
        memory_GB=program.peak_bytes / 1e9,
        memory_GB_seen=stats["peak_bytes_in_use"] / 1e9 if stats else None,
        torch=torch_setup,
        torch_crops_per_s=spread([len(batch.crops) / t for t in seconds["theirs"]])
        if theirs
        else None,
        ours_over_torch=ratio(seconds["theirs"], seconds["ours"]) if theirs else None,
    )


def torch_step(
    network: Network, batch: TrainingBatch, theirs: beside.Torch, setup: Any, dtype: str
) -> Any:
    targets, weights = beside.targets_for_torch(batch, network)
    return theirs.mspn.TrainingStep(
        theirs.new_network(setup), batch.crops, targets, weights, setup, dtype, LEARNING_RATE
    )


def check_same_step(
    network: Network, batch: TrainingBatch, theirs: beside.Torch, metrics: Any, exact: bool,
    report: Report,
) -> None:  # fmt: skip
    """Asserts that a first step in PyTorch has our first step's loss and gradients."""
    if not exact:
        report.say("in bfloat16 the loss and gradients are not compared: their roundings differ")
        return
    # In float64: float32 gradients of random weights have an error of their own, up to 2e-3.
    way = torch_step(network, batch, theirs, theirs.mspn.SETUPS["plain"], "float64")
    loss, norm = float(way()), way.gradient_norm()
    ours = {name: float(metrics[name]) for name in ("loss", "gradient_norm")}
    apart = abs(loss / ours["loss"] - 1), abs(norm / ours["gradient_norm"] - 1)
    tf32 = jax.default_backend() != "cpu"  # whose products have 10 bits
    assert apart[0] < SAME_LOSS * (10 if tf32 else 1), f"losses {loss} and {ours['loss']}"
    assert apart[1] < SAME_GRADIENTS * (10 if tf32 else 1), f"norms {norm}, {ours['gradient_norm']}"
    report.say(
        f"PyTorch's first step, in float64: its loss {apart[0]:.1e}, its gradients' norm"
        f" {apart[1]:.1e} from ours, relatively"
    )


if __name__ == "__main__":
    main()
