"""Annotations that are allowed but look wrong, each with a guess at the cause.

Every doubt needs a share of the people far above COCO's own.
"""

import numpy as np
from jaxtyping import Float, Int

from mspn_jax.data.schema import WARNING, Findings

_SHARE = 0.1  # of the people, above which a doubt is worth a line
_FAR = 0.1  # of a box's size: how far outside it most of a person's joints lie
_REACH = 1.1  # of a picture's size: how far a box reaches


def find_doubts(
    annotation_ids: Int[np.ndarray, "N"],
    boxes_xywh: Float[np.ndarray, "N 4"],
    keypoints_image_xy: Float[np.ndarray, "N K 2"],
    visibility: Float[np.ndarray, "N K"],
    image_wh: Int[np.ndarray, "N 2"],
    findings: Findings,
    *,
    may_reach_beyond: bool = False,
) -> None:
    """Adds a finding for each doubt that applies to more than a tenth of the people.

    Boxes must have an area. All positions are in image pixels.

    Args:
      may_reach_beyond: boxes are meant to reach beyond their pictures.
    """
    top_left, size = boxes_xywh[:, None, :2], boxes_xywh[:, None, 2:]
    labelled = visibility > 0
    inside = np.abs((keypoints_image_xy - top_left) / size - 0.5).max(-1) <= 0.5 + _FAR
    reach_beyond = (boxes_xywh[:, :2] + boxes_xywh[:, 2:] > _REACH * image_wh).any(1)
    doubts = {
        "have most of their keypoints outside their box. Keypoints are x, y, v in pixels, x first."
        " Boxes are x, y, width, height. Is image_id the right picture's?": (
            (labelled & ~inside).sum(1) > labelled.sum(1) / 2
        ),
        "have boxes that reach beyond their picture: are these x, y, width, height, and not two"
        " corners?": reach_beyond & (not may_reach_beyond),
        "have boxes of at most one pixel: are these fractions of the picture? Pixels are needed": (
            (boxes_xywh[:, 2:] <= 1).all(1)
        ),
    }
    for what, applies in doubts.items():
        if applies.sum() > _SHARE * len(applies):
            people = f"{applies.sum()} of {len(applies)} people {what}"
            findings.add(WARNING, "annotation", people, annotation_ids[applies])
