"""Inference on the device: its speed, the cost of decoding, and PyTorch beside it.

    python benchmarks/forward.py [--stages 1] [--batch 1 8 32] [--dtype float32]

With and without flip test. `heatmaps` goes from a batch of bytes on the host to the last heatmaps
on the device, merged with the mirrored ones. `keypoints` continues to keypoints on the host, as
eval.py does. PyTorch, if installed, computes the same heatmaps with the same weights, and no other
heads. The two are compared first. With other work on the machine set OMP_WAIT_POLICY=PASSIVE, since
PyTorch's threads wait for each other.
"""

import argparse
import itertools
import pathlib
import sys
from typing import Any

import jax

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks import beside
from benchmarks.compiled import compiled
from benchmarks.peaks import Yardstick
from benchmarks.report import Report
from benchmarks.timing import in_turn, ratio, spread
from benchmarks.workload import Network, folded, heatmaps_on_devices, new_network, random_crops
from mspn_jax import inference
from mspn_jax.devices import replicate, shard
from mspn_jax.skeletons import COCO


def main() -> None:
    args = beside.parser_with_torch(__doc__, batches=[1, 8, 32]).parse_args()

    report = Report(args.json)
    for num_stages, dtype in itertools.product(args.stages, args.dtype):
        network = new_network(num_stages, dtype, args.quick)
        theirs = beside.torch_beside(network, args.torch, report)
        for batch_size, flip_test in itertools.product(args.batch, (False, True)):
            measure(network, batch_size, flip_test, dtype, theirs, args, report)


def measure(
    network: Network,
    batch_size: int,
    flip_test: bool,
    dtype: str,
    theirs: beside.Torch | None,
    args: argparse.Namespace,
    report: Report,
) -> None:
    num_devices = jax.local_device_count()
    crops = random_crops(batch_size * num_devices, network.crop_hw)
    dealt = shard(crops)
    network = folded(network)
    variables = replicate(network.variables)

    estimate = inference.estimate_on_devices(network.model, COCO.flip_permutation, flip_test)
    maps = compiled(heatmaps_on_devices(network, flip_test), variables, dealt)
    keypoints = compiled(estimate, variables, dealt)
    ways: dict[str, Any] = {
        "heatmaps": lambda: jax.block_until_ready(maps.run(variables, shard(crops))),
        "keypoints": lambda: jax.device_get(keypoints.run(variables, shard(crops))),
    }
    torch_setup = None
    if theirs is not None:
        permutation = COCO.flip_permutation.tolist() if flip_test else None
        torch_setup, ways["theirs"] = theirs.fastest(
            lambda setup: theirs.mspn.forward_way(
                theirs.new_network(setup), crops, setup, dtype, permutation
            )
        )
    yardstick = Yardstick(dtype)
    ways |= yardstick.ways
    seconds = in_turn(ways, args.repeats)

    flops = [maps.operations * num_devices / t for t in seconds["heatmaps"]]
    report.row(
        stages=network.model.num_stages,
        batch=len(crops),
        flip_test="yes" if flip_test else "no",
        dtype=dtype,
        compile_s=keypoints.seconds,
        heatmaps_crops_per_s=spread([len(crops) / t for t in seconds["heatmaps"]]),
        keypoints_crops_per_s=spread([len(crops) / t for t in seconds["keypoints"]]),
        keypoints_over_heatmaps_time=ratio(seconds["keypoints"], seconds["heatmaps"]),
        GFLOP_per_crop=maps.operations / batch_size / 1e9,
        GFLOPs_per_s=spread([f / 1e9 for f in flops]),
        share_of_peak=yardstick.share(maps.operations, "heatmaps", seconds),
        peak_from=yardstick.source,
        memory_GB=keypoints.peak_bytes / 1e9,
        **beside.columns(torch_setup, len(crops), seconds, ours="heatmaps"),
    )


if __name__ == "__main__":
    main()
