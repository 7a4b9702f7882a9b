"""Evaluation speed: boxes per second from records to COCO's metrics, and the time of each part.

    python benchmarks/evaluate.py --root data/coco --detections FILE [--split val2017] [--boxes N]

`end to end` is eval.py's evaluation: threads decode and warp pictures while the device computes.
`network` computes the same number of heatmaps from crops that are on the device already. The two
run in turn. Then each part is timed alone, the host's in one thread. Without --root people are
drawn. The weights are random, so no AP is printed.
"""

import argparse
import dataclasses
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks.report import Report, new_parser
from benchmarks.timing import in_turn, ratio, spread
from benchmarks.workload import (
    Network,
    add_data_options,
    data_folders,
    folded,
    heatmaps_on_devices,
    new_network,
    predict_heatmaps,
)
from mspn_jax import geometry, heatmaps, inference
from mspn_jax.crops import cut, decode_picture
from mspn_jax.data import evaluation_set
from mspn_jax.data.evaluation_set import EvaluationSet
from mspn_jax.devices import replicate, shard
from mspn_jax.evaluation import scoring
from mspn_jax.evaluation.results import coco_results
from mspn_jax.model import STRIDE
from mspn_jax.skeletons import COCO
from mspn_jax.storage import files

PADDING = 1.25
ON_THE_DEVICE = ("to device", "network", "heatmap decode")


def main() -> None:
    parser = new_parser(__doc__)
    add_data_options(parser, split="val2017")
    parser.add_argument("--boxes", type=int, default=0, help="only the first N; default: all")
    parser.add_argument("--stages", type=int, default=1, help="1 to 4")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=0, help="for decoding; default: one a core")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--flip_test", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()

    report = Report(args.json)
    with data_folders(args, num_pictures=12 if args.quick else 120) as (root, scratch):
        dataset = evaluation_set.open_split(
            root=root,
            split=args.split,
            skeleton=COCO,
            detections=args.detections,
            records_dir=scratch,
        )
        if args.boxes:
            dataset = dataclasses.replace(dataset, boxes=dataset.boxes[: args.boxes])
        pictures = len(np.unique(dataset.boxes.record_indices))
        report.say(
            f"{len(dataset.boxes)} {'detected' if args.detections else 'annotated'} boxes in"
            f" {pictures} {'drawn pictures' if args.root is None else 'pictures'}"
            f" ({len(dataset.boxes) / pictures:.1f} a picture),"
            f" {'with' if args.flip_test else 'without'} flip test"
        )
        network = folded(new_network(args.stages, args.dtype, args.quick))
        whole(network, dataset, args, report, scratch)
        by_part(network, dataset, args, report, scratch)


def whole(
    network: Network,
    dataset: EvaluationSet,
    args: argparse.Namespace,
    report: Report,
    scratch: pathlib.Path,
) -> None:
    """Times the whole evaluation and the network alone, in turn."""
    variables = replicate(network.variables)
    estimate = inference.estimate_on_devices(network.model, COCO.flip_permutation, args.flip_test)
    num_devices = jax.local_device_count()
    batch_size = -(-args.batch // num_devices) * num_devices
    crops = shard(np.zeros((batch_size, *network.crop_hw, 3), np.uint8))
    maps = heatmaps_on_devices(network, args.flip_test)

    def end_to_end() -> None:
        results, _, _ = scoring.evaluate(
            estimate,
            variables,
            dataset,
            COCO,
            crop_hw=network.crop_hw,
            batch_size=batch_size,
            padding=PADDING,
            num_threads=args.threads,
        )
        files.write_json(scratch / "results.json", results)

    def network_alone() -> None:
        for _ in range(-(-len(dataset.boxes) // batch_size)):
            done = maps(variables, crops)
        jax.block_until_ready(done)

    seconds = in_turn({"end to end": end_to_end, "network": network_alone}, args.repeats)
    boxes = len(dataset.boxes)
    report.row(
        batch=batch_size,
        dtype=args.dtype,
        stages=args.stages,
        end_to_end_boxes_per_s=spread([boxes / t for t in seconds["end to end"]]),
        network_alone_boxes_per_s=spread([boxes / t for t in seconds["network"]]),
        end_to_end_over_network_time=ratio(seconds["end to end"], seconds["network"]),
    )


class Clock:
    """Seconds of each part in one pass over the boxes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, part: str, function: Callable[..., Any], *arguments: Any) -> Any:
        start = time.perf_counter()
        result = jax.block_until_ready(function(*arguments))
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start
        return result


def by_part(
    network: Network,
    dataset: EvaluationSet,
    args: argparse.Namespace,
    report: Report,
    scratch: pathlib.Path,
) -> None:
    """Times each part alone, on one device."""
    variables = jax.device_put(network.variables)
    maps_of = jax.jit(lambda v, c: predict_heatmaps(network.model, v, c, args.flip_test))
    decode = jax.jit(lambda maps: heatmaps.decode(maps, STRIDE))
    warm = jnp.zeros((args.batch, *network.crop_hw, 3), jnp.uint8)
    jax.block_until_ready(decode(maps_of(variables, warm)))

    passes = []
    for _ in range(args.repeats):
        clock = Clock()
        one_pass(clock, network.crop_hw, dataset, args.batch, variables, maps_of, decode, scratch)
        passes.append(clock.seconds)
    boxes = len(dataset.boxes)
    total = statistics.median(sum(seconds.values()) for seconds in passes)
    for part in passes[0]:
        seconds = [of_pass[part] for of_pass in passes]
        report.row(
            part=part,
            milliseconds_a_box=spread([1e3 * t / boxes for t in seconds]),
            share=statistics.median(seconds) / total,
            where="device" if part in ON_THE_DEVICE else "host, one core",
        )
    beside_network = [1 - s["network"] / sum(s.values()) for s in passes]
    on_host = [sum(t for part, t in s.items() if part not in ON_THE_DEVICE) for s in passes]
    report.row(
        share_of_all_but_the_network=spread(beside_network),
        host_boxes_per_s_per_core=spread([boxes / t for t in on_host]),
        host_over_network_time=spread([h / s["network"] for h, s in zip(on_host, passes)]),
    )


def one_pass(
    clock: Clock,
    crop_hw: tuple[int, int],
    dataset: EvaluationSet,
    batch_size: int,
    variables: Any,
    maps_of: Callable,
    decode: Callable,
    scratch: pathlib.Path,
) -> None:
    """`estimation.estimate_boxes` and `scoring.evaluate`, with a clock on each part."""
    boxes = dataset.boxes
    center_xy, size_wh = geometry.crop_regions(boxes.boxes_xyxy, PADDING, crop_hw)
    crops = np.zeros((-(-len(boxes) // batch_size) * batch_size, *crop_hw, 3), np.uint8)

    def warp(row: int, image: np.ndarray) -> None:
        image_to_crop = geometry.image_to_crop(center_xy[row], size_wh[row], 0.0, crop_hw)
        cut(image, image_to_crop, False, crops[row])

    last, image = None, None
    for row, index in enumerate(boxes.record_indices.tolist()):
        if index != last:
            record = clock("read", dataset.records.source.__getitem__, index)
            image = clock("jpeg decode", decode_picture, record["image"])
            last = index
        clock("warp", warp, row, image)

    rows = []
    for first in range(0, len(crops), batch_size):
        on_device = clock("to device", jax.device_put, crops[first : first + batch_size])
        maps = clock("network", maps_of, variables, on_device)
        rows.append(clock("collect", jax.device_get, clock("heatmap decode", decode, maps)))

    def to_image() -> tuple[np.ndarray, np.ndarray]:
        keypoints, scores = (np.concatenate(part)[: len(boxes)] for part in zip(*rows))
        return geometry.crop_to_image(keypoints, center_xy, size_wh, crop_hw), scores

    keypoints_image_xy, keypoint_scores = clock("collect", to_image)
    results = clock(
        "results",
        coco_results,
        boxes.image_ids,
        boxes.boxes_xyxy,
        boxes.scores,
        keypoints_image_xy,
        keypoint_scores,
        size_wh.prod(-1),
        COCO,
    )
    clock("json", files.write_json, scratch / "results.json", results)
    if dataset.has_annotations:
        clock("COCOeval", scoring.coco_metrics, dataset.annotations, results, COCO)


if __name__ == "__main__":
    main()
