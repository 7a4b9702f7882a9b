"""The speed of making crops, with a plain loader and the floor beside it.

    python benchmarks/input.py [--root data/coco --split val2017] [--detections FILE] [--workers 1]

Three ways through the records of the same people, in turn:
  ours    what training reads: each picture is decoded once, and targets are left to the device
  plain   person by person, as pose loaders do it: decode the picture, mirror it, warp, draw the
          five levels of targets with a blur each
  floor   one decode a picture and one warp a person, and nothing else
With --detections the ways read a detector's boxes, as evaluation does, and nothing is mirrored or
drawn. Nothing is normalised. Without --root people are drawn.
"""

import argparse
import collections
import concurrent.futures
import functools
import os
import pathlib
import resource
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks.report import Report, new_parser
from benchmarks.timing import in_turn, pace, ratio
from benchmarks.workload import CROP_HW, add_split_options, split_of
from mspn_jax import geometry
from mspn_jax.crops import decode_picture
from mspn_jax.data import augment, evaluation_set, pipeline
from mspn_jax.data.records import Records, open_records
from mspn_jax.heatmaps import KERNEL_SIZES, PEAK
from mspn_jax.model import STRIDE
from mspn_jax.skeletons import COCO

HEATMAP_HW = (CROP_HW[0] // STRIDE, CROP_HW[1] // STRIDE)
PADDING = 1.25


class People(NamedTuple):
    """Whom to crop, sorted by record.

    Attributes:
      chunks: ours.
      boxes_xyxy, record_indices: of each person.
      keypoints_image_xy, visibility: for training; None for evaluation.
    """

    records: Records
    chunks: Any
    record_indices: np.ndarray
    boxes_xyxy: np.ndarray
    keypoints_image_xy: np.ndarray | None = None
    visibility: np.ndarray | None = None


def main() -> None:
    parser = new_parser(__doc__)
    add_split_options(parser, split="train2017")
    parser.add_argument("--workers", type=int, default=1, help="threads and cores, for each way")
    parser.add_argument("--people", type=int, default=1024, help="a round, a multiple of 1024")
    args = parser.parse_args()

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.workers])
    cv2.setNumThreads(1)
    report = Report(args.json)
    with (
        concurrent.futures.ThreadPoolExecutor(args.workers) as pool,
        split_of(args, num_pictures=12 if args.quick else 300) as split,
    ):
        people = (evaluation if args.detections else training)(split, args)
        count, pictures = len(people.boxes_xyxy), len(np.unique(people.record_indices))
        report.say(f"{count} people in {pictures} pictures ({count / pictures:.2f} each)")
        crops = count if args.detections else args.people
        ways = new_ways(people, crops, pool)
        seconds = in_turn(ways, args.repeats)
    report.row(
        of="evaluation" if args.detections else "training",
        workers=args.workers,
        **{f"{name}_crops_per_s": pace(crops, seconds[name]) for name in ways},
        ours_over_plain=ratio(seconds["plain"], seconds["ours"]),
        ours_over_floor=ratio(seconds["floor"], seconds["ours"]),
        peak_memory_MB=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def training(split: dict[str, Any], args: argparse.Namespace) -> People:
    records = open_records(**split, only_with_people=True)
    chunks = pipeline.TrainingChunks(
        records,
        COCO,
        crop_hw=CROP_HW,
        batch_size=256,
        settings=augment.Settings(),
        padding=PADDING,
        seed=0,
        process=0,
        num_processes=1,
        num_threads=args.workers,
    )
    indices = np.repeat(np.arange(len(records.num_people)), records.num_people)
    return People(records, chunks, indices, **vars(records.people))


def evaluation(split: dict[str, Any], args: argparse.Namespace) -> People:
    dataset = evaluation_set.open_split(**split, detections=args.detections)
    records, boxes = dataset.records, dataset.boxes
    chunks = evaluation_set.EvaluationChunks(
        records,
        boxes,
        crop_hw=CROP_HW,
        batch_size=64,
        padding=PADDING,
        num_threads=args.workers,
    )
    return People(records, chunks, boxes.record_indices, boxes.boxes_xyxy)


def new_ways(
    people: People, crops: int, pool: concurrent.futures.Executor
) -> dict[str, Callable[[], Any]]:
    """The three ways to make so many crops."""
    num_chunks = -(-crops // people.chunks.people_per_chunk)
    rows = np.arange(crops) % len(people.boxes_xyxy)
    starts = np.flatnonzero(np.diff(people.record_indices[rows]))
    of_pictures = np.split(rows, starts + 1)
    shuffled = np.random.default_rng(0).permutation(rows).tolist()
    maps = maps_of(people.boxes_xyxy)

    def decode_and_warp(of_picture: np.ndarray) -> None:
        image = decoded(people, of_picture[0])
        for row in of_picture:
            warp(image, maps[row])

    def made(crops: Iterator[Any]) -> None:
        collections.deque(crops, maxlen=0)  # keeps none

    return {
        "ours": lambda: made(people.chunks[i] for i in range(num_chunks)),
        "plain": lambda: made(pool.map(functools.partial(plain_crop, people), shuffled)),
        "floor": lambda: made(pool.map(decode_and_warp, of_pictures)),
    }


def maps_of(boxes_xyxy: np.ndarray) -> np.ndarray:
    """The maps from image to crop of boxes."""
    regions = geometry.crop_regions(boxes_xyxy, PADDING, CROP_HW)
    return geometry.image_to_crop(*regions, 0.0, CROP_HW)


def decoded(people: People, row: int) -> np.ndarray:
    return decode_picture(people.records.source[int(people.record_indices[row])]["image"])


def warp(image: np.ndarray, image_to_crop: np.ndarray) -> np.ndarray:
    return cv2.warpAffine(image, image_to_crop, CROP_HW[::-1], flags=cv2.INTER_LINEAR)


def plain_crop(people: People, row: int) -> Any:
    """One person's crop; for training with its targets and weights."""
    image = decoded(people, row)
    if people.visibility is None:
        return warp(image, maps_of(people.boxes_xyxy[row]))
    visibility, settings = people.visibility[row], augment.Settings()
    augmentation = augment.sample(
        np.random.default_rng(row), visibility, COCO.is_upper_body, COCO.flip_permutation, settings
    )
    image_to_crop, keypoints_crop_xy, visibility = augment.apply(
        augmentation,
        people.keypoints_image_xy[row],
        visibility,
        people.boxes_xyxy[row],
        padding=PADDING,
        image_width=image.shape[1],
        crop_hw=CROP_HW,
        flip_permutation=COCO.flip_permutation,
        half_body_padding=settings.half_body_padding,
    )
    if augmentation.flip:
        image = cv2.flip(image, 1)
    targets = np.zeros((len(KERNEL_SIZES), COCO.num_keypoints, *HEATMAP_HW), np.float32)
    cells = (keypoints_crop_xy / STRIDE).astype(int)
    for joint, (x, y) in enumerate(cells):
        if visibility[joint] and 0 <= x < HEATMAP_HW[1] and 0 <= y < HEATMAP_HW[0]:
            for level, kernel_size in enumerate(KERNEL_SIZES):
                target = targets[level, joint]
                target[y, x] = 1
                target = cv2.GaussianBlur(target, (kernel_size, kernel_size), 0)
                targets[level, joint] = target / target[y, x] * PEAK
    return warp(image, image_to_crop), targets, np.minimum(visibility, 1)


if __name__ == "__main__":
    main()
