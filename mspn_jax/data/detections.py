"""Json files of detected boxes, in COCO's results format: reading and validation."""

import collections
import dataclasses
import logging
import os

import numpy as np
from jaxtyping import Float, Int

from mspn_jax import geometry
from mspn_jax.data.coco import PERSON, load_json, no_garbage_collection
from mspn_jax.data.fields import CATEGORY_ID, DETECTION, LARGEST_SCORE, PIXELS
from mspn_jax.data.rows import Rows
from mspn_jax.data.schema import Findings, read_columns, some
from mspn_jax.errors import DataError

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Detections(Rows):
    """Boxes of people found by a detector, in the order of the file.

    Attributes:
      boxes_xywh: image pixels, not clipped.
    """

    image_ids: Int[np.ndarray, "N"]
    boxes_xywh: Float[np.ndarray, "N 4"]
    scores: Float[np.ndarray, "N"]


@no_garbage_collection()
def read_detections(
    path: str | os.PathLike, image_ids: Int[np.ndarray, "M"], category_id: int = PERSON
) -> Detections:
    """Reads a detector's results in COCO's format; boxes of other categories are left out.

    Args:
      image_ids: of the split.

    Raises:
      DataError: the file is not such a list, it has no box of the category, or it has boxes on
        pictures that are not among `image_ids`.
    """
    content = load_json(path)
    if not isinstance(content, list):
        raise DataError(f"{path}: not detections: COCO's results are a list of boxes with scores")
    findings = Findings()
    categories = read_columns(content, [CATEGORY_ID], "entry", findings)[0]["category_id"]
    findings.raise_error(path)
    chosen = np.flatnonzero(categories == category_id)
    if not len(chosen):
        present = collections.Counter(categories.tolist()).most_common()
        raise DataError(
            f"{path}: no box of category {category_id} in it; there are boxes of category"
            f" {some([f'{each} ({count})' for each, count in present]) or 'none'}"
        )
    indices = [f"at index {i}" for i in chosen.tolist()]
    rows = [content[i] for i in chosen]
    columns, _ = read_columns(rows, DETECTION, "entry", findings, indices)
    findings.raise_error(path)
    ids, boxes_xywh, scores = columns["image_id"], columns["bbox"], columns["score"]
    unknown = np.setdiff1d(ids, image_ids)
    if len(unknown):
        raise DataError(
            f"{path}: has boxes on {len(unknown)} pictures that are not in the split"
            f" ({some(unknown.tolist())}): is it the detection file of another split?"
        )
    usable = geometry.usable_boxes(boxes_xywh) & (np.abs(boxes_xywh) <= PIXELS).all(1)
    usable &= np.abs(scores) <= LARGEST_SCORE  # false for NaN
    if not usable.all():
        left_out = [indices[i] for i in np.flatnonzero(~usable)]
        log.warning(
            "%s: %d boxes are left out: they have no area, or are not finite or beyond %s pixels:"
            " entry %s",
            path,
            len(left_out),
            f"{PIXELS:,}",
            some(left_out),
        )
    if not usable.any():
        raise DataError(f"{path}: no usable box of category {category_id} in it")
    return Detections(ids, boxes_xywh, scores)[usable]
