"""The people that a report shows: which ones, their errors, and their pictures."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from mspn_jax import geometry
from mspn_jax.crops import cut, decode_picture
from mspn_jax.data.annotations import Annotations
from mspn_jax.data.evaluation_set import EvaluationSet
from mspn_jax.drawing import annotate_people
from mspn_jax.evaluation.diagnosis import KINDS, NOBODY, NOT_JUDGED, Diagnosis
from mspn_jax.reports import page
from mspn_jax.skeletons import Skeleton

NUM_UNMATCHED, NUM_WORST, NUM_BEST = 5, 10, 10
FEW_LABELLED = 5 / 17  # people with at most this share of their keypoints labelled are not shown
PICTURE_HW, PADDING = (480, 360), 1.25
STRAY = 0.5  # estimates up to this far outside the box are shown, in sides of the box


class CasePicture(NamedTuple):
    """The picture of a case."""

    uri: str  # a JPEG of PICTURE_HW as a data URI, annotated with the result
    # {keypoint: (x, y, found x, found y)} of the labelled keypoints, pixels of the JPEG
    places: dict[str, tuple[float, float, float, float]]


def choose(people: Annotations, diagnosis: Diagnosis) -> dict[str, list[int]]:
    """Returns the rows of the people to show: {"unmatched": rows, "worst": ..., "best": ...}.

    People with few labelled keypoints are left out, unless all have few. The lowest OKS comes
    first, for "best" the highest. "worst" and "best" are disjoint.
    """
    is_shown = people.num_labelled > round(FEW_LABELLED * people.visibility.shape[1])
    if not is_shown.any():
        is_shown[:] = True
    order = np.argsort(diagnosis.oks, kind="stable")
    order = order[is_shown[order]]
    is_matched = diagnosis.match[order] != NOBODY
    matched = order[is_matched]
    half = (len(matched) + 1) // 2
    return {
        "unmatched": order[~is_matched][:NUM_UNMATCHED].tolist(),
        "worst": matched[:half][:NUM_WORST].tolist(),
        "best": matched[half:][::-1][:NUM_BEST].tolist(),
    }


def describe(
    people: Annotations, diagnosis: Diagnosis, row: int, skeleton: Skeleton
) -> dict[str, Any]:
    """Returns a person's ids and OKS, and the kind and error of each labelled keypoint."""
    labelled = np.flatnonzero(people.visibility[row] > 0)
    kinds, was_found = diagnosis.kinds[row], diagnosis.closest[row] != NOBODY
    return {
        "image_id": int(people.image_ids[people.image_rows[row]]),
        "annotation_id": int(people.ids[row]),
        "matched": bool(diagnosis.match[row] != NOBODY),
        "OKS": float(diagnosis.oks[row]) if was_found else None,
        "labelled": len(labelled),
        "errors": {kind: int((kinds == i).sum()) for i, kind in enumerate(KINDS)},
        "keypoints": {
            skeleton.keypoint_names[k]: {
                "kind": None if kinds[k] == NOT_JUDGED else KINDS[kinds[k]],
                "error_px": float(diagnosis.errors_px[row, k]) if was_found else None,
            }
            for k in labelled
        },
    }


def picture(
    dataset: EvaluationSet,
    results: list[dict[str, Any]],
    people: Annotations,
    diagnosis: Diagnosis,
    row: int,
    skeleton: Skeleton,
) -> CasePicture:
    """Cuts a person out of their picture and annotates it with the closest result."""
    found = diagnosis.closest[row]
    triples = np.zeros((skeleton.num_keypoints, 3))
    if found != NOBODY:
        triples = np.array(results[found]["keypoints"], float).reshape(-1, 3)
    to_case = _image_to_case(people, diagnosis, row, triples[:, :2])
    image_id = people.image_ids[people.image_rows[row]]
    record = dataset.records.source[int(np.flatnonzero(dataset.records.image_ids == image_id)[0])]
    crop = np.zeros((*PICTURE_HW, 3), np.uint8)
    cut(decode_picture(record["image"]), to_case, False, crop)
    found_xy = geometry.transform(to_case, triples[:, :2])
    is_inside = ((found_xy >= 0) & (found_xy < PICTURE_HW[::-1])).all(-1)
    scores = np.where(is_inside, triples[:, 2], 0)
    crop = annotate_people(crop, found_xy[None], scores[None], skeleton)
    true_xy = geometry.transform(to_case, people.keypoints_image_xy[row])
    places = {
        skeleton.keypoint_names[k]: (*true_xy[k].tolist(), *found_xy[k].tolist())
        for k in np.flatnonzero(people.visibility[row] > 0)
    }
    return CasePicture(page.jpeg_uri(crop), places)


def _image_to_case(
    people: Annotations, diagnosis: Diagnosis, row: int, found_image_xy: Float[np.ndarray, "K 2"]
) -> Float[np.ndarray, "2 3"]:
    """The map of a region with the box, the labelled keypoints, and a match's estimates nearby."""
    is_labelled = people.visibility[row] > 0
    box_xyxy = geometry.boxes_xywh_to_xyxy(people.boxes_xywh[row])
    points = [box_xyxy.reshape(2, 2), people.keypoints_image_xy[row][is_labelled]]
    if diagnosis.match[row] != NOBODY:
        stray = STRAY * (box_xyxy[2:] - box_xyxy[:2])
        near_xy = np.clip(found_image_xy, box_xyxy[:2] - stray, box_xyxy[2:] + stray)
        points.append(near_xy[is_labelled])
    points_xy = np.concatenate(points)
    bounds_xyxy = np.concatenate([points_xy.min(0), points_xy.max(0)])
    region = geometry.crop_regions(bounds_xyxy, PADDING, PICTURE_HW)
    return geometry.image_to_crop(*region, 0.0, PICTURE_HW)
