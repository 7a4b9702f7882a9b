"""COCO's json files of person keypoints and of detections: reading and checking."""

import dataclasses
import json
import logging
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mspn_jax import geometry
from mspn_jax.skeletons import Skeleton

log = logging.getLogger(__name__)

PERSON = 1  # COCO's category id
LAYOUT = "annotations/person_keypoints_<split>.json and <split>/*.jpg"
_SOME = 3  # how many offenders a message names


class DataError(ValueError):
    """Something is wrong with a data set; one line says what, where, and what to do."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture and its N people with labelled keypoints: no crowds, no empty boxes.

    Attributes:
      boxes_xywh: (N, 4) float64, image pixels, as annotated.
      keypoints_image_xy: (N, K, 2) float32, image pixels.
      visibility: (N, K) float32, COCO's 0 not labelled, 1 hidden, 2 visible.
    """

    image_id: int
    file_name: str
    image_hw: tuple[int, int]
    annotation_ids: np.ndarray
    boxes_xywh: np.ndarray
    keypoints_image_xy: np.ndarray
    visibility: np.ndarray


def annotation_file(root: str | os.PathLike, split: str) -> pathlib.Path:
    """The split's json: person_keypoints, or image_info where there are no annotations (test-dev).

    Raises:
      DataError: the folder, or the json in it, is not there.
    """
    root = pathlib.Path(root)
    if not root.is_dir():
        raise DataError(
            f"{root}: no such folder. COCO 2017 is 19 GB: train2017.zip, val2017.zip and"
            " annotations_trainval2017.zip of images.cocodataset.org, unpacked there (the commands"
            f" are in docs/coco.md) to have COCO's layout, {LAYOUT}; --config.data.root names"
            " another place"
        )
    for kind in ("person_keypoints", "image_info"):
        path = root / "annotations" / f"{kind}_{split}.json"
        if path.is_file():
            return path
    found = sorted(
        path.stem.removeprefix("person_keypoints_")
        for path in root.glob("annotations/person_keypoints_*.json")
    )
    raise DataError(
        f"{root}/annotations/person_keypoints_{split}.json: no such file;"
        f" splits found there: {', '.join(found) or 'none'}"
    )


def load_json(path: str | os.PathLike) -> Any:
    """A json file's content.

    Raises:
      DataError: it cannot be read, or is not json.
    """
    try:
        with open(path, "rb") as file:
            return json.load(file)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{path}: not json ({error}). Download or write it again") from None


def read_pictures(
    root: str | os.PathLike, split: str, skeleton: Skeleton, first_people: int = 0
) -> list[Picture]:
    """Reads and checks a split's annotations.

    Args:
      first_people: keep only that many people, the first in the order of the file, and the
        pictures they are in; 0 keeps all.

    Returns:
      The pictures in the order of the file, those without people too (unless `first_people`).

    Raises:
      DataError: the json is not COCO's, or an annotation is damaged; the first is named by its id.
    """
    path = annotation_file(root, split)
    content = load_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise DataError(f"{path}: not COCO's: no list of 'images' in it")
    images = {}
    for image in content["images"]:
        try:
            images[image["id"]] = (image["file_name"], (int(image["height"]), int(image["width"])))
        except (KeyError, TypeError, ValueError):
            raise DataError(
                f"{path}: an image needs id, file_name, height and width, but this one has"
                f" {json.dumps(image)[:200]}"
            ) from None
    if len(images) != len(content["images"]):
        raise DataError(f"{path}: image ids occur twice; every id must name one picture")

    people: dict[int, list[tuple]] = {image_id: [] for image_id in images}
    without_area, kept, seen = [], 0, set()
    for annotation in content.get("annotations", []):
        person = _check_person(annotation, path, images, skeleton)
        if annotation["id"] in seen:
            raise DataError(f"{path}: annotation id {annotation['id']} occurs twice")
        seen.add(annotation["id"])
        if person is None:
            continue
        box_xyxy = geometry.clip_boxes(person[1], images[annotation["image_id"]][1])
        if not (box_xyxy[2:] > box_xyxy[:2]).all():
            without_area.append(annotation["id"])
            continue
        people[annotation["image_id"]].append(person)
        kept += 1
        if kept == first_people:
            break
    if without_area:
        log.warning(
            "%s: left out %d people whose box has no area inside their picture: annotation %s",
            path, len(without_area), some(without_area),
        )  # fmt: skip
    pictures = [
        _picture(image_id, *images[image_id], rows, skeleton.num_keypoints)
        for image_id, rows in people.items()
        if rows or not first_people
    ]
    if content.get("annotations") and not kept:
        raise DataError(f"{path}: no annotation has a labelled keypoint and a box with an area")
    return pictures


def _check_person(annotation, path, images, skeleton: Skeleton) -> tuple | None:
    """(id, box, keypoints) of a person that can be learnt from; None for crowds and unlabelled."""

    def refuse(what: str):
        raise DataError(f"{path}: annotation {annotation.get('id')} {what}")

    if not isinstance(annotation, dict):
        raise DataError(f"{path}: an annotation is not an object: {json.dumps(annotation)[:200]}")
    missing = [k for k in ("id", "image_id", "category_id", "bbox") if k not in annotation]
    if missing:
        refuse(f"lacks {', '.join(missing)}: is this COCO's person_keypoints json?")
    if annotation["image_id"] not in images:
        refuse(f"belongs to picture {annotation['image_id']}, which 'images' does not list")
    if annotation["category_id"] != PERSON or annotation.get("iscrowd"):
        return None
    if "keypoints" not in annotation:
        refuse("has no keypoints: is this the instances json? person_keypoints is needed")
    try:
        box = np.array(annotation["bbox"], np.float64)
        keypoints = np.array(annotation["keypoints"], np.float32)
    except (TypeError, ValueError):
        refuse("has a bbox or keypoints that are not numbers")
    if keypoints.shape != (3 * skeleton.num_keypoints,):
        refuse(
            f"has {keypoints.size} keypoint numbers where skeleton {skeleton.name!r} has"
            f" 3 x {skeleton.num_keypoints}: choose the skeleton that the data has"
        )
    if box.shape != (4,):
        refuse(f"has a bbox of {box.size} numbers; x, y, width, height are needed")
    if not (np.isfinite(box).all() and np.isfinite(keypoints).all()):
        refuse("has a NaN or infinite number in bbox or keypoints: correct or remove it")
    keypoints = keypoints.reshape(-1, 3)
    if not np.isin(keypoints[:, 2], (0, 1, 2)).all():
        refuse("has a visibility that is not 0, 1 or 2: are its keypoints x, y, v triples?")
    return (annotation["id"], box, keypoints) if (keypoints[:, 2] > 0).any() else None


def _picture(image_id, file_name, image_hw, people: list[tuple], num_keypoints: int) -> Picture:
    ids, boxes, triples = zip(*people) if people else ((), (), ())
    keypoints = np.array(triples, np.float32).reshape(-1, num_keypoints, 3)
    return Picture(
        image_id=image_id,
        file_name=file_name,
        image_hw=image_hw,
        annotation_ids=np.array(ids, np.int64),
        boxes_xywh=np.array(boxes, np.float64).reshape(-1, 4),
        keypoints_image_xy=keypoints[..., :2],
        visibility=keypoints[..., 2],
    )


def some(offenders: Sequence) -> str:
    """The first few of them, and how many more there are, for a message."""
    more = f" and {len(offenders) - _SOME} more" if len(offenders) > _SOME else ""
    return ", ".join(map(str, offenders[:_SOME])) + more


@dataclasses.dataclass(frozen=True)
class Detections:
    """Boxes of people found by a detector, in the order of the file.

    Attributes:
      image_ids: (N,) int64.
      boxes_xywh: (N, 4) float64, image pixels, not clipped.
      scores: (N,) float64.
    """

    image_ids: np.ndarray
    boxes_xywh: np.ndarray
    scores: np.ndarray


def read_detections(path: str | os.PathLike, image_ids: Iterable[int]) -> Detections:
    """Reads a detector's results in COCO's format; only people (category 1) count.

    Raises:
      DataError: not such a file, or it names a picture that is not among `image_ids`.
    """
    content = load_json(path)
    if not isinstance(content, list):
        raise DataError(f"{path}: not detections: COCO's results are a list of boxes with scores")
    people = []
    for i, row in enumerate(content):
        try:
            if row["category_id"] != PERSON:
                continue
            people.append((int(row["image_id"]), *map(float, row["bbox"]), float(row["score"])))
            if len(people[-1]) != 6:
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise DataError(
                f"{path}: entry {i} is not a detection (image_id, category_id, bbox of four"
                f" numbers, score): {json.dumps(row)[:200]}"
            ) from None
    table = np.array(people, np.float64).reshape(-1, 6)
    ids = table[:, 0].astype(np.int64)
    unknown = np.setdiff1d(ids, np.fromiter(image_ids, np.int64))
    if len(unknown):
        raise DataError(
            f"{path}: has boxes on {len(unknown)} pictures that the split has not"
            f" ({some(unknown.tolist())}): is it the detection file of another split?"
        )
    usable = geometry.usable_boxes(table[:, 1:5]) & np.isfinite(table[:, 5])
    if not usable.all():
        bad = np.flatnonzero(~usable)
        log.warning(
            "%s: left out %d boxes that are not finite or have no area, person %s of the file",
            path, len(bad), some(bad.tolist()),
        )  # fmt: skip
    return Detections(ids[usable], table[usable, 1:5], table[usable, 5])
