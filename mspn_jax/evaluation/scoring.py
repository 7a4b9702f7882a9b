"""Metrics of estimated people: COCO's ten by pycocotools, and those by crowd index."""

import collections
import contextlib
import io
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO as CocoAnnotations
from pycocotools.cocoeval import COCOeval

from mspn_jax.data.annotations import Annotations
from mspn_jax.data.evaluation_set import EvaluationSet
from mspn_jax.data.schema import some
from mspn_jax.errors import DataError
from mspn_jax.evaluation.distances import UNDEFINED, distance_metrics
from mspn_jax.evaluation.estimation import estimate_boxes
from mspn_jax.evaluation.results import coco_results
from mspn_jax.geometry import crop_regions
from mspn_jax.skeletons import Skeleton

log = logging.getLogger(__name__)

METRICS = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")
CROWD_METRICS = ("APeasy", "APmedium", "APhard")
_CROWD_EDGES = (0.2, 0.8)  # of the crowd index, in CrowdPose's evaluation
_NEXT_TO_NOTHING = 0.001  # an AP below it is explained


def coco_evaluation(
    annotations: Annotations, results: list[dict[str, Any]], skeleton: Skeleton
) -> COCOeval:
    """pycocotools' evaluation of one or more results, accumulated.

    Raises:
      DataError: there are no annotations to score against.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        truth = _truth(annotations)
        found = truth.loadRes([dict(result) for result in results])  # it adds keys to them
        evaluation = COCOeval(truth, found, "keypoints")
        evaluation.params.kpt_oks_sigmas = np.array(skeleton.oks_sigmas)
        evaluation.params.catIds = [annotations.category_id]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def _truth(annotations: Annotations) -> CocoAnnotations:
    """The annotations for pycocotools, numbered from 1: it takes an id of 0 for no match.

    A number of keypoints of 0 makes it ignore an annotation, and whoever is matched with it.
    """
    if not len(annotations.ids):
        raise DataError(f"{annotations.file}: no annotations in it to score against")
    triples = np.concatenate(
        [annotations.keypoints_image_xy, annotations.visibility[..., None]], -1
    ).reshape(len(annotations.ids), -1)
    num_keypoints = np.where(annotations.is_person, annotations.num_labelled, 0)
    columns = {
        "id": range(1, len(annotations.ids) + 1),
        "image_id": annotations.image_ids[annotations.image_rows].tolist(),
        "category_id": [annotations.category_id] * len(annotations.ids),
        "bbox": annotations.boxes_xywh.tolist(),
        "area": annotations.areas.tolist(),
        "iscrowd": annotations.is_crowd.astype(int).tolist(),
        "num_keypoints": num_keypoints.tolist(),
        "keypoints": triples.tolist(),
    }
    truth = CocoAnnotations()
    truth.dataset = {
        "images": [{"id": image_id} for image_id in annotations.image_ids.tolist()],
        "categories": [{"id": annotations.category_id}],
        "annotations": [dict(zip(columns, row)) for row in zip(*columns.values())],
    }
    truth.createIndex()
    return truth


def coco_metrics(
    annotations: Annotations, results: list[dict[str, Any]], skeleton: Skeleton
) -> tuple[dict[str, float], str]:
    """COCO's ten metrics by pycocotools, and its own table of them.

    Args:
      annotations: to score against.
      results: from `coco_results`.

    Returns:
      {name: metric} in the order of `METRICS`; -1 if there is nobody of that size.

    Raises:
      DataError: there are no annotations to score against.
    """
    if not results:
        _truth(annotations)
        log.warning("nobody was found in any picture: every metric is 0")
        return dict.fromkeys(METRICS, 0.0), ""
    return summarize(coco_evaluation(annotations, results, skeleton))


def summarize(evaluation: COCOeval) -> tuple[dict[str, float], str]:
    """The ten metrics of an accumulated evaluation, and its own table of them."""
    with contextlib.redirect_stdout(io.StringIO()) as table:
        evaluation.summarize()
    return dict(zip(METRICS, map(float, evaluation.stats), strict=True)), table.getvalue()


def crowd_metrics(
    annotations: Annotations, results: list[dict[str, Any]], skeleton: Skeleton
) -> dict[str, float]:
    """CrowdPose's AP by crowd index of the picture: below 0.2, from 0.2 to below 0.8, and above.

    -1 if nobody is in such pictures. Without crowd indices the result is empty.
    """
    if annotations.crowd_indices is None:
        return {}
    levels = np.searchsorted(_CROWD_EDGES, annotations.crowd_indices, side="right")
    levels[np.isnan(annotations.crowd_indices)] = -1
    metrics = {}
    for level, name in enumerate(CROWD_METRICS):
        part = annotations.select(levels[annotations.image_rows] == level)
        ids = set(annotations.image_ids[levels == level].tolist())
        found = [result for result in results if result["image_id"] in ids]
        metrics[name] = UNDEFINED
        if part.is_person.any():
            metrics[name] = coco_metrics(part, found, skeleton)[0]["AP"]
    return metrics


def how_far_off(dataset: EvaluationSet, results: list[dict[str, Any]]) -> str:
    """How far the nearest results are from the people, in words; for an AP near 0."""
    found = collections.defaultdict(list)
    for result in results:
        found[result["image_id"]].append(np.reshape(result["keypoints"], (-1, 3))[:, :2])
    people = dataset.annotations.people()
    distances, alone = [], []
    for row, image_id in enumerate(people.image_ids[people.image_rows].tolist()):
        if image_id not in found:
            alone.append(image_id)
            continue
        is_labelled = people.visibility[row] > 0
        off = np.array(found[image_id]) - people.keypoints_image_xy[row]
        mean_distances = np.linalg.norm(off[:, is_labelled], axis=-1).mean(-1)
        distances.append(mean_distances.min() / np.sqrt(people.areas[row]))
    if not distances:
        return (
            f"no result is on a picture that has people (those are {some(sorted(set(alone)))}):"
            " are the detections of the same split?"
        )
    nowhere = f"; {len(alone)} people have no result on their picture" if alone else ""
    return (
        f"the nearest results are {np.median(distances):.2f} of sqrt(area) off, in the median of"
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
    more_metrics: Sequence[str] = (),
    num_threads: int = 0,
    progress: Callable[[int], Any] = lambda count: None,
) -> tuple[list[dict[str, Any]], dict[str, float] | None, str]:
    """Estimates everyone in a split and scores them.

    Args:
      estimate_batch: from `inference.estimate_on_devices`.
      more_metrics: names for `distances.distance_metrics`.
      others: as in `estimation.estimate_boxes` and `coco_results`.

    Returns:
      The results, COCO's ten metrics and then those by crowd index and the others (None if there
      are no annotations), and a table of them.
    """
    boxes = dataset.boxes
    keypoints_image_xy, keypoint_scores = estimate_boxes(
        estimate_batch,
        variables,
        dataset.records,
        boxes,
        crop_hw=crop_hw,
        batch_size=batch_size,
        padding=padding,
        num_threads=num_threads,
        progress=progress,
    )
    _, size_wh = crop_regions(boxes.boxes_xyxy, padding, crop_hw)
    results = coco_results(
        boxes.image_ids,
        boxes.boxes_xyxy,
        boxes.scores,
        keypoints_image_xy,
        keypoint_scores,
        size_wh.prod(-1),
        skeleton,
        oks_nms_threshold,
        dataset.annotations.category_id,
    )
    if not dataset.has_annotations:
        return results, None, ""
    metrics, table = coco_metrics(dataset.annotations, results, skeleton)
    if metrics["AP"] < _NEXT_TO_NOTHING:
        log.warning("AP %.3f: %s", metrics["AP"], how_far_off(dataset, results))
    more = crowd_metrics(dataset.annotations, results, skeleton)
    more |= distance_metrics(more_metrics, dataset.annotations, results, skeleton)
    table += "".join(f" {name:18} = {value:.3f}\n" for name, value in more.items())
    return results, metrics | more, table
