"""Evaluation speed: boxes per second from records to COCO's metrics, and what bounds it.

    python benchmarks/evaluate.py --root data/coco --detections FILE [--split val2017] [--boxes N]

Three ways through the same boxes, in turn:
  whole     eval.py's evaluation: threads decode and warp pictures while the device computes
  network   as many heatmaps, from crops that are on the device already
  host      the whole without the network, with one thread for pictures: what a core can feed
Without --root people are drawn. The weights are random, so no AP is printed.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks.report import Report, new_parser
from benchmarks.timing import in_turn, pace, ratio
from benchmarks.workload import (
    Network,
    add_split_options,
    folded,
    heatmaps_on_devices,
    new_network,
    split_of,
)
from mspn_jax import inference
from mspn_jax.data import evaluation_set
from mspn_jax.data.evaluation_set import EvaluationSet
from mspn_jax.devices import replicate, shard
from mspn_jax.evaluation import scoring
from mspn_jax.skeletons import COCO
from mspn_jax.storage import files


def main() -> None:
    parser = new_parser(__doc__)
    add_split_options(parser, split="val2017")
    parser.add_argument("--boxes", type=int, default=0, help="only the first N; default: all")
    parser.add_argument("--stages", type=int, default=1, help="1 to 4")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--flip_test", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()

    report = Report(args.json)
    num_devices = jax.local_device_count()
    batch_size = -(-args.batch // num_devices) * num_devices
    network = folded(new_network(args.stages, args.dtype, args.quick))
    with split_of(args, num_pictures=12 if args.quick else 120) as split:
        dataset = evaluation_set.open_split(**split, detections=args.detections)
        if args.boxes:
            dataset = dataclasses.replace(dataset, boxes=dataset.boxes[: args.boxes])
        boxes = len(dataset.boxes)
        pictures = len(np.unique(dataset.boxes.record_indices))
        report.say(f"{boxes} boxes in {pictures} pictures ({boxes / pictures:.1f} a picture)")
        ways = new_ways(network, dataset, args, batch_size, split["records_dir"])
        seconds = in_turn(ways, args.repeats)
    report.row(
        batch=batch_size,
        dtype=args.dtype,
        flip_test="yes" if args.flip_test else "no",
        stages=args.stages,
        **{f"{name}_boxes_per_s": pace(boxes, seconds[name]) for name in ways},
        whole_over_network_time=ratio(seconds["whole"], seconds["network"]),
        host_over_network_time=ratio(seconds["host"], seconds["network"]),
    )


def new_ways(
    network: Network,
    dataset: EvaluationSet,
    args: argparse.Namespace,
    batch_size: int,
    folder: pathlib.Path,
) -> dict[str, Callable[[], Any]]:
    variables = replicate(network.variables)
    estimate = inference.estimate_on_devices(network.model, COCO.flip_permutation, args.flip_test)
    people = (batch_size, COCO.num_keypoints)
    nowhere = np.zeros((*people, 2)), np.ones(people)
    heatmaps_of = heatmaps_on_devices(network, args.flip_test)
    crops = shard(np.zeros((batch_size, *network.crop_hw, 3), np.uint8))

    def evaluate(estimate_batch: Callable[..., Any], num_threads: int) -> None:
        results, _, _ = scoring.evaluate(
            estimate_batch,
            variables,
            dataset,
            COCO,
            crop_hw=network.crop_hw,
            batch_size=batch_size,
            padding=1.25,
            num_threads=num_threads,
        )
        files.write_json(folder / "results.json", results)

    def network_alone() -> None:
        for _ in range(-(-len(dataset.boxes) // batch_size)):
            done = heatmaps_of(variables, crops)
        jax.block_until_ready(done)

    return {
        "whole": lambda: evaluate(estimate, num_threads=0),
        "network": network_alone,
        "host": lambda: evaluate(lambda variables, crops: nowhere, num_threads=1),
    }


if __name__ == "__main__":
    main()
