"""Inference on the device: its speed, the cost of decoding, and PyTorch beside it.

    python benchmarks/forward.py [--stages 1] [--batch 1 8 32] [--dtype float32]

With and without flip test. `heatmaps` goes from a batch of bytes on the host to the last heatmaps
on the device, merged with the mirrored ones. `keypoints` continues to keypoints on the host, as
eval.py does. PyTorch, if installed, computes the same heatmaps with the same weights, and no other
heads. The two are compared first. With other work on the machine set OMP_WAIT_POLICY=PASSIVE, since
PyTorch's threads wait for each other.
"""

import itertools
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks import beside
from benchmarks.compiled import Program, compiled
from benchmarks.report import Report
from benchmarks.timing import pace, ratio
from benchmarks.workload import Network, folded, heatmaps_on_devices, random_crops
from mspn_jax import inference
from mspn_jax.devices import replicate, shard
from mspn_jax.skeletons import COCO


def main() -> None:
    args = beside.new_parser_with_torch(__doc__, batches=[1, 8, 32]).parse_args()
    report = Report(args.json)
    for case in beside.cases(args, report):
        for batch_size, flip_test in itertools.product(args.batch, (False, True)):
            measure(case, batch_size, flip_test, report)


def measure(case: beside.Case, batch_size: int, flip_test: bool, report: Report) -> None:
    crops = random_crops(batch_size * jax.local_device_count(), case.network.crop_hw)
    network = folded(case.network)
    maps, heatmaps = new_heatmaps(network, crops, flip_test)
    estimate = inference.estimate_on_devices(network.model, COCO.flip_permutation, flip_test)
    variables = replicate(network.variables)
    keypoints = compiled(estimate, variables, shard(crops))
    torchs = None
    if theirs := case.theirs:
        permutation = COCO.flip_permutation.tolist() if flip_test else None
        torchs = theirs.fastest(theirs.inference, crops, case.dtype, permutation)
    ways = {
        "heatmaps": heatmaps,
        "keypoints": lambda: jax.device_get(keypoints.run(variables, shard(crops))),
    }
    seconds, columns = beside.measured(case, maps, ways, torchs, len(crops))
    report.row(
        stages=network.model.num_stages,
        batch=len(crops),
        flip_test="yes" if flip_test else "no",
        dtype=case.dtype,
        compile_s=keypoints.seconds,
        heatmaps_crops_per_s=pace(len(crops), seconds["heatmaps"]),
        keypoints_crops_per_s=pace(len(crops), seconds["keypoints"]),
        keypoints_over_heatmaps_time=ratio(seconds["keypoints"], seconds["heatmaps"]),
        **columns,
    )


def new_heatmaps(
    network: Network, crops: np.ndarray, flip_test: bool
) -> tuple[Program, Callable[[], Any]]:
    """The program of a folded network, and the way that runs it."""
    variables = replicate(network.variables)
    program = compiled(heatmaps_on_devices(network, flip_test), variables, shard(crops))
    return program, lambda: jax.block_until_ready(program.run(variables, shard(crops)))


if __name__ == "__main__":
    main()
