"""What is in a data set, and what in it looks wrong: COCO's json, of any skeleton.

Reading for training stops at the first annotation that it cannot take. This goes through all of
them, counts what is wrong or strange, and names the first few.
"""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from mspn_jax import geometry
from mspn_jax.data.coco import annotation_file, load_json
from mspn_jax.errors import DataError
from mspn_jax.storage import paths

Array = np.ndarray

ERROR, SUSPECT, NOTE = "error", "suspect", "note"
SHOWN_IDS = 5
PLAIN = 0.6  # from here on a part of the body is plainly seen from the front; 1 at most


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something found in `count` places.

    Attributes:
      level: `error`, training would refuse it or leave it out; `suspect`, look at it; `note`.
      what: in words; of what the ids are, too.
      ids: the first few.
    """

    level: str
    what: str
    count: int
    ids: tuple[int | str, ...]


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What there is.

    Attributes:
      counts: {"pictures", "people", ...: how many}.
      keypoints: name -> how many are (not labelled, hidden, visible), over people that are
        labelled at all.
      findings: errors first.
    """

    file: pathlib.Path
    counts: dict[str, int]
    keypoints: dict[str, tuple[int, int, int]]
    findings: list[Finding]

    @property
    def num_errors(self) -> int:
        return sum(finding.count for finding in self.findings if finding.level == ERROR)


@dataclasses.dataclass(frozen=True)
class Person:
    """An annotated person whose numbers can be read."""

    annotation: dict[str, Any]
    image_hw: tuple[int, int]
    keypoints_image_xy: Float[Array, "K 2"]
    visibility: Float[Array, "K"]
    box_xywh: Float[Array, "4"]


def inspect(
    root: str | os.PathLike, split: str, *, padding: float, crop_hw: tuple[int, int]
) -> Inspection:
    """Goes through a split's annotations.

    Keypoint names are those of the file's category; without any, keypoints go by number, and left
    and right are not looked at.

    Args:
      padding, crop_hw: of the crop region, over the box's size, and the shape of a crop in pixels.

    Raises:
      DataError: the file cannot be read, or is not COCO's at all.
    """
    file = annotation_file(root, split)
    content = load_json(file)
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise DataError(f"{file}: not COCO's: no list of 'images' in it")
    found: dict[tuple[str, str], list] = collections.defaultdict(list)

    def find(level: str, what: str, place: Any) -> None:
        found[level, what].append(place)

    images = _images(content["images"], paths.path(root) / split, find)
    names_of = _names(content)
    annotations = content.get("annotations") or []
    people, counts = [], collections.Counter(pictures=len(content["images"]))
    for number in _twice(a.get("id") for a in annotations if isinstance(a, dict)):
        find(ERROR, "annotation ids that occur more than once", number)
    for annotation in annotations:
        counts["annotations"] += 1
        person = _person(annotation, images, names_of, find)
        if annotation.get("iscrowd") if isinstance(annotation, dict) else False:
            counts["crowds"] += 1
        elif person is not None:
            counts["people"] += 1
            people.append(person)

    labelled = [person for person in people if (person.visibility > 0).any()]
    counts["people with labelled keypoints"] = len(labelled)
    counts["pictures with labelled people"] = len({p.annotation["image_id"] for p in labelled})
    for person in labelled:
        for level, what in _complaints(person, names_of, padding, crop_hw):
            find(level, what, person.annotation["id"])
    for what, ids in _duplicates(labelled):
        find(SUSPECT, what, ids)

    order = (ERROR, SUSPECT, NOTE)
    return Inspection(
        file=file,
        counts=dict(counts),
        keypoints=_by_keypoint(labelled, names_of),
        findings=sorted(
            (
                Finding(level, what, len(places), tuple(places[:SHOWN_IDS]))
                for (level, what), places in found.items()
            ),
            key=lambda finding: order.index(finding.level),
        ),
    )


Find = Callable[[str, str, Any], None]
Names = dict[Any, list[str]]  # of a category's keypoints


def _images(rows: list, folder: paths.Path, find: Find) -> dict[Any, tuple[int, int]]:
    """(height, width) of every picture that the file describes."""
    there = None
    if paths.is_folder(folder):
        with paths.named(folder):
            there = {path.name for path in folder.iterdir()}
    if there is None:
        find(ERROR, f"no folder of pictures {folder}", folder.name)
    images: dict[Any, tuple[int, int]] = {}
    for row in rows:
        try:
            number, hw = row["id"], (int(row["height"]), int(row["width"]))
            name = str(row["file_name"])
        except (KeyError, TypeError, ValueError):
            find(ERROR, "pictures without id, file_name, height or width", str(row)[:60])
            continue
        if number in images:
            find(ERROR, "picture ids that occur more than once", number)
        images[number] = hw
        if there is not None and name not in there:
            find(ERROR, "pictures whose file is not there", name)
    return images


def _names(content: dict) -> Names:
    return {
        category.get("id"): category["keypoints"]
        for category in content.get("categories") or []
        if isinstance(category, dict) and category.get("keypoints")
    }


def _person(annotation: Any, images: dict, names_of: Names, find: Find) -> Person | None:
    if not isinstance(annotation, dict) or "id" not in annotation:
        find(ERROR, "annotations without an id", str(annotation)[:60])
        return None
    number = annotation["id"]
    if annotation.get("image_id") not in images:
        find(ERROR, "annotations on pictures that the file does not list", number)
        return None
    if annotation.get("iscrowd"):
        return None
    category = annotation.get("category_id")
    if names_of and category not in names_of:
        find(NOTE, "annotations of a category without keypoints", number)
        return None
    try:
        box = np.array(annotation["bbox"], float)
        triples = np.array(annotation["keypoints"], float)
    except (KeyError, TypeError, ValueError):
        find(ERROR, "annotations whose bbox or keypoints are missing or no numbers", number)
        return None
    names = names_of.get(category, [])
    if box.shape != (4,) or triples.ndim != 1 or len(triples) % 3 or not len(triples):
        find(ERROR, "annotations whose bbox is not 4 numbers, or keypoints are no triples", number)
    elif names and len(triples) != 3 * len(names):
        find(ERROR, f"annotations that do not have the category's {len(names)} keypoints", number)
    elif not (np.isfinite(box).all() and np.isfinite(triples).all()):
        find(ERROR, "annotations with a NaN or infinite number", number)
    elif not np.isin(triples[2::3], (0, 1, 2)).all():
        find(ERROR, "annotations with a visibility that is not 0, 1 or 2", number)
    else:
        xy, visibility = triples.reshape(-1, 3)[:, :2], triples[2::3]
        return Person(annotation, images[annotation["image_id"]], xy, visibility, box)
    return None


def _complaints(
    person: Person, names_of: Names, padding: float, crop_hw: tuple[int, int]
) -> Iterator[tuple[str, str]]:
    """What is wrong or strange about one labelled person."""
    labelled = person.visibility > 0
    xy, (height, width) = person.keypoints_image_xy[labelled], person.image_hw
    box_xyxy = geometry.clip_boxes(person.box_xywh, person.image_hw)
    if not (box_xyxy[2:] > box_xyxy[:2]).all():
        yield ERROR, "people whose box has no area inside their picture"
    else:
        if _any_outside(xy, box_xyxy[:2], box_xyxy[2:]):
            yield NOTE, "people with keypoints outside their box"
        center_xy, size_wh = geometry.crop_regions(box_xyxy, padding, crop_hw)
        if _any_outside(xy, center_xy - size_wh / 2, center_xy + size_wh / 2):
            yield SUSPECT, "people with keypoints outside their crop, where no heatmap reaches"
    if _any_outside(xy, (-0.5, -0.5), (width, height)):  # some tools count corners, not centers
        yield SUSPECT, "people with keypoints outside their picture"
    area, box_area = person.annotation.get("area"), float(person.box_xywh[2:].prod())
    if not isinstance(area, int | float) or not np.isfinite(area):
        yield ERROR, "people without an area, by which OKS is scaled"
    elif area <= 0:
        yield ERROR, "people whose area is not positive, so that their OKS is 0"
    elif abs(area - box_area) <= 1e-6 * box_area:
        yield NOTE, "people whose area is their box's: estimated, not segmented"
    elif area > 1.01 * box_area:
        yield SUSPECT, "people whose area is greater than their box's"
    if labelled.sum() == 1:
        yield NOTE, "people with a single labelled keypoint"
    if person.annotation.get("num_keypoints", labelled.sum()) != labelled.sum():
        yield SUSPECT, "people whose num_keypoints is not how many are labelled"
    if ((xy == 0).all(1)).any():
        yield SUSPECT, "people with a labelled keypoint at (0, 0)"
    names = names_of.get(person.annotation.get("category_id"), [])
    yield from ((SUSPECT, what) for what in _sides(names, person.keypoints_image_xy, labelled))


def _any_outside(xy, low, high) -> bool:
    return bool(((xy < low) | (xy > high)).any())


def _sides(names: Sequence[str], xy: Array, labelled: Array) -> Iterator[str]:
    """In what way left and right look exchanged, whichever way up the person is.

    Seen from the front, left eye, right eye, nose turn one way in the picture, and so do left
    shoulder, right shoulder and hips. Names as COCO's; nothing is said where they are missing.
    """
    at = {name: xy[k] for k, name in enumerate(names) if labelled[k]}

    def turn(a: str, b: str, *between: str) -> float:
        """Towards 1 seen from the front, -1 from the back, 0 in profile or where not labelled."""
        if not {a, b, *between} <= at.keys():
            return 0.0
        across = at[a] - at[b]
        down = np.mean([at[name] for name in between], 0) - (at[a] + at[b]) / 2
        cross = across[0] * down[1] - across[1] * down[0]
        return float(2 * cross / max(across @ across + down @ down, 1e-9))

    face = turn("left_eye", "right_eye", "nose")
    shoulders = turn("left_shoulder", "right_shoulder", "left_hip", "right_hip")
    hips = -turn("left_hip", "right_hip", "left_shoulder", "right_shoulder")
    if face < -PLAIN:
        yield "people whose eyes are exchanged, left for right, as their nose shows"
    if face > PLAIN and max(shoulders, hips) < -PLAIN:
        yield (
            "people with the face to the front and the trunk to the back: they look over their"
            " shoulder, or left and right of the trunk are exchanged"
        )
    if shoulders * hips < 0 and min(abs(shoulders), abs(hips)) > PLAIN:
        yield "people whose shoulders and hips disagree on left and right"


def _duplicates(people: list[Person]) -> Iterator[tuple[str, str]]:
    """Pairs in one picture, as "id = id"."""
    for what, part in (
        ("pairs of people with the same box", lambda p: p.box_xywh.tobytes()),
        (
            "pairs of people with the same keypoints",
            lambda p: (
                (p.keypoints_image_xy * (p.visibility > 0)[:, None]).tobytes()
                + p.visibility.tobytes()
            ),
        ),
    ):
        first: dict[tuple, Any] = {}
        for person in people:
            key = (person.annotation["image_id"], part(person))
            if key in first:
                yield what, f"{first[key]} = {person.annotation['id']}"
            first.setdefault(key, person.annotation["id"])


def _by_keypoint(people: list[Person], names_of: Names) -> dict[str, tuple[int, int, int]]:
    counts: dict[str, list[int]] = {}
    for person in people:
        names = names_of.get(person.annotation.get("category_id"))
        for k, visibility in enumerate(person.visibility):
            row = counts.setdefault(names[k] if names else f"keypoint {k}", [0, 0, 0])
            row[int(visibility)] += 1
    return {name: (row[0], row[1], row[2]) for name, row in counts.items()}


def _twice(values) -> list:
    return [value for value, count in collections.Counter(values).items() if count > 1]
