"""The validator of a split's json, whose findings reading raises and checking collects.

The json is parsed once and becomes `Annotations`.
"""

import collections
import dataclasses
import logging
import os
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from mspn_jax import geometry
from mspn_jax.data import categories, fields, plausibility
from mspn_jax.data.annotations import Annotations, lookup
from mspn_jax.data.coco import PERSON, annotation_file, load_json, no_garbage_collection
from mspn_jax.data.schema import ERROR, SUSPECT, WARNING, Findings, read_columns
from mspn_jax.errors import DataError
from mspn_jax.skeletons import Skeleton

log = logging.getLogger(__name__)


def read_annotations(*, root: str | os.PathLike, split: str, skeleton: Skeleton) -> Annotations:
    """`read` for a split of a root in COCO's layout."""
    return read(annotation_file(root, split), skeleton)


def read(file: str | os.PathLike, skeleton: Skeleton) -> Annotations:
    """Reads and validates a json, and logs what is left out or looks wrong.

    Raises:
      DataError: the first error in the json, with its file and ids.
    """
    annotations, findings = examine(load_json(file), file, skeleton)
    findings.raise_error(file)
    for finding in findings:
        if finding.level == WARNING:
            log.warning("%s: %s", file, finding)
    return annotations


@no_garbage_collection()
def examine(
    content: Any, file: str | os.PathLike, skeleton: Skeleton
) -> tuple[Annotations, Findings]:
    """Validates the content of a json.

    Returns:
      What is sound in it, and all findings. Without errors that is everything that training and
      evaluation need.

    Raises:
      DataError: the content has no list of images at all.
    """
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise DataError(f"{file}: not COCO's json: it has no list of 'images'")
    if not content["images"]:
        raise DataError(f"{file}: its list of 'images' is empty")
    findings = Findings()
    images, image_is_good = read_columns(content["images"], fields.IMAGE, "image", findings)
    findings.add(ERROR, "image", "id occurs more than once", _repeated(images["id"][image_is_good]))
    category_rows = _rows(content, "categories", findings)
    category_id = categories.find(category_rows, skeleton, findings)
    rows = _rows(content, "annotations", findings) if category_id is not None else []
    ids, good = read_columns(rows, fields.IDS, "annotation", findings)
    findings.add(ERROR, "annotation", "id occurs more than once", _repeated(ids["id"][good]))
    image_rows = lookup(images["id"], ids["image_id"])
    lost = np.flatnonzero(good & (image_rows < 0))
    for image_id in ids["image_id"][lost[:1]]:
        what = f"image_id is {image_id}, which 'images' does not list"
        findings.add(ERROR, "annotation", what, ids["id"][lost])
    good &= (image_rows >= 0) & image_is_good[image_rows]
    is_other = good & (ids["category_id"] != (category_id or 0))
    categories.note_others(
        category_rows, ids["id"][is_other], ids["category_id"][is_other], findings
    )

    kept = np.flatnonzero(good & ~is_other)
    columns, good = _read_people([rows[i] for i in kept], ids["id"][kept], skeleton, findings)
    kept, columns = kept[good], {name: column[good] for name, column in columns.items()}
    annotations = Annotations(
        file=pathlib.Path(file),
        category_id=PERSON if category_id is None else category_id,
        image_ids=images["id"],
        file_names=tuple(images["file_name"].tolist()),
        image_hw=np.stack([images["height"], images["width"]], 1),
        ids=ids["id"][kept],
        image_rows=image_rows[kept],
        clip_boxes=fields.clips_boxes(content, findings),
        crowd_indices=None if np.isnan(images["crowdIndex"]).all() else images["crowdIndex"],
        **columns,
    )
    annotations = _find_people(annotations, [rows[i] for i in kept], findings)
    if rows and not annotations.is_person.any() and not findings.errors:
        present = collections.Counter(ids["category_id"].tolist()).most_common()
        what = (
            "no annotation has a labelled keypoint and a box with an area and is of category"
            f" {annotations.category_id}; there are annotations of category "
            + ", ".join(f"{each} ({count})" for each, count in present)
        )
        findings.add(ERROR, "", what, [""])
    return annotations, findings


def _rows(content: dict[str, Any], key: str, findings: Findings) -> list[Any]:
    """A list of the content; null counts as left out."""
    rows = content.get(key)
    if rows is not None and not isinstance(rows, list):
        findings.add(ERROR, "", f"{key!r} is not a list", [""])
    return rows if isinstance(rows, list) else []


def _repeated(ids: Int[np.ndarray, "N"]) -> Int[np.ndarray, "M"]:
    values, counts = np.unique(ids, return_counts=True)
    return values[counts > 1]


def _read_people(
    rows: list[dict[str, Any]], ids: Int[np.ndarray, "N"], skeleton: Skeleton, findings: Findings
) -> tuple[dict[str, np.ndarray], Bool[np.ndarray, "N"]]:
    """Columns of `Annotations`, and which rows have no fault."""
    names = ids.tolist()
    crowds, crowd_is_good = read_columns(rows, [fields.IS_CROWD], "annotation", findings, names)
    is_crowd = crowds["iscrowd"] == 1
    blank = {"keypoints": [0] * 3 * skeleton.num_keypoints}
    rows = [
        row | blank if crowd and row.get("keypoints") is None else row
        for row, crowd in zip(rows, is_crowd)
    ]
    of_person = [fields.BOX, fields.AREA, fields.HEAD_SIZE, fields.keypoints_field(skeleton)]
    columns, good = read_columns(rows, of_person, "annotation", findings, names)
    good &= crowd_is_good
    triples = columns["keypoints"].reshape(-1, skeleton.num_keypoints, 3)
    xy, visibility = triples[..., :2], triples[..., 2]

    is_visibility = np.isin(visibility, (0, 1, 2)).all(1)
    what = "a visibility is not 0, 1 or 2. Keypoints are x, y, v triples"
    findings.add(ERROR, "annotation", what, ids[good & ~is_visibility])
    is_position = np.abs(xy).max(-1) <= fields.PIXELS  # false for NaN
    is_placed = (is_position | (visibility == 0)).all(1)
    what = f"a labelled keypoint is not finite, or beyond {fields.PIXELS:,} pixels"
    remedy = "Correct it, or set its v to 0"
    findings.add(ERROR, "annotation", what, ids[good & is_visibility & ~is_placed], remedy)

    return {
        "boxes_xywh": columns["bbox"],
        "keypoints_image_xy": np.where(is_position[..., None], xy, 0),
        "visibility": visibility,
        "areas": columns["area"],
        "head_sizes": columns["head_size"],
        "is_crowd": is_crowd,
        "is_person": ~is_crowd & (visibility > 0).any(1),
    }, good & is_visibility & is_placed


def _find_people(
    annotations: Annotations, rows: list[dict[str, Any]], findings: Findings
) -> Annotations:
    """Completes `areas` and `is_person`, with findings about labelled people.

    `rows` has the json's entry of each annotation.
    """
    ids, is_labelled = annotations.ids, annotations.is_person
    boxes_xyxy = geometry.clip_boxes(
        annotations.boxes_xywh, annotations.image_hw[annotations.image_rows]
    )
    has_area = (boxes_xyxy[:, 2:] > boxes_xyxy[:, :2]).all(1)
    what = "the box has no area inside its picture. Neither trained on nor scored"
    findings.add(WARNING, "annotation", what, ids[is_labelled & ~has_area])
    is_person, has_no_measure = is_labelled & has_area, annotations.areas == 0
    what = "the area is missing or 0. The box's is used, which makes AP a little higher"
    findings.add(WARNING, "annotation", what, ids[is_person & has_no_measure])
    counts = [row.get("num_keypoints") for row in rows]
    numbers_labelled = annotations.num_labelled.tolist()
    is_other = [c is not None and c != n for c, n in zip(counts, numbers_labelled)]
    what = "num_keypoints is not the number of labelled keypoints"
    findings.add(SUSPECT, "annotation", what, ids[is_person & np.array(is_other, bool)])

    box_areas = np.maximum(annotations.boxes_xywh[:, 2:], 0).prod(1)
    annotations = dataclasses.replace(
        annotations,
        is_person=is_person,
        areas=np.where(has_no_measure, box_areas, annotations.areas),
    )
    people = annotations.people()
    plausibility.find_doubts(
        people.ids,
        people.boxes_xywh,
        people.keypoints_image_xy,
        people.visibility,
        people.image_hw[people.image_rows][:, ::-1],
        findings,
        may_reach_beyond=not people.clip_boxes,
    )
    return annotations
