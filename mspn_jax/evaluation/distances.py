"""Metrics of distances: PCK, PCKh, AUC, EPE and RMSE. NumPy, in image pixels.

Each annotated person is compared with the result whose box overlaps theirs most. Sources: mmpose
1.3.2 for the averages over keypoints, and MPII's own evaluation for PCKh.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from mspn_jax.data.annotations import Annotations, rows_by_picture
from mspn_jax.data.schema import some
from mspn_jax.errors import DataError, UsageError
from mspn_jax.geometry import intersections_over_union
from mspn_jax.skeletons import Skeleton

AUC_PX = 30.0  # the largest distance of AUC
AUC_THRESHOLDS = 20
NOT_IN_PCKH = ("pelvis", "thorax")  # MPII's evaluation leaves them out of its mean
NOBODY = -1
UNDEFINED = -1.0  # COCO's metrics have it too


class Distances(NamedTuple):
    """Distances of M annotated people's keypoints to those that were found.

    Attributes:
      pixels: infinite for people without a result.
      is_labelled: which keypoints count.
      box_sides: the longer side of each person's annotated box, in pixels.
      head_sizes: MPII's measure of each person's head, in pixels; 0 where it is not annotated.
    """

    pixels: Float[np.ndarray, "M K"]
    is_labelled: Bool[np.ndarray, "M K"]
    box_sides: Float[np.ndarray, "M"]
    head_sizes: Float[np.ndarray, "M"]


def measure(annotations: Annotations, results: list[dict[str, Any]]) -> Distances:
    """Distances of the people of a split.

    Args:
      results: COCO's submission format, with boxes.
    """
    people = annotations.people()
    matched = match_by_box(people, results)
    num_keypoints = people.visibility.shape[1]
    pixels = np.full(people.visibility.shape, np.inf)
    found = matched != NOBODY
    triples = np.array([results[i]["keypoints"] for i in matched[found]], np.float64)
    found_image_xy = triples.reshape(-1, num_keypoints, 3)[..., :2]
    pixels[found] = np.linalg.norm(found_image_xy - people.keypoints_image_xy[found], axis=-1)
    return Distances(
        pixels, people.visibility > 0, people.boxes_xywh[:, 2:].max(1), people.head_sizes
    )


def match_by_box(people: Annotations, results: list[dict[str, Any]]) -> Int[np.ndarray, "M"]:
    """The result of each person, an index, or NOBODY. Each result belongs to one person at most.

    The pair of one picture with the highest overlap of boxes (IoU) is matched first. Annotated
    boxes are those that crops are cut around.
    """
    matched = np.full(len(people.ids), NOBODY)
    boxes = people.boxes_xyxy
    boxes_xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], -1)
    found_in = rows_by_picture(np.array([r["image_id"] for r in results], np.int64))
    for image_id, rows in rows_by_picture(people.image_ids[people.image_rows]).items():
        found = found_in.get(image_id, np.zeros(0, int))
        if not len(found):
            continue
        found_xywh = np.array([results[i]["bbox"] for i in found])
        overlaps = intersections_over_union(boxes_xywh[rows], found_xywh)
        for _ in range(min(overlaps.shape)):
            # argmax takes the first of equals: people with the same box keep their order.
            person, result = np.unravel_index(overlaps.argmax(), overlaps.shape)
            if overlaps[person, result] <= 0:
                break
            matched[rows[person]] = found[result]
            overlaps[person], overlaps[:, result] = -1, -1
    return matched


def _mean_over_keypoints(
    values: Float[np.ndarray, "M K"], is_counted: Bool[np.ndarray, "M K"]
) -> float:
    """The mean of each keypoint's mean; keypoints that are never counted have none."""
    counts = is_counted.sum(0)
    means = np.where(is_counted, values, 0).sum(0)[counts > 0] / counts[counts > 0]
    return float(means.mean()) if len(means) else UNDEFINED


def _of_joint(skeleton: Skeleton, joint: str) -> Bool[np.ndarray, "K"]:
    """Which keypoints are a joint, on either side: knee is left_knee and right_knee."""
    names = (joint, f"left_{joint}", f"right_{joint}")
    return np.array([name in names for name in skeleton.keypoint_names])


def _pck(distances: Distances, skeleton: Skeleton, threshold: float, joint: str) -> float:
    is_near = distances.pixels / distances.box_sides[:, None] < threshold
    is_counted = distances.is_labelled & (not joint or _of_joint(skeleton, joint))
    return _mean_over_keypoints(is_near.astype(float), is_counted)


def _pckh(distances: Distances, skeleton: Skeleton, threshold: float, joint: str) -> float:
    is_near = distances.pixels / distances.head_sizes[:, None] <= threshold
    if joint:
        is_counted = distances.is_labelled & _of_joint(skeleton, joint)
        return _mean_over_keypoints(is_near.astype(float), is_counted)
    is_counted = distances.is_labelled & [
        name not in NOT_IN_PCKH for name in skeleton.keypoint_names
    ]
    return float(is_near[is_counted].mean()) if is_counted.any() else UNDEFINED


def _auc(distances: Distances, skeleton: Skeleton) -> float:
    thresholds = AUC_PX * np.arange(AUC_THRESHOLDS) / AUC_THRESHOLDS
    is_near = [
        _mean_over_keypoints((distances.pixels < each).astype(float), distances.is_labelled)
        for each in thresholds
    ]
    return float(np.mean(is_near))


def _found(distances: Distances) -> Float[np.ndarray, "N"]:
    return distances.pixels[distances.is_labelled & np.isfinite(distances.pixels)]


def _epe(distances: Distances, skeleton: Skeleton) -> float:
    found = _found(distances)
    return float(found.mean()) if len(found) else UNDEFINED


def _rmse(distances: Distances, skeleton: Skeleton) -> float:
    found = _found(distances)
    return float(np.sqrt(np.square(found).mean())) if len(found) else UNDEFINED


_PLAIN: dict[str, Callable[[Distances, Skeleton], float]] = {
    "AUC": _auc,
    "EPE": _epe,
    "RMSE": _rmse,
}
_AT: dict[str, Callable[[Distances, Skeleton, float, str], float]] = {"PCK": _pck, "PCKh": _pckh}
_FORM_AT = re.compile(r"(?P<of>PCKh?)@(?P<threshold>\d+|\d*\.\d+)(/(?P<joint>\w+))?")
FORMS = "PCK@0.2 or another fraction, PCKh@0.5, either of one joint (PCK@0.2/knee), AUC, EPE, RMSE"


def find(name: str) -> Callable[[Distances, Skeleton], float] | None:
    """The function of a metric, such as "PCK@0.2", "PCKh@0.5/knee", "AUC"; None for other names."""
    given = _FORM_AT.fullmatch(name)
    if not given or float(given["threshold"]) <= 0:
        return _PLAIN.get(name)
    function, threshold, joint = _AT[given["of"]], float(given["threshold"]), given["joint"] or ""
    return lambda distances, skeleton: function(distances, skeleton, threshold, joint)


def check(names: Sequence[str], annotations: Annotations, skeleton: Skeleton) -> None:
    """Checks before any work that these metrics can be computed.

    Raises:
      UsageError: a name is no metric's, or the skeleton has no such joint.
      DataError: PCKh is asked for, and somebody has no `head_size`.
    """
    for name in names:
        if find(name) is None:
            raise UsageError(f"eval.metrics: no metric {name!r}; there are {FORMS}")
        given = _FORM_AT.fullmatch(name)
        if given and given["joint"] and not _of_joint(skeleton, given["joint"]).any():
            raise UsageError(
                f"eval.metrics: {name!r}: skeleton {skeleton.name!r} has no {given['joint']}, on"
                f" neither side; it has {', '.join(skeleton.keypoint_names)}"
            )
    people = annotations.people()
    lacking = people.ids[people.head_sizes <= 0]
    if len(lacking) and any(name.startswith("PCKh") for name in names):
        raise DataError(
            f"{annotations.file}: annotation {some(lacking.tolist())}: no head_size, which PCKh is"
            " measured in. Leave PCKh out of config.eval.metrics, or add head_size (in pixels)"
        )


def distance_metrics(
    names: Sequence[str],
    annotations: Annotations,
    results: list[dict[str, Any]],
    skeleton: Skeleton,
) -> dict[str, float]:
    """Metrics by name.

    PCK@t: the share of labelled keypoints nearer than t times the longer side of the person's box,
      averaged over the people, then over the keypoints.
    PCKh@t: the share of all labelled keypoints, except pelvis and thorax, that are within t times
      `head_size`.
    PCK@t/joint, PCKh@t/joint: the same share of one joint; for left and right, the mean of the two.
    AUC: the mean of PCK with 20 thresholds, 0, 1.5 ... 28.5 pixels.
    EPE, RMSE: mean distance and its root mean square, in pixels, of people who have a result.

    A keypoint of a person without a result is wrong in PCK, PCKh and AUC. A metric is -1 if nobody
    counts. Errors are those of `check`.
    """
    check(names, annotations, skeleton)
    distances = measure(annotations, results)
    functions = {name: find(name) for name in names}
    return {name: f(distances, skeleton) for name, f in functions.items() if f}
