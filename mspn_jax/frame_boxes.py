"""The boxes of people in a frame: given in any form, and usable."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Real

from mspn_jax import geometry
from mspn_jax.data.person_boxes import PersonBoxes, read_person_boxes, table
from mspn_jax.data.pictures import Frame

log = logging.getLogger("mspn_jax")

BoxesOf = Callable[[Frame], Float[np.ndarray, "_ 5"]]  # x, y, width, height, score
Boxes = (
    Real[np.ndarray, "_ _"]
    | Sequence[Sequence[float]]
    | Mapping[str, Any]
    | PersonBoxes
    | str
    | os.PathLike
)


def given_boxes(boxes: Boxes) -> BoxesOf:
    """A function that looks up a frame's boxes in what `find_people` takes as `boxes`."""
    what = "boxes"
    if isinstance(boxes, str | os.PathLike):
        what = os.fspath(boxes)
        boxes = read_person_boxes(boxes)
    elif isinstance(boxes, Mapping):
        of_picture = {name: table(_rows(rows), f"boxes of {name}") for name, rows in boxes.items()}
        boxes = PersonBoxes(of_picture)
    elif not isinstance(boxes, PersonBoxes):
        boxes = PersonBoxes({}, table(_rows(boxes), what))

    def find(frame: Frame) -> Float[np.ndarray, "N 5"]:
        found = boxes.of(frame.source.name)
        if found is None:
            log.warning("%s: %s has no boxes for it", frame.source.name, what)
            return np.zeros((0, 5))
        return found

    return find


def _rows(boxes: Any) -> list[Any]:
    return np.asarray(boxes, np.float64).tolist() if len(boxes) else []


def usable(frame: Frame, boxes: Float[np.ndarray, "N 5"]) -> Float[np.ndarray, "M 5"]:
    """The boxes that have an area and overlap the picture; the others are named in the log."""
    inside = are_usable(frame, boxes)
    height, width = frame.image.shape[:2]
    for box in boxes[~inside]:
        log.warning(
            "%s: left out box %s: it has no area in the picture of %d x %d",
            frame.source.name,
            ",".join(f"{x:g}" for x in box[:4]),
            width,
            height,
        )
    return boxes[inside]


def are_usable(frame: Frame, boxes: Float[np.ndarray, "N 5"]) -> Bool[np.ndarray, "N"]:
    """Whether each box has an area and overlaps the picture."""
    height, width = frame.image.shape[:2]
    top_left, bottom_right = boxes[:, :2], boxes[:, :2] + boxes[:, 2:4]
    inside = ((top_left < (width, height)) & (bottom_right > 0)).all(1)
    return inside & geometry.usable_boxes(boxes[:, :4])
