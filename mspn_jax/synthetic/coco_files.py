"""Drawn pictures and their annotations, written as a data set in COCO's layout."""

import argparse
import json
import os
import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from mspn_jax.skeletons import Skeleton


class Subject(NamedTuple):
    """What a data set is of.

    Attributes:
      description: for the json.
      version: of the drawing: raise it when the same seed gives other pictures.
      category: for the json, as `category` makes it.
      draw_picture: (random generator, picture_hw) -> (H, W, 3) uint8 RGB picture, and a dictionary
        for each annotation, as `annotation` makes it.
    """

    description: str
    version: str
    category: dict[str, Any]
    draw_picture: Callable[..., tuple[np.ndarray, list[dict]]]


def category(category_id: int, name: str, skeleton: Skeleton) -> dict[str, Any]:
    """COCO's entry for a category with keypoints."""
    return {
        "id": category_id,
        "name": name,
        "supercategory": name,
        "keypoints": list(skeleton.keypoint_names),
        "skeleton": [[a + 1, b + 1] for a, b in skeleton.limbs],  # COCO counts from 1
    }


def annotation(category_id: int, silhouette: np.ndarray, keypoints: np.ndarray) -> dict[str, Any]:
    """COCO's annotation of a (H, W) uint8 silhouette and (K, 3) keypoints, but for its ids."""
    return {
        "category_id": category_id,
        "iscrowd": 0,
        "bbox": [float(side) for side in cv2.boundingRect(silhouette)],
        "area": float(np.count_nonzero(silhouette)),
        "keypoints": keypoints.ravel().tolist(),
        "num_keypoints": int(np.count_nonzero(keypoints[:, 2])),
    }


def write(
    root: str | os.PathLike,
    pictures: Mapping[str, int],
    subject: Subject,
    seed: int = 0,
    picture_hw: tuple[int, int] = (240, 320),
) -> None:
    """Writes a data set in COCO's layout; returns at once where this very set is already there.

    Picture i of a split depends on (seed, split, i) alone: a longer set begins with the shorter.
    The annotations of a split are the last file to appear, and appear whole.

    Args:
      root: gets `annotations/person_keypoints_<split>.json` and `<split>/<12 digits>.jpg`.
      pictures: for each split, its number of pictures.

    Raises:
      FileExistsError: the root holds something else under these names. Nothing is overwritten.
    """
    root = Path(root)
    missing = []
    for split, count in pictures.items():
        info = {
            "description": subject.description,
            "version": subject.version,
            "arguments": {"pictures": count, "seed": seed, "picture_hw": list(picture_hw)},
        }
        annotation_file = root / "annotations" / f"person_keypoints_{split}.json"
        if not annotation_file.exists() and not (root / split).exists():
            missing.append((annotation_file, split, info))
        elif not annotation_file.exists() or _info(annotation_file) != info:
            raise FileExistsError(
                f"{root} already holds a {split} that is not the set asked for, {info};"
                " choose another root, or delete it if it was drawn"
            )
    for annotation_file, split, info in missing:
        _write_split(annotation_file, root / split, info, subject)


def _info(annotation_file: Path) -> dict | None:
    return json.loads(annotation_file.read_bytes()).get("info")


def _write_split(annotation_file: Path, folder: Path, info: dict, subject: Subject) -> None:
    # Split names are hashed by crc32, as Python's own hash differs from run to run. Ids differ
    # between splits, as in COCO, so that results scored against the wrong split are refused.
    split_key = zlib.crc32(folder.name.encode())
    count, seed, picture_hw = (info["arguments"][k] for k in ("pictures", "seed", "picture_hw"))
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was stopped
    partial.mkdir(parents=True)
    annotation_file.parent.mkdir(exist_ok=True)

    images, annotations = [], []
    for i in range(count):
        rng = np.random.default_rng((seed, split_key, i))
        image_rgb, people = subject.draw_picture(rng, picture_hw)
        image_id = split_key % 1000 * 1_000_000 + i + 1
        file_name = f"{image_id:012d}.jpg"
        quality = (cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(55, 96)))
        # Not imwrite: on a full disk it just returns False.
        (partial / file_name).write_bytes(cv2.imencode(".jpg", image_rgb[..., ::-1], quality)[1])
        images.append({"id": image_id, "file_name": file_name,
                       "width": picture_hw[1], "height": picture_hw[0]})  # fmt: skip
        annotations += [
            {"id": 10 * image_id + n, "image_id": image_id} | person
            for n, person in enumerate(people)
        ]

    content = {
        "info": info, "images": images, "annotations": annotations,
        "categories": [subject.category],
    }  # fmt: skip
    partial_json = annotation_file.with_suffix(".partial")
    partial_json.write_text(json.dumps(content))
    partial.rename(folder)
    partial_json.rename(annotation_file)


def command(subject: Subject, root: str, train: int, val: int) -> Path:
    """Runs a program that draws; returns the root it has written to."""
    parser = argparse.ArgumentParser(description=f"{subject.description}, in COCO's own layout.")
    parser.add_argument("--root", default=root)
    parser.add_argument("--train", type=int, default=train, help="pictures in train2017")
    parser.add_argument("--val", type=int, default=val, help="pictures in val2017")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        write(args.root, {"train2017": args.train, "val2017": args.val}, subject, args.seed)
    except OSError as error:
        raise SystemExit(f"error: {error}") from None
    print(f"{args.root}: {args.train} pictures in train2017, {args.val} in val2017")
    return Path(args.root)
