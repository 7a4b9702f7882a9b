"""Boxes of people in files, for prediction: COCO's json, or plain lists."""

import dataclasses
import logging
import os
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mspn_jax import geometry
from mspn_jax.data import fields
from mspn_jax.data.annotations import lookup
from mspn_jax.data.coco import PERSON, load_json
from mspn_jax.data.schema import ERROR, Findings, numbers, read_columns, shown
from mspn_jax.errors import DataError

log = logging.getLogger(__name__)

FORMATS = (
    "COCO's detections or annotations, {file name: [[x, y, width, height], ...]}, or"
    " [[x, y, width, height], ...] for every picture"
)


@dataclasses.dataclass(frozen=True)
class PersonBoxes:
    """Boxes by picture."""

    # Each row is x, y, width, height, score. Keys are file names, or COCO's image ids as strings.
    by_picture: dict[str, Float[np.ndarray, "_ 5"]]
    # The boxes of each picture that `by_picture` lacks. None: such pictures have no boxes.
    everywhere: Float[np.ndarray, "_ 5"] | None = None

    def of(self, name: str) -> Float[np.ndarray, "N 5"] | None:
        """The boxes of a picture, found by its path, its file name, or COCO's id in it."""
        path = pathlib.PurePosixPath(name)
        image_id = str(int(path.stem)) if path.stem.isdecimal() and len(path.stem) < 20 else ""
        for key in (name, path.name, image_id):
            if key in self.by_picture:
                return self.by_picture[key]
        return self.everywhere

    def above(self, min_score: float) -> "PersonBoxes":
        """Without the boxes that score lower."""
        by_picture = {name: rows[rows[:, 4] >= min_score] for name, rows in self.by_picture.items()}
        everywhere = self.everywhere
        if everywhere is not None:
            everywhere = everywhere[everywhere[:, 4] >= min_score]
        return PersonBoxes(by_picture, everywhere)


def parse_boxes(given: list[str], what: str) -> Float[np.ndarray, "N 5"]:
    """Boxes of a command line, each as "x,y,width,height" and optionally ",score"."""
    rows: list[Any] = []
    for text in given:
        try:
            rows.append([float(part) for part in text.split(",")])
        except ValueError:
            rows.append(text)
    return table(rows, what)


def table(rows: list[Any], what: str) -> Float[np.ndarray, "N 5"]:
    """Lists of x, y, width, height and maybe a score, by default 1. `what` is for messages."""
    rows = [[*row, 1.0] if type(row) is list and len(row) == 4 else row for row in rows]
    boxes, is_good = numbers(5)(rows)
    is_good &= np.abs(boxes).max(1, initial=0) <= fields.PIXELS  # false for NaN
    for i in np.flatnonzero(~is_good)[:1].tolist():
        raise DataError(
            f"{what}: box {i} is {shown(rows[i])}; expected x, y, width, height and, optionally,"
            " a score"
        )
    return boxes


def read_person_boxes(path: str | os.PathLike) -> PersonBoxes:
    """Reads a file of boxes in any of the `FORMATS`.

    Boxes of annotations are clipped to their picture where they are for evaluation; others are
    not. Only people (category 1) count, or the only category that occurs, and no crowds.
    """
    content = load_json(path)
    if isinstance(content, dict) and isinstance(content.get("images"), list):
        return PersonBoxes(_annotated(content, path))
    if isinstance(content, dict) and all(isinstance(v, list) for v in content.values()):
        return PersonBoxes({k: table(v, f"{path}: {k}") for k, v in content.items()})
    if isinstance(content, list) and all(isinstance(row, dict) for row in content):
        return PersonBoxes(_detected(content, path))
    if isinstance(content, list):
        return PersonBoxes({}, table(content, str(path)))
    raise DataError(f"{path}: no file of boxes: expected {FORMATS}")


def _annotated(
    content: dict[str, Any], path: str | os.PathLike
) -> dict[str, Float[np.ndarray, "_ 5"]]:
    rows = content.get("annotations")
    if not isinstance(rows, list):
        raise DataError(f"{path}: it has no list of 'annotations'")
    findings = Findings()
    images, _ = read_columns(content["images"], fields.IMAGE, "image", findings)
    columns, _ = read_columns(rows, (*fields.IDS[1:], fields.IS_CROWD), "annotation", findings)
    is_clipped = fields.clips_boxes(content, findings)
    findings.raise_error(path)
    category_id = _category(columns["category_id"], path)
    chosen = np.flatnonzero((columns["category_id"] == category_id) & (columns["iscrowd"] == 0))
    indices = [f"at index {i}" for i in chosen.tolist()]
    boxes, _ = read_columns(
        [rows[i] for i in chosen], [fields.BOX], "annotation", findings, indices
    )
    of_image = np.full(len(chosen), -1)
    if len(images["id"]):
        of_image = lookup(images["id"], columns["image_id"][chosen])
    what = "its image_id is not the id of an image in 'images'"
    findings.add(ERROR, "annotation", what, [indices[i] for i in np.flatnonzero(of_image < 0)])
    findings.raise_error(path)
    image_hw = np.stack([images["height"], images["width"]], 1)[of_image]
    boxes_xyxy = (
        geometry.clip_boxes(boxes["bbox"], image_hw)
        if is_clipped
        else geometry.boxes_xywh_to_xyxy(boxes["bbox"])
    )
    sizes_wh = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    boxes_of = np.column_stack([boxes_xyxy[:, :2], sizes_wh, np.ones(len(chosen))])
    return {
        name: boxes_of[of_image == image].astype(np.float64)
        for image, name in enumerate(images["file_name"].tolist())
    }


def _detected(
    content: list[dict[str, Any]], path: str | os.PathLike
) -> dict[str, Float[np.ndarray, "_ 5"]]:
    findings = Findings()
    categories, _ = read_columns(content, [fields.ANY_CATEGORY_ID], "entry", findings)
    findings.raise_error(path)
    chosen = np.flatnonzero(categories["category_id"] == _category(categories["category_id"], path))
    indices = [f"at index {i}" for i in chosen.tolist()]
    rows = [content[i] for i in chosen]
    columns, _ = read_columns(rows, [fields.BOX, fields.SCORE], "entry", findings, indices)
    boxes = np.column_stack([columns["bbox"], columns["score"]])
    of_picture: dict[str, list[Float[np.ndarray, "values=5"]]] = {}
    for row, index, box in zip(rows, indices, boxes):
        field = fields.FILE_NAME if "file_name" in row else fields.IMAGE_ID
        named, _ = read_columns([row], [field], "entry", findings, [index])
        of_picture.setdefault(str(named[field.name][0]), []).append(box)
    findings.raise_error(path)
    return {name: np.array(boxes) for name, boxes in of_picture.items()}


def _category(category_ids: Int[np.ndarray, "N"], path: str | os.PathLike) -> int:
    """COCO's person, or else the only category that occurs, as of somebody's own skeleton."""
    present = np.unique(category_ids).tolist()
    if PERSON in present or not present:
        return PERSON
    if len(present) > 1:
        raise DataError(
            f"{path}: has boxes of categories {', '.join(map(str, present))}, and none of"
            f" COCO's person ({PERSON}): keep those of one category"
        )
    log.warning(
        "%s: has no boxes of COCO's person (%d); those of category %s, the only one, are taken",
        path,
        PERSON,
        present[0],
    )
    return present[0]
