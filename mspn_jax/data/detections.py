"""Json files of detected boxes, in COCO's results format: reading and checking."""

import dataclasses
import json
import logging
import os
from collections.abc import Iterable

import numpy as np

from mspn_jax import geometry
from mspn_jax.data.coco import PERSON, load_json, some
from mspn_jax.errors import DataError

log = logging.getLogger(__name__)


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


def read_detections(
    path: str | os.PathLike, image_ids: Iterable[int], category_id: int = PERSON
) -> Detections:
    """Reads a detector's results in COCO's format; only those of the category count.

    Raises:
      DataError: not such a file, it has no box of the category, or it names a picture that is
        not among `image_ids`.
    """
    content = load_json(path)
    if not isinstance(content, list):
        raise DataError(f"{path}: not detections: COCO's results are a list of boxes with scores")
    people, others = [], set()
    for i, row in enumerate(content):
        try:
            if row["category_id"] != category_id:
                others.add(row["category_id"])
                continue
            people.append((int(row["image_id"]), *map(float, row["bbox"]), float(row["score"])))
            if len(people[-1]) != 6:
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise DataError(
                f"{path}: entry {i} is not a detection (image_id, category_id, bbox of four"
                f" numbers, score): {json.dumps(row)[:200]}"
            ) from None
    if not people:
        raise DataError(
            f"{path}: no box of category {category_id} in it; there are boxes of category"
            f" {some(sorted(others)) or 'none'}"
        )
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
