"""The speed of making crops, with a plain loader and the floor beside it.

    python benchmarks/input.py [--root data/coco --split val2017] [--detections FILE] [--workers 1]

Three ways through the same people, in turn:
  ours    what training reads: each picture is decoded once, and targets are left to the device
  plain   person by person, as pose loaders do it: read and decode the picture, mirror it, warp,
          draw the five levels of targets with a blur each
  floor   one decode a picture and one warp a person, and nothing else
With --detections the ways read a detector's boxes, as evaluation does, and nothing is mirrored or
drawn. Nothing is normalised. Without --root people are drawn.
"""

import argparse
import concurrent.futures
import itertools
import os
import pathlib
import resource
import sys

import cv2
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks.report import Report, new_parser
from benchmarks.timing import Ways, in_turn, ratio, spread
from benchmarks.workload import add_data_options, data_folders
from mspn_jax import geometry
from mspn_jax.crops import decode_picture
from mspn_jax.data import augment, evaluation_set, pipeline
from mspn_jax.data.annotations import Picture
from mspn_jax.data.records import open_records
from mspn_jax.data.validator import read_annotations
from mspn_jax.heatmaps import KERNEL_SIZES, PEAK
from mspn_jax.skeletons import COCO

CROP_HW, HEATMAP_HW, STRIDE = (256, 192), (64, 48), 4
PADDING = 1.25


def plain_sample(path: str, picture: Picture, i: int, rng: np.random.Generator):
    """One person's crop, targets and weights, from the picture's file."""
    image = cv2.imread(path, cv2.IMREAD_COLOR_RGB)
    settings = augment.Settings()
    augmentation = augment.sample(
        rng, picture.visibility[i], COCO.is_upper_body, COCO.flip_permutation, settings
    )
    image_to_crop, keypoints_crop_xy, visibility = augment.apply(
        augmentation,
        picture.keypoints_image_xy[i],
        picture.visibility[i],
        geometry.clip_boxes(picture.boxes_xywh[i], picture.image_hw),
        padding=PADDING,
        image_width=image.shape[1],
        crop_hw=CROP_HW,
        flip_permutation=COCO.flip_permutation,
        half_body_padding=settings.half_body_padding,
    )
    if augmentation.flip:
        image = cv2.flip(image, 1)
    crop = cv2.warpAffine(image, image_to_crop, CROP_HW[::-1], flags=cv2.INTER_LINEAR)
    targets = np.zeros((len(KERNEL_SIZES), COCO.num_keypoints, *HEATMAP_HW), np.float32)
    cells = (keypoints_crop_xy / STRIDE).astype(int)
    for joint, (x, y) in enumerate(cells):
        if visibility[joint] and 0 <= x < HEATMAP_HW[1] and 0 <= y < HEATMAP_HW[0]:
            for level, kernel_size in enumerate(KERNEL_SIZES):
                target = targets[level, joint]
                target[y, x] = 1
                target = cv2.GaussianBlur(target, (kernel_size, kernel_size), 0)
                targets[level, joint] = target / target[y, x] * PEAK
    return crop, targets, np.minimum(visibility, 1)


def plain_box(path: str, center_xy: np.ndarray, size_wh: np.ndarray) -> np.ndarray:
    """One box's crop, from the picture's file."""
    image = cv2.imread(path, cv2.IMREAD_COLOR_RGB)
    image_to_crop = geometry.image_to_crop(center_xy, size_wh, 0.0, CROP_HW)
    return cv2.warpAffine(image, image_to_crop, CROP_HW[::-1], flags=cv2.INTER_LINEAR)


def plain(pool, folder: pathlib.Path, pictures: list[Picture], people: int) -> None:
    everyone = [(p, i) for p in pictures for i in range(len(p.annotation_ids))]
    order = np.random.default_rng(0).permutation(people) % len(everyone)

    def sample(index: int):
        picture, i = everyone[order[index]]
        rng = np.random.default_rng(index)
        return plain_sample(str(folder / picture.file_name), picture, i, rng)

    for _ in pool.map(sample, range(people)):
        pass


def floor(pool, paths: list[pathlib.Path], maps: list[np.ndarray], people: int) -> None:
    def picture_of(path: pathlib.Path, image_to_crop: np.ndarray) -> None:
        image = decode_picture(path.read_bytes())
        for of_person in image_to_crop:
            cv2.warpAffine(image, of_person, CROP_HW[::-1], flags=cv2.INTER_LINEAR)

    chosen, count = [], 0
    for path, image_to_crop in itertools.cycle(zip(paths, maps, strict=True)):
        if count >= people:
            break
        chosen.append((path, image_to_crop))
        count += len(image_to_crop)
    for _ in pool.map(picture_of, *zip(*chosen)):
        pass


def maps_of(boxes_xyxy: np.ndarray) -> np.ndarray:
    """The maps from image to crop of a picture's boxes, made before the floor is timed."""
    regions = geometry.crop_regions(boxes_xyxy, PADDING, CROP_HW)
    return geometry.image_to_crop(*regions, 0.0, CROP_HW)


def main() -> None:
    parser = new_parser(__doc__)
    add_data_options(parser, split="train2017")
    parser.add_argument("--workers", type=int, default=1, help="threads and cores, for each way")
    parser.add_argument("--people", type=int, default=1024, help="a round, a multiple of 1024")
    args = parser.parse_args()

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.workers])
    cv2.setNumThreads(1)
    report = Report(args.json)
    new_ways = evaluation_ways if args.detections else training_ways
    with (
        concurrent.futures.ThreadPoolExecutor(args.workers) as pool,
        data_folders(args, num_pictures=12 if args.quick else 300) as (root, scratch),
    ):
        ways, pictures, people, crops = new_ways(args, root, scratch, pool)
        report.say(f"{people} people in {pictures} pictures ({people / pictures:.2f} each)")
        seconds = in_turn(ways, args.repeats)
    report.row(
        of="evaluation" if args.detections else "training",
        workers=args.workers,
        **{f"{name}_crops_per_s": spread([crops / t for t in seconds[name]]) for name in ways},
        ours_over_plain=ratio(seconds["plain"], seconds["ours"]),
        ours_over_floor=ratio(seconds["floor"], seconds["ours"]),
        peak_memory_MB=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def training_ways(
    args: argparse.Namespace, root: pathlib.Path, scratch: pathlib.Path, pool
) -> tuple[Ways, int, int, int]:
    """(the three ways; how many pictures and people there are; how many crops each way makes)."""
    folder = root / args.split
    annotations = read_annotations(root=root, split=args.split, skeleton=COCO)
    pictures = annotations.pictures(only_with_people=True)
    records = open_records(
        root=root, split=args.split, skeleton=COCO, records_dir=scratch, only_with_people=True
    )
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
    numbers = itertools.count()

    def ours() -> None:
        for _ in range(args.people // chunks.people_per_chunk):
            chunks[next(numbers)]

    paths = [folder / p.file_name for p in pictures]
    maps = [maps_of(geometry.clip_boxes(p.boxes_xywh, p.image_hw)) for p in pictures]
    ways = {
        "ours": ours,
        "plain": lambda: plain(pool, folder, pictures, args.people),
        "floor": lambda: floor(pool, paths, maps, args.people),
    }
    return ways, len(paths), sum(map(len, maps)), args.people


def evaluation_ways(
    args: argparse.Namespace, root: pathlib.Path, scratch: pathlib.Path, pool
) -> tuple[Ways, int, int, int]:
    """The same as `training_ways`, for a detector's boxes."""
    folder = root / args.split
    dataset = evaluation_set.open_split(
        root=root,
        split=args.split,
        skeleton=COCO,
        records_dir=scratch,
        detections=args.detections,
    )
    names = dict(zip(dataset.annotations.image_ids.tolist(), dataset.annotations.file_names))
    boxes = dataset.boxes
    chunks = evaluation_set.EvaluationChunks(
        dataset.records,
        boxes,
        crop_hw=CROP_HW,
        batch_size=64,
        padding=PADDING,
        num_threads=args.workers,
    )

    def ours() -> None:
        for i in range(len(chunks)):
            chunks[i]

    def person_by_person() -> None:
        paths = [str(folder / names[image_id]) for image_id in boxes.image_ids.tolist()]
        regions = geometry.crop_regions(boxes.boxes_xyxy, PADDING, CROP_HW)
        for _ in pool.map(plain_box, paths, *regions):
            pass

    image_ids = list(dict.fromkeys(boxes.image_ids.tolist()))
    paths = [folder / names[image_id] for image_id in image_ids]
    maps = [maps_of(boxes.boxes_xyxy[boxes.image_ids == image_id]) for image_id in image_ids]
    ways = {
        "ours": ours,
        "plain": person_by_person,
        "floor": lambda: floor(pool, paths, maps, len(boxes)),
    }
    return ways, len(paths), len(boxes), len(boxes)


if __name__ == "__main__":
    main()
