"""A skeleton's OKS sigmas, from people who were annotated twice.

COCO's definition (cocodataset.org, keypoint evaluation), measured there on 5,000 pictures of val
that were annotated redundantly:

    sigma_i² = E[d_i² / s²]

d_i is the distance between the two annotations of keypoint i in the picture, s² is the person's
area, and the mean is over all pairs. OKS is then exp(-d² / (2 s² k²)) with k = 2 sigma.

This sigma is not one annotator's error. If both annotators' errors are independent, with a standard
deviation of e s on each axis, their positions differ by sqrt(2) e s on each axis, and E[d²] =
2 (sqrt(2) e s)², so that sigma = 2 e. COCO divides neither by sqrt(2) for the two annotators nor by
sqrt(2) for the two axes, and neither does this module.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from mspn_jax import geometry, skeletons
from mspn_jax.data.annotations import Annotations, rows_by_picture
from mspn_jax.errors import DataError
from mspn_jax.skeletons import Skeleton

MIN_OVERLAP = 0.5  # intersection over union of two boxes around one person


@dataclasses.dataclass(frozen=True)
class Sigmas:
    """What people who were annotated twice say of their K keypoints."""

    num_people: int  # who were annotated twice
    counts: Int[np.ndarray, "K"]  # for each keypoint, how many of them have it labelled twice
    sigmas: Float[np.ndarray, "K"]  # COCO's, as fractions of sqrt(area)
    # The same, from the median of d² / s². If errors are normal, d² / s² is exponential, and its
    # mean is its median / ln 2. A sigma far above this one comes from few pairs that are far apart.
    of_medians: Float[np.ndarray, "K"]
    farthest: Float[np.ndarray, "K"]  # the greatest d / s of each keypoint
    farthest_ids: Int[np.ndarray, "K"]  # its annotation in the first file


def estimate(first: Annotations, second: Annotations, skeleton: Skeleton) -> Sigmas:
    """The sigmas from two annotations of the same pictures.

    Pictures are found by their file names, people by their boxes. The areas of `first` count.
    """
    first, second = first.people(), second.people()
    rows, others = pairs(first, second)
    if not len(rows):
        raise DataError(
            f"{second.file}: nobody in it is in {first.file}, too: they need pictures of the same"
            f" file names, and boxes that overlap by {MIN_OVERLAP} or more"
        )
    is_labelled = (first.visibility[rows] > 0) & (second.visibility[others] > 0)
    squared = _squared_distances(first, rows, second, others)
    counts = is_labelled.sum(0)
    missing = [name for name, count in zip(skeleton.keypoint_names, counts) if not count]
    if missing:
        raise DataError(
            f"{second.file}: nobody who is also in {first.file} has {', '.join(missing)} labelled"
            " in both: annotate more people twice"
        )
    sigmas = np.sqrt(np.where(is_labelled, squared, 0).sum(0) / counts)
    low, high = skeletons.SIGMAS
    for name, sigma in zip(skeleton.keypoint_names, sigmas.tolist()):
        if not low <= sigma <= high:
            raise DataError(
                f"{second.file}: the sigma of {name} is {sigma:.4g}, and must be from {low} to"
                f" {high}: was this file annotated apart from {first.file}, in the same pictures?"
            )
    medians = np.ma.median(np.ma.masked_array(squared, ~is_labelled), axis=0).filled(0)
    far = np.where(is_labelled, squared, -1).argmax(0)
    return Sigmas(
        num_people=len(rows),
        counts=counts,
        sigmas=sigmas,
        of_medians=np.sqrt(medians / np.log(2)),
        farthest=np.sqrt(squared[far, np.arange(len(far))]),
        farthest_ids=first.ids[rows[far]],
    )


def pairs(
    first: Annotations, second: Annotations
) -> tuple[Int[np.ndarray, "N"], Int[np.ndarray, "N"]]:
    """The rows of people who are in both.

    In each picture people with overlapping boxes and a keypoint in common are assigned so that the
    mean of d² / s² is least. The boxes decide who may be a pair, since a limit on the distance
    itself would make the sigmas too small.
    """
    of_name = {
        second.file_names[image]: rows for image, rows in rows_by_picture(second.image_rows).items()
    }
    rows, others = [], []
    for image, mine in rows_by_picture(first.image_rows).items():
        theirs = of_name.get(first.file_names[image])
        if theirs is None:
            continue
        a, b = (each.ravel() for each in np.meshgrid(mine, theirs, indexing="ij"))
        is_labelled = (first.visibility[a] > 0) & (second.visibility[b] > 0)
        squared = np.where(is_labelled, _squared_distances(first, a, second, b), 0)
        costs = (squared.sum(1) / np.maximum(is_labelled.sum(1), 1)).reshape(len(mine), len(theirs))
        overlaps = geometry.intersections_over_union(
            first.boxes_xywh[mine], second.boxes_xywh[theirs]
        )
        is_pair = (overlaps >= MIN_OVERLAP) & is_labelled.any(1).reshape(costs.shape)
        apart = 1 + costs.sum()  # costs more than any assignment of pairs
        i, j = linear_sum_assignment(np.where(is_pair, costs, apart))
        kept = is_pair[i, j]
        rows += mine[i[kept]].tolist()
        others += theirs[j[kept]].tolist()
    return np.array(rows, int), np.array(others, int)


def _squared_distances(
    first: Annotations,
    rows: Int[np.ndarray, "N"],
    second: Annotations,
    others: Int[np.ndarray, "N"],
) -> Float[np.ndarray, "N K"]:
    """d² / s² of each keypoint of each pair."""
    apart = first.keypoints_image_xy[rows] - second.keypoints_image_xy[others]
    return np.square(apart).sum(-1) / first.areas[rows, None]
