"""Json files of annotated keypoints, as COCO's: reading and checking."""

import collections
import dataclasses
import json
import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mspn_jax import geometry
from mspn_jax.data import plausibility
from mspn_jax.errors import DataError
from mspn_jax.skeletons import Skeleton
from mspn_jax.storage import mirror, paths

log = logging.getLogger(__name__)

PERSON = 1  # COCO's category id, for files that name no category with keypoints
LAYOUT = "annotations/person_keypoints_<split>.json and <split>/*.jpg"
_SOME = 3  # how many offenders a message names


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

    Of a root in a bucket, the copy on this disk.

    Raises:
      DataError: the folder, or the json in it, is not there.
      StorageError: the bucket refuses or does not answer.
    """
    root = paths.path(root)
    with paths.named(root):
        path = _annotation_file(root, split)
    return mirror.fetched(path)


def _annotation_file(root: paths.Path, split: str) -> paths.Path:
    if not paths.is_folder(root):
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
        with open(mirror.fetched(path), "rb") as file:
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
      DataError: the json is not COCO's, is of another skeleton, or an annotation is damaged; the
        first is named by its id.
    """
    path = annotation_file(root, split)
    content = load_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise DataError(f"{path}: not COCO's: no list of 'images' in it")
    if not content["images"]:
        raise DataError(f"{path}: lists no pictures: its 'images' is empty")
    category_id = keypoint_category(content, path, skeleton)
    images = {}
    for image in content["images"]:
        try:
            if not isinstance(image["id"], int):
                raise TypeError
            images[image["id"]] = (image["file_name"], (int(image["height"]), int(image["width"])))
        except (KeyError, TypeError, ValueError):
            raise DataError(
                f"{path}: an image needs id (a whole number), file_name, height and width, but"
                " this one has"
                f" {json.dumps(image)[:200]}"
            ) from None
    if len(images) != len(content["images"]):
        raise DataError(f"{path}: image ids occur twice; every id must name one picture")

    people: dict[int, list[tuple]] = {image_id: [] for image_id in images}
    outside, unmeasured, kept, seen = [], [], 0, set()
    for annotation in content.get("annotations", []):
        person = _check_person(annotation, path, images, skeleton, category_id)
        if annotation["id"] in seen:
            raise DataError(f"{path}: annotation id {annotation['id']} occurs twice")
        seen.add(annotation["id"])
        if person is None:
            continue
        box_xyxy = geometry.clip_boxes(person[1], images[annotation["image_id"]][1])
        if not (box_xyxy[2:] > box_xyxy[:2]).all():
            outside.append(annotation["id"])
            continue
        if not annotation.get("area"):
            unmeasured.append(annotation["id"])
        people[annotation["image_id"]].append(person)
        kept += 1
        if kept == first_people:
            break
    if outside:
        log.warning(
            "%s: left out %d people whose box has no area inside their picture: annotation %s",
            path, len(outside), some(outside),
        )  # fmt: skip
    if unmeasured:
        log.warning(
            "%s: %d people have no area, or 0, which COCO's score measures distances by: their"
            " boxes' areas are taken: annotation %s", path, len(unmeasured), some(unmeasured),
        )  # fmt: skip
    pictures = [
        _picture(image_id, *images[image_id], rows, skeleton.num_keypoints)
        for image_id, rows in people.items()
        if rows or not first_people
    ]
    if content.get("annotations") and not kept:
        categories = collections.Counter(a["category_id"] for a in content["annotations"])
        raise DataError(
            f"{path}: no annotation has a labelled keypoint and a box with an area and is of"
            f" category {category_id}; there are annotations of category "
            + ", ".join(f"{id} ({count})" for id, count in categories.most_common())
        )
    _say_doubts(path, pictures)
    return pictures


def _say_doubts(path: pathlib.Path, pictures: Sequence[Picture]) -> None:
    people = [p for p in pictures if len(p.annotation_ids)]
    counts = [len(p.annotation_ids) for p in people]
    if people:
        for doubt in plausibility.doubts(
            np.concatenate([p.annotation_ids for p in people]),
            np.concatenate([p.boxes_xywh for p in people]),
            np.concatenate([p.keypoints_image_xy for p in people]),
            np.concatenate([p.visibility for p in people]),
            np.repeat([p.image_hw[::-1] for p in people], counts, axis=0),
        ):
            log.warning("%s: %s", path, doubt)


def keypoint_category(content: Mapping[str, Any], path: pathlib.Path, skeleton: Skeleton) -> int:
    """The id of the category that the skeleton is of.

    It is the only one with keypoints, or the one with the skeleton's; where none names its
    keypoints, the only one there is, or COCO's person.

    Raises:
      DataError: its keypoints are not the skeleton's, in the skeleton's order.
    """
    try:
        categories = {c["id"]: tuple(c.get("keypoints", ())) for c in content.get("categories", [])}
    except (KeyError, TypeError, AttributeError):
        raise DataError(f"{path}: a category needs an id and, if it has any, keypoints") from None
    named = {id: names for id, names in categories.items() if names}
    if not named:
        return next(iter(categories)) if len(categories) == 1 else PERSON
    for category_id, names in named.items():
        if names == skeleton.keypoint_names:
            return category_id
    category_id, names = next(iter(named.items()))
    if len(names) == len(skeleton.keypoint_names) and {*names} == {*skeleton.keypoint_names}:
        first = next(k for k, n in enumerate(names) if n != skeleton.keypoint_names[k])
        raise DataError(
            f"{path}: category {category_id} has the keypoints of skeleton {skeleton.name!r} in"
            f" another order: keypoint {first} is {names[first]} here and"
            f" {skeleton.keypoint_names[first]} there; give the skeleton (and its oks_sigmas) the"
            " order of the json"
        )
    strange = [n for n in names if n not in skeleton.keypoint_names]
    lacking = [n for n in skeleton.keypoint_names if n not in names]
    raise DataError(
        f"{path}: category {category_id} has {len(names)} keypoints, skeleton {skeleton.name!r} has"
        f" {skeleton.num_keypoints} others (only here: {some(strange) or 'none'}; only there:"
        f" {some(lacking) or 'none'}): let config.skeleton name the file of the data's skeleton"
    )


def read_category(root: str | os.PathLike, split: str, skeleton: Skeleton) -> int:
    """A split's `keypoint_category`."""
    path = annotation_file(root, split)
    return keypoint_category(load_json(path), path, skeleton)


def _check_person(annotation, path, images, skeleton: Skeleton, category_id: int) -> tuple | None:
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
    if not isinstance(annotation["id"], int):
        refuse("has an id that is not a whole number")
    if annotation["category_id"] != category_id or annotation.get("iscrowd"):
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
            f" 3 x {skeleton.num_keypoints}: let config.skeleton name the data's skeleton"
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
