"""COCO's object keypoint similarity (OKS). NumPy, in image pixels.

Source: pycocotools, `COCOeval.computeOks`; the order of the arithmetic is the same.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float


def keypoint_similarities(
    found_image_xy: Float[np.ndarray, "N K 2"],
    people_image_xy: Float[np.ndarray, "M K 2"],
    areas: Float[np.ndarray, "*N M"],
    oks_sigmas: Sequence[float],
) -> Float[np.ndarray, "N M K"]:
    """exp(-distance² / (2 area (2 sigma)²)) of each found person's keypoints to each person's.

    Args:
      areas: square image pixels, of the people, or of each pair.
    """
    squared = np.square(found_image_xy[:, None] - people_image_xy[None]).sum(-1)
    variances = np.square(2 * np.array(oks_sigmas))
    return np.exp(-(squared / variances / (areas[..., None] + np.spacing(1)) / 2))


def object_keypoint_similarity(
    similarities: Float[np.ndarray, "N M K"], is_labelled: Bool[np.ndarray, "M K"]
) -> Float[np.ndarray, "N M"]:
    """OKS: the mean of `keypoint_similarities` over each person's labelled keypoints, 0..1."""
    return (similarities * is_labelled).sum(-1) / is_labelled.sum(-1)
