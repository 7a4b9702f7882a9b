"""Keypoints and boxes of a picture -> instances, for tools that draw them one by one."""

import dataclasses

from mspn_jax.annotation_tools.labelled import Box, Instance, Keypoint, LeftOut
from mspn_jax.errors import DataError

_EDGE = 1e-6  # pixels around a box: shares of a picture become pixels with rounding errors


@dataclasses.dataclass
class Point:
    """A labelled keypoint."""

    name: str
    at: Keypoint
    owner: str | None = None  # what its instance is called; None: the tool does not say


def group(
    points: list[Point], boxes: dict[str, Box], where: str, left_out: LeftOut
) -> list[Instance]:
    """The instances of a picture. `boxes` are by what their instances are called.

    A keypoint belongs to its owner, or else to the box that contains it. Where several do, it
    belongs to one that lacks this keypoint, the smallest first. In a picture without boxes and
    owners there is one instance. `left_out` gets the keypoints outside all boxes, and counts those
    within several.
    """
    instances = {owner: Instance({}, box) for owner, box in boxes.items()}
    free = []
    for point in points:
        if point.owner is None:
            free.append(point)
        else:
            _give(instances.setdefault(point.owner, Instance({})), point, where)
    if not instances and free:
        instances[""] = Instance({})
        for point in free:
            _give(instances[""], point, where)
        free = []
    areas = {owner: box[2] * box[3] for owner, box in boxes.items()}
    around = [(p, [o for o, box in boxes.items() if _contains(box, p.at)]) for p in free]
    for point, owners in sorted(around, key=lambda pair: len(pair[1])):
        if not owners:
            what = "keypoints outside every box, left out: draw the box around them"
            left_out.add(what, f"{where}: {point.name}")
            continue
        lacking = [o for o in owners if point.name not in instances[o].keypoints] or owners
        if len(lacking) > 1:
            what = "keypoints within several boxes, given to the smallest that lacks them"
            left_out.add(what, f"{where}: {point.name}")
        _give(instances[min(lacking, key=lambda owner: areas[owner])], point, where)
    return list(instances.values())


def _give(instance: Instance, point: Point, where: str) -> None:
    if point.name in instance.keypoints:
        remedy = "" if instance.box_xywh else ", or draw a box around each instance"
        raise DataError(f"{where}: an instance has {point.name!r} twice; delete one{remedy}")
    instance.keypoints[point.name] = point.at


def _contains(box: Box, at: Keypoint) -> bool:
    x, y, width, height = box
    inside_x = x - _EDGE <= at[0] <= x + width + _EDGE
    return inside_x and y - _EDGE <= at[1] <= y + height + _EDGE
