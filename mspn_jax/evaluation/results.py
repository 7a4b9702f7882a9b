"""Estimated people -> COCO's results json, with OKS-NMS; and a baseline that sees no picture."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mspn_jax.data.annotations import Annotations
from mspn_jax.data.coco import PERSON
from mspn_jax.data.evaluation_set import EvaluationSet
from mspn_jax.evaluation.similarity import keypoint_similarities, object_keypoint_similarity
from mspn_jax.people import coco_entries, person_scores
from mspn_jax.skeletons import Skeleton


def oks_nms(
    keypoints_image_xy: Float[np.ndarray, "N K 2"],
    scores: Float[np.ndarray, "N"],
    areas: Float[np.ndarray, "N"],
    oks_sigmas: tuple[float, ...],
    threshold: float,
) -> Int[np.ndarray, "M"]:
    """Indices of the people of one picture to keep, best first.

    Of two people whose OKS over all keypoints is above the threshold, the one with the lower score
    is removed. The OKS is scaled by the mean of their areas.
    """
    order = np.argsort(-scores, kind="stable")
    kept = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        mean_areas = (areas[rest] + areas[best]) / 2
        similarities = keypoint_similarities(
            keypoints_image_xy[best][None], keypoints_image_xy[rest], mean_areas, oks_sigmas
        )
        (oks,) = object_keypoint_similarity(similarities, np.ones(similarities.shape[1:], bool))
        order = rest[oks <= threshold]
    return np.array(kept, int)


def coco_results(
    image_ids: Int[np.ndarray, "N"],
    boxes_xyxy: Float[np.ndarray, "N 4"],
    box_scores: Float[np.ndarray, "N"],
    keypoints_image_xy: Float[np.ndarray, "N K 2"],
    keypoint_scores: Float[np.ndarray, "N K"],
    crop_areas: Float[np.ndarray, "N"],
    skeleton: Skeleton,
    oks_nms_threshold: float | None = None,
    category_id: int = PERSON,
) -> list[dict[str, Any]]:
    """People in COCO's results format.

    Args:
      crop_areas: of the crop regions, in square image pixels; they scale OKS-NMS.
      oks_nms_threshold: OKS above which the lesser of two people is removed; None keeps all.
    """
    scores = person_scores(box_scores, keypoint_scores)
    rows = np.arange(len(image_ids))
    if oks_nms_threshold is not None:
        kept = []
        for image_id in np.unique(image_ids):
            of_picture = rows[image_ids == image_id]
            best = oks_nms(
                keypoints_image_xy[of_picture],
                scores[of_picture],
                crop_areas[of_picture],
                skeleton.oks_sigmas,
                oks_nms_threshold,
            )
            kept.append(of_picture[best])
        rows = np.concatenate(kept)
    boxes_xywh = np.concatenate([boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]], -1)
    entries = coco_entries(
        boxes_xywh[rows],
        keypoints_image_xy[rows],
        keypoint_scores[rows],
        scores[rows],
        category_id,
    )
    return [{"image_id": int(image_ids[i])} | entry for i, entry in zip(rows, entries)]


def mean_pose_results(
    training: Annotations, dataset: EvaluationSet, skeleton: Skeleton
) -> list[dict[str, Any]]:
    """A baseline that sees no picture: the mean pose, fitted into every box.

    The mean is over the labelled keypoints of the training split, in units of their boxes.

    Args:
      training: of the training split.
    """
    people = training.people()
    top_left, size = people.boxes_xywh[:, None, :2], people.boxes_xywh[:, None, 2:]
    is_labelled = (people.visibility > 0)[..., None]
    total = np.where(is_labelled, (people.keypoints_image_xy - top_left) / size, 0).sum(0)
    mean = total / np.maximum(is_labelled.sum(0), 1)
    boxes = dataset.boxes
    size_wh = boxes.boxes_xyxy[:, None, 2:] - boxes.boxes_xyxy[:, None, :2]
    return coco_results(
        boxes.image_ids,
        boxes.boxes_xyxy,
        boxes.scores,
        boxes.boxes_xyxy[:, None, :2] + mean * size_wh,
        np.ones((len(boxes), skeleton.num_keypoints)),
        size_wh.prod((1, 2)),
        skeleton,
        category_id=dataset.annotations.category_id,
    )
