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

import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks import beside
from benchmarks.compiled import Program, compiled_step
from benchmarks.report import Report
from benchmarks.timing import pace
from benchmarks.workload import Network, new_adam, new_state, random_batch
from mspn_jax import training
from mspn_jax.data.pipeline import TrainingBatch
from mspn_jax.devices import shard

SAME = 1e-9  # relative difference of the first step's loss and gradient norm, in float64


def main() -> None:
    args = beside.new_parser_with_torch(__doc__, batches=[8]).parse_args()
    report = Report(args.json)
    for case in beside.cases(args, report):
        for batch_size in args.batch:
            measure(case, batch_size, report)


def measure(case: beside.Case, batch_size: int, report: Report) -> None:
    network = case.network
    batch = random_batch(batch_size * jax.local_device_count(), network.crop_hw)
    program, step = new_step(network, batch)
    step()
    torchs = None
    if theirs := case.theirs:
        check_same_step(network, batch, theirs, report)
        torchs = theirs.fastest(theirs.training_step, batch, case.dtype)
    num_crops = len(batch.crops)
    seconds, columns = beside.measured(case, program, {"step": step}, torchs, num_crops)
    stats = jax.local_devices()[0].memory_stats() or {}
    report.row(
        stages=network.model.num_stages,
        batch=num_crops,
        dtype=case.dtype,
        compile_s=program.seconds,
        crops_per_s=pace(num_crops, seconds["step"]),
        **columns,
        memory_GB_seen=stats["peak_bytes_in_use"] / 1e9 if stats else None,
    )


def new_step(network: Network, batch: TrainingBatch) -> tuple[Program, Callable[[], Any]]:
    """The program of a training step, and the way that runs the next one."""
    state = new_state(network)
    step = training.on_all_devices(training.train_step(network.model, new_adam()))
    program = compiled_step(step, state, shard(vars(batch)))

    def way() -> Any:
        nonlocal state
        state, metrics = jax.block_until_ready(program.run(state, shard(vars(batch))))
        return metrics

    return program, way


def check_same_step(network: Network, batch: TrainingBatch, theirs: Any, report: Report) -> None:
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
        way = theirs.training_step("plain", batch, "float64")
    loss, norm = float(way()), way.gradient_norm()
    apart = abs(loss / float(ours["loss"]) - 1), abs(norm / float(ours["gradient_norm"]) - 1)
    assert max(apart) < SAME, f"PyTorch: loss {loss}, gradients' norm {norm}; ours: {ours}"
    report.say(
        f"first step in float64, PyTorch's relative to ours: loss {apart[0]:.1e} apart, gradient"
        f" norm {apart[1]:.1e} apart"
    )


if __name__ == "__main__":
    main()
