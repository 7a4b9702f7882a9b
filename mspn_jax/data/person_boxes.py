"""Boxes of people in files, for prediction: COCO's json, or plain lists."""

import dataclasses
import logging
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Float

from mspn_jax import geometry
from mspn_jax.data.coco import PERSON, load_json
from mspn_jax.errors import DataError

Array = np.ndarray
log = logging.getLogger(__name__)

FORMATS = (
    "COCO's detections or annotations, {file name: [[x, y, width, height], ...]}, or"
    " [[x, y, width, height], ...] for every picture"
)


@dataclasses.dataclass(frozen=True)
class PersonBoxes:
    """Boxes by picture.

    Attributes:
      by_picture: file name, or COCO's image id as a string -> (N, 5) x, y, width, height, score.
      everywhere: (N, 5) of a picture that is not in `by_picture`; None: such a picture has none.
    """

    by_picture: dict[str, Float[Array, "N 5"]]
    everywhere: Float[Array, "N 5"] | None = None

    def of(self, name: str) -> Float[Array, "N 5"] | None:
        """Those of a picture, found by its path, its file name, or COCO's id in it; None: none."""
        path = pathlib.PurePosixPath(name)
        image_id = str(int(path.stem)) if path.stem.isdecimal() else ""
        for key in (name, path.name, image_id):
            if key in self.by_picture:
                return self.by_picture[key]
        return self.everywhere


def table(rows: list[Any], what: str) -> Float[Array, "N 5"]:
    """Rows of x, y, width, height and perhaps a score, which else is 1.

    Raises:
      DataError: a row has not so many numbers; `what` says whose it is.
    """
    boxes = np.ones((len(rows), 5))
    for i, row in enumerate(rows):
        try:
            if len(row) not in (4, 5):
                raise ValueError
            boxes[i, : len(row)] = np.array(row, np.float64)
        except (TypeError, ValueError):
            raise DataError(
                f"{what}: box {i} is {str(row)[:100]}, not x, y, width, height and, if you like,"
                " score"
            ) from None
    return boxes


def read_person_boxes(path: str | os.PathLike) -> PersonBoxes:
    """Reads a file of boxes; which of the `FORMATS` it has is seen from what is in it.

    Boxes of annotations are clipped to their picture, as they are for evaluation; all others are
    taken as they are. Only people (category 1) count, or the one category that there is, and no
    crowds.

    Raises:
      DataError: the file is none of these, and the entry that is not is named; or it has several
        categories, and none of them people.
    """
    content = load_json(path)
    try:
        if isinstance(content, dict) and isinstance(content.get("images"), list):
            return PersonBoxes(_annotated(content, path))
        if isinstance(content, dict) and all(isinstance(v, list) for v in content.values()):
            return PersonBoxes({k: table(v, f"{path}: {k}") for k, v in content.items()})
        if isinstance(content, list) and all(isinstance(row, dict) for row in content):
            return PersonBoxes(_detected(content, path))
        if isinstance(content, list):
            return PersonBoxes({}, table(content, str(path)))
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: an entry has no {error}: needed is {FORMATS}") from None
    raise DataError(f"{path}: no file of boxes: needed is {FORMATS}")


def _annotated(content: dict, path: str | os.PathLike) -> dict[str, Float[Array, "N 5"]]:
    images = {image["id"]: image for image in content["images"]}
    rows: dict[str, list] = {image["file_name"]: [] for image in images.values()}
    category_id = _category((row["category_id"] for row in content["annotations"]), path)
    for annotation in content["annotations"]:
        if annotation["category_id"] != category_id or annotation.get("iscrowd"):
            continue
        image = images[annotation["image_id"]]
        image_hw = int(image["height"]), int(image["width"])
        left, top, right, bottom = geometry.clip_boxes(annotation["bbox"], image_hw).tolist()
        rows[image["file_name"]].append((left, top, right - left, bottom - top))
    return {name: table(boxes, name) for name, boxes in rows.items()}


def _detected(content: list[dict], path: str | os.PathLike) -> dict[str, Float[Array, "N 5"]]:
    rows: dict[str, list] = {}
    category_id = _category((row.get("category_id", PERSON) for row in content), path)
    for row in content:
        if row.get("category_id", PERSON) == category_id:
            key = str(row["file_name"] if "file_name" in row else int(row["image_id"]))
            rows.setdefault(key, []).append((*row["bbox"], row.get("score", 1.0)))
    return {name: table(boxes, name) for name, boxes in rows.items()}


def _category(category_ids: Iterable[int], path: str | os.PathLike) -> int:
    """COCO's person; where there is none, the only one there is, as of somebody's own skeleton."""
    present = set(category_ids)
    if PERSON in present or not present:
        return PERSON
    if len(present) > 1:
        raise DataError(
            f"{path}: has boxes of categories {', '.join(map(str, sorted(present)))}, and none of"
            f" COCO's person ({PERSON}): keep those of one category"
        )
    (category_id,) = present
    log.warning(
        "%s: has no boxes of COCO's person (%d); those of category %s, the only one, are taken",
        path, PERSON, category_id,
    )  # fmt: skip
    return category_id
