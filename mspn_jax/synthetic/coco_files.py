"""Writes drawn pictures and their annotations as a data set in COCO's layout."""

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
from jaxtyping import Float, UInt8

from mspn_jax.storage import files
from mspn_jax.synthetic.canvas import Rng


class Subject(NamedTuple):
    """What a data set shows."""

    description: str  # for the json
    version: str  # of the drawing; raise it when a seed gives other pictures than before
    category: dict[str, Any]  # for the json, from `categories.entry`
    draw_picture: Callable[
        [Rng, tuple[int, int]], tuple[UInt8[np.ndarray, "H W 3"], list[dict[str, Any]]]
    ]  # (random generator, picture_hw) -> (RGB picture, annotations from `annotation`)


def annotation(
    category_id: int, silhouette: UInt8[np.ndarray, "H W"], keypoints: Float[np.ndarray, "K 3"]
) -> dict[str, Any]:
    """COCO's entry for one body, without `id` and `image_id`."""
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
    *,
    seed: int = 0,
    picture_hw: tuple[int, int] = (240, 320),
) -> None:
    """Writes a data set in COCO's layout, unless the same set is already there.

    Picture i of a split depends on (seed, split, i) only, so a longer set begins with a shorter
    one. The annotations of a split are written last, atomically. Nothing is overwritten: where
    there are other files under these names, it raises FileExistsError.

    Args:
      root: gets `annotations/person_keypoints_<split>.json` and `<split>/<12 digits>.jpg`.
      pictures: split -> number of pictures.
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
        elif (
            not annotation_file.exists()
            or json.loads(annotation_file.read_bytes()).get("info") != info
        ):
            raise FileExistsError(
                f"{root} already holds another {split} than the one asked for, {info}:"
                " choose another root, or delete it if it was drawn"
            )
    for annotation_file, split, info in missing:
        _write_split(annotation_file, root / split, info, subject)


def _write_split(annotation_file: Path, folder: Path, info: dict, subject: Subject) -> None:
    # Python's own hash of a string differs from run to run. Ids differ between splits, as in COCO,
    # so that scoring results against the wrong split fails.
    split_key = zlib.crc32(folder.name.encode())
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by an interrupted run
    partial.mkdir(parents=True)
    annotation_file.parent.mkdir(exist_ok=True)
    partial_json = annotation_file.with_suffix(".partial")
    try:
        content = {"info": info} | _write_pictures(partial, split_key, info, subject)
        files.write_text(partial_json, json.dumps(content | {"categories": [subject.category]}))
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    partial.rename(folder)
    partial_json.rename(annotation_file)


def _write_pictures(
    folder: Path, split_key: int, info: dict, subject: Subject
) -> dict[str, list[dict[str, Any]]]:
    """Draws a split's pictures; returns the json's entries for them."""
    arguments = info["arguments"]
    count, seed, (height, width) = (arguments[name] for name in ("pictures", "seed", "picture_hw"))
    images, annotations = [], []
    for i in range(count):
        rng = np.random.default_rng((seed, split_key, i))
        image_rgb, drawn = subject.draw_picture(rng, (height, width))
        image_id = split_key % 1000 * 1_000_000 + i + 1
        file_name = f"{image_id:012d}.jpg"
        quality = (cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(55, 96)))
        # imwrite does not raise on a full disk.
        data = cv2.imencode(".jpg", image_rgb[..., ::-1], quality)[1].tobytes()
        files.write_bytes(folder / file_name, data, sync=False)
        images.append({"id": image_id, "file_name": file_name, "width": width, "height": height})
        annotations += [
            {"id": 10 * image_id + n, "image_id": image_id} | each for n, each in enumerate(drawn)
        ]
    return {"images": images, "annotations": annotations}


def command(subject: Subject, root: str, train: int, val: int) -> Path:
    """Parses the command line, writes the data set, and returns its root."""
    parser = argparse.ArgumentParser(description=f"{subject.description}, in COCO's own layout.")
    parser.add_argument("--root", default=root)
    parser.add_argument("--train", type=int, default=train, help="pictures in train2017")
    parser.add_argument("--val", type=int, default=val, help="pictures in val2017")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        write(args.root, {"train2017": args.train, "val2017": args.val}, subject, seed=args.seed)
    except OSError as error:
        raise SystemExit(f"error: {error}") from None
    print(f"{args.root}: {args.train} pictures in train2017, {args.val} in val2017")
    return Path(args.root)
