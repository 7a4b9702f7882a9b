"""Doubts about annotations that are allowed but look wrong, each with a guess at the cause.

Nothing here refuses anything: the shares are far above those of COCO itself.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

Array = np.ndarray

_SHARE = 0.1  # of the people, from which on a doubt is worth a line
_FAR = 0.1  # of a box's size: how far outside it a joint must lie, more than half of a person's
_REACH = 1.1  # of a picture's size: how far a box must reach


def doubts(
    annotation_ids: Int[Array, "N"],
    boxes_xywh: Float[Array, "N 4"],
    keypoints_image_xy: Float[Array, "N K 2"],
    visibility: Float[Array, "N K"],
    image_wh: Int[Array, "N 2"],
) -> Iterator[str]:
    """One line for each thing that is so of too many of the people, all in image pixels."""

    def line(of_person, what: str) -> Iterator[str]:
        if of_person.mean() > _SHARE:
            first = ", ".join(map(str, annotation_ids[of_person][:3]))
            yield f"{of_person.sum()} of {len(of_person)} people {what} (annotation {first} ...)"

    top_left, size = boxes_xywh[:, None, :2], boxes_xywh[:, None, 2:]
    labelled = visibility > 0
    inside = np.abs((keypoints_image_xy - top_left) / size - 0.5).max(-1) <= 0.5 + _FAR
    yield from line(
        (labelled & ~inside).sum(1) > labelled.sum(1) / 2,
        "have most of their keypoints outside their box: are these x, y, v in pixels, x first,"
        " the boxes x, y, width, height, and image_id the right picture's?",
    )
    yield from line(
        (boxes_xywh[:, :2] + boxes_xywh[:, 2:] > _REACH * image_wh).any(1),
        "have boxes that reach beyond their picture: are these x, y, width, height, and not two"
        " corners?",
    )
    yield from line(
        (boxes_xywh[:, 2:] <= 1).all(1),
        "have boxes of at most one pixel: are these fractions of the picture? Pixels are needed",
    )
