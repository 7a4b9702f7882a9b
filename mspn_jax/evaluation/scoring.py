"""Estimated people -> COCO's results json -> COCO's ten figures."""

import collections
import contextlib
import io
import logging
import os
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from pycocotools.coco import COCO as CocoAnnotations
from pycocotools.cocoeval import COCOeval

from mspn_jax.data.coco import PERSON, load_json, read_pictures, some
from mspn_jax.data.evaluation_set import EvaluationSet
from mspn_jax.errors import DataError
from mspn_jax.evaluation.estimation import estimate_boxes
from mspn_jax.geometry import crop_regions
from mspn_jax.skeletons import Skeleton

log = logging.getLogger(__name__)
Array = np.ndarray

METRICS = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")
_NEXT_TO_NOTHING = 0.001  # an AP below it is worth a word on why
KEYPOINT_SCORE_THRESHOLD = 0.2  # joints below it do not count in a person's score


def person_scores(
    box_scores: Float[Array, "N"], keypoint_scores: Float[Array, "N K"]
) -> Float[Array, "N"]:
    """Box score times the mean of the keypoint scores above the threshold (0 if there are none)."""
    counted = keypoint_scores > KEYPOINT_SCORE_THRESHOLD
    total = np.where(counted, keypoint_scores, 0).sum(1)
    return box_scores * total / np.maximum(counted.sum(1), 1)


def oks_nms(
    keypoints_image_xy: Float[Array, "N K 2"],
    scores: Float[Array, "N"],
    areas: Float[Array, "N"],
    oks_sigmas: tuple[float, ...],
    threshold: float,
) -> Int[Array, "M"]:
    """Indices of the people of one picture to keep, best first.

    Of two people more alike than `threshold` in object keypoint similarity, taken over all joints
    and with the mean of their areas, the one with the lower score goes.
    """
    variances = np.square(2 * np.array(oks_sigmas))
    order = np.argsort(-scores, kind="stable")
    kept = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        squared = np.square(keypoints_image_xy[rest] - keypoints_image_xy[best]).sum(-1)
        area = (areas[rest] + areas[best])[:, None] / 2 + np.spacing(1)
        similarity = np.exp(-squared / variances / area / 2).mean(-1)
        order = rest[similarity <= threshold]
    return np.array(kept, int)


def coco_results(
    image_ids: Int[Array, "N"],
    boxes_xyxy: Float[Array, "N 4"],
    box_scores: Float[Array, "N"],
    keypoints_image_xy: Float[Array, "N K 2"],
    keypoint_scores: Float[Array, "N K"],
    crop_areas: Float[Array, "N"],
    skeleton: Skeleton,
    oks_nms_threshold: float | None = None,
    category_id: int = PERSON,
) -> list[dict[str, Any]]:
    """People in COCO's submission format.

    `bbox` is among the keys, as in the reference: COCO takes a person's area from it, which moves
    AP and AR of medium and large people.

    Args:
      crop_areas: of the crop regions, in square image pixels; OKS-NMS measures by them.
      oks_nms_threshold: similarity above which the lesser of two people goes; None keeps all.
    """
    scores = person_scores(box_scores, keypoint_scores)
    rows = np.arange(len(image_ids))
    if oks_nms_threshold is not None:
        kept = []
        for image_id in np.unique(image_ids):
            of_picture = rows[image_ids == image_id]
            best = oks_nms(
                keypoints_image_xy[of_picture], scores[of_picture], crop_areas[of_picture],
                skeleton.oks_sigmas, oks_nms_threshold,
            )  # fmt: skip
            kept.append(of_picture[best])
        rows = np.concatenate(kept)
    triples = np.concatenate([keypoints_image_xy, keypoint_scores[..., None]], -1)
    boxes_xywh = np.concatenate([boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]], -1)
    return [
        {
            "image_id": int(image_ids[i]),
            "category_id": category_id,
            "keypoints": triples[i].ravel().tolist(),
            "score": float(scores[i]),
            "bbox": boxes_xywh[i].tolist(),
        }
        for i in rows
    ]


def mean_pose_results(
    root: str | os.PathLike, train_split: str, dataset: EvaluationSet, skeleton: Skeleton
) -> list[dict[str, Any]]:
    """What one gets without looking at the pictures: the mean pose, fitted into every box.

    The mean is that of the training split's labelled joints, in units of their boxes. A model that
    has learnt anything scores above it.
    """
    total = np.zeros((skeleton.num_keypoints, 2))
    count = np.zeros((skeleton.num_keypoints, 1))
    for picture in read_pictures(root, train_split, skeleton):
        top_left, size = picture.boxes_xywh[:, None, :2], picture.boxes_xywh[:, None, 2:]
        labelled = (picture.visibility > 0)[..., None]
        total += np.where(labelled, (picture.keypoints_image_xy - top_left) / size, 0).sum(0)
        count += labelled.sum(0)
    mean = total / np.maximum(count, 1)
    boxes_xyxy = dataset.boxes.boxes_xyxy
    size_wh = boxes_xyxy[:, None, 2:] - boxes_xyxy[:, None, :2]
    return coco_results(
        dataset.boxes.image_ids, boxes_xyxy, dataset.boxes.scores,
        boxes_xyxy[:, None, :2] + mean * size_wh,
        np.ones((len(boxes_xyxy), skeleton.num_keypoints)), size_wh.prod((1, 2)), skeleton,
        category_id=dataset.category_id,
    )  # fmt: skip


def coco_evaluation(
    annotation_file: str | os.PathLike,
    results: list[dict[str, Any]],
    skeleton: Skeleton,
    annotation_ids: Collection[int] | None = None,
    category_id: int = PERSON,
) -> COCOeval:
    """pycocotools' evaluation of results, of which there must be some, accumulated.

    Args: as in `coco_metrics`.

    Raises:
      DataError: the file has no annotations to score against.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        truth = _truth(annotation_file, annotation_ids)
        found = truth.loadRes([dict(result) for result in results])  # to which it adds
        evaluation = COCOeval(truth, found, "keypoints")
        evaluation.params.kpt_oks_sigmas = np.array(skeleton.oks_sigmas)
        evaluation.params.catIds = [category_id]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def _truth(annotation_file, annotation_ids) -> CocoAnnotations:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = CocoAnnotations(str(annotation_file))
        truth.dataset["annotations"] = [
            _completed(a)
            for a in truth.dataset.get("annotations", [])
            if annotation_ids is None or a["id"] in annotation_ids
        ]
        truth.createIndex()
    if not truth.dataset["annotations"]:
        raise DataError(f"{annotation_file}: no annotations in it to score against")
    return truth


def coco_metrics(
    annotation_file: str | os.PathLike,
    results: list[dict[str, Any]],
    skeleton: Skeleton,
    annotation_ids: Collection[int] | None = None,
    category_id: int = PERSON,
) -> tuple[dict[str, float], str]:
    """COCO's ten figures by pycocotools, and its own table of them.

    What COCO's own annotations always have may be left out of others: `iscrowd`, `num_keypoints`,
    and `area`, for which (and for an area of 0) the box's is taken.

    Args:
      results: from `coco_results`.
      annotation_ids: score against these people alone; None takes all of the file.
      category_id: of the people.

    Returns:
      {name: figure} in the order of `METRICS`; -1 where there is nobody of that size.

    Raises:
      DataError: the file has no annotations to score against.
    """
    if not results:
        _truth(annotation_file, annotation_ids)
        log.warning("nobody was found in any picture: every figure is 0")
        return dict.fromkeys(METRICS, 0.0), ""
    return summarize(
        coco_evaluation(annotation_file, results, skeleton, annotation_ids, category_id)
    )


def summarize(evaluation: COCOeval) -> tuple[dict[str, float], str]:
    """The ten figures of an accumulated evaluation, and its own table of them."""
    with contextlib.redirect_stdout(io.StringIO()) as table:
        evaluation.summarize()
    return dict(zip(METRICS, map(float, evaluation.stats), strict=True)), table.getvalue()


def _completed(annotation: dict[str, Any]) -> dict[str, Any]:
    """With what pycocotools asks of an annotation that has keypoints."""
    if "keypoints" not in annotation:
        return annotation
    return annotation | {
        "iscrowd": annotation.get("iscrowd", 0),
        "num_keypoints": sum(v > 0 for v in annotation["keypoints"][2::3]),
        "area": annotation.get("area") or annotation["bbox"][2] * annotation["bbox"][3],
    }


def how_far_off(dataset: EvaluationSet, results: list[dict[str, Any]]) -> str:
    """Where nobody counts as found: in words, how far the nearest results are from the people."""
    found = collections.defaultdict(list)
    for result in results:
        found[result["image_id"]].append(np.reshape(result["keypoints"], (-1, 3))[:, :2])
    distances, alone = [], []
    for person in map(_completed, load_json(dataset.annotation_file)["annotations"]):
        keypoints = np.reshape(person.get("keypoints", ()), (-1, 3))
        labelled = keypoints[:, 2] > 0
        left_out = dataset.annotation_ids is not None and person["id"] not in dataset.annotation_ids
        is_other = person["category_id"] != dataset.category_id or person.get("iscrowd")
        if left_out or is_other or not labelled.any():
            continue
        if person["image_id"] not in found:
            alone.append(person["image_id"])
            continue
        off = np.array(found[person["image_id"]])[:, labelled] - keypoints[labelled, :2]
        mean_distances = np.linalg.norm(off, axis=-1).mean(-1)
        distances.append(mean_distances.min() / np.sqrt(person["area"]))
    if not distances:
        return (
            f"no result is on a picture that has people (those are {some(sorted(set(alone)))}):"
            " are the detections of the same split?"
        )
    nowhere = f"; {len(alone)} people have no result on their picture" if alone else ""
    return (
        f"the nearest results lie {np.median(distances):.2f} of sqrt(area) off, in the median of"
        f" {len(distances)} people; some 0.1 is needed{nowhere}. Does the loss fall far enough? Are"
        " keypoints, boxes and areas right (eval.py --pictures draws what was found)?"
    )


def evaluate(
    estimate_batch: Callable[..., Any],
    variables: Any,
    dataset: EvaluationSet,
    skeleton: Skeleton,
    *,
    crop_hw: tuple[int, int],
    batch_size: int,
    padding: float,
    oks_nms_threshold: float | None = None,
    num_threads: int = 0,
    progress: Callable[[int], Any] = lambda count: None,
) -> tuple[list[dict[str, Any]], dict[str, float] | None, str]:
    """Estimates everyone in a split and scores them.

    Args:
      estimate_batch: from `inference.estimate_on_devices`.
      others: as in `estimation.estimate_boxes` and `coco_results`.

    Returns:
      The results, COCO's ten figures (None where there are no annotations), and its table of them.
    """
    boxes = dataset.boxes
    keypoints_image_xy, keypoint_scores = estimate_boxes(
        estimate_batch, variables, dataset.records, boxes, crop_hw=crop_hw, batch_size=batch_size,
        padding=padding, num_threads=num_threads, progress=progress,
    )  # fmt: skip
    _, size_wh = crop_regions(boxes.boxes_xyxy, padding, crop_hw)
    results = coco_results(
        boxes.image_ids, boxes.boxes_xyxy, boxes.scores, keypoints_image_xy, keypoint_scores,
        size_wh.prod(-1), skeleton, oks_nms_threshold, dataset.category_id,
    )  # fmt: skip
    if not dataset.has_annotations:
        return results, None, ""
    figures, table = coco_metrics(
        dataset.annotation_file, results, skeleton, dataset.annotation_ids, dataset.category_id
    )
    if figures["AP"] < _NEXT_TO_NOTHING:
        log.warning("AP %.3f: %s", figures["AP"], how_far_off(dataset, results))
    return results, figures, table
