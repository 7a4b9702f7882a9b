"""Bodies of people and animals: named 3-D points, and the parts that are drawn on them.

Points are (x, y, z): x to the right, y down, z toward the viewer. All follows from turning one
body: foreshortening, what hides what, and which limbs are the left ones.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from mspn_jax.skeletons import COCO
from mspn_jax.synthetic.canvas import Canvas, Color, Rng, is_inside

Points = dict[str, Float[np.ndarray, "3"]]
Rotation = Float[np.ndarray, "3 3"]


class Blob(NamedTuple):
    """The convex hull of circles: a limb has two, a trunk four, an eye one."""

    centers: Sequence[str]  # names of points
    radii: Float[np.ndarray, " N"]
    color: Color


class Part(NamedTuple):
    """Blobs drawn one over the other, and the keypoints that can be seen on them."""

    blobs: Sequence[Blob]
    shows: Sequence[str] = ()
    nearer: float = 0.0  # added to the depth of the first blob; parts are drawn in order of depth


class Body(NamedTuple):
    """Points and parts in a unit of length that is `size` pixels long."""

    points: Points
    parts: Sequence[Part]
    size: float
    origin_xy: Float[np.ndarray, "2"] = np.zeros(2)  # of the points, in the picture
    keypoint_names: Sequence[str] = COCO.keypoint_names
    turned_away: frozenset[str] = frozenset()  # keypoints that are not labelled

    def xy(self, names: Iterable[str] | None = None) -> Float[np.ndarray, "N 2"]:
        """Image coordinates of points, by default of the keypoints."""
        names = self.keypoint_names if names is None else names
        return self.origin_xy + self.size * np.array([self.points[name][:2] for name in names])


def blob(centers: str, radii: Sequence[float], color: Color, *, unit: float) -> Blob:
    """A blob on the points named in `centers`, whose radii are multiples of `unit`."""
    return Blob(centers.split(), unit * np.array(radii), color)


def bow(angle: float) -> Rotation:
    """Takes up to forward, and forward to down."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, s], [0, -s, c]])


def turn(angle: float) -> Rotation:
    """Takes forward to the right."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def roll(angle: float) -> Rotation:
    """Turns clockwise within the picture."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def find_place(
    rng: Rng, body: Body, others: Sequence[Body], picture_hw: tuple[int, int]
) -> Body | None:
    """Moves a body to where most of it is inside the picture and clear of the others.

    Returns None if ten places did not do.
    """
    for _ in range(10):
        target_xy = rng.uniform((0.05, 0.25), 0.95) * picture_hw[::-1]
        moved = body._replace(origin_xy=target_xy - body.xy().mean(axis=0))
        is_apart = all(
            np.linalg.norm(target_xy - other.xy().mean(axis=0)) > 0.42 * (body.size + other.size)
            for other in others
        )
        if is_apart and is_inside(moved.xy(), picture_hw).mean() > rng.uniform(0.65, 1):
            return moved
    return None


def draw_body(canvas: Canvas, number: int, body: Body) -> UInt8[np.ndarray, "H W"]:
    """Draws the parts, the farthest first, and returns the body's silhouette."""

    def depth(part: Part) -> float:
        centers = part.blobs[0].centers
        return sum(body.points[name][2] for name in centers) / len(centers) + part.nearer

    first_part = len(canvas.parts)
    edge = 1 - 0.4 * min(1, body.size / 120)  # a dark outline would swallow thin limbs
    for part in sorted(body.parts, key=depth):
        canvas.add_part(number, part.shows)
        light = np.clip(0.95 + 1.2 * depth(part), 0.7, 1.1)  # far limbs are darker
        for centers, radii, color in part.blobs:
            canvas.fill(body.xy(centers), body.size * radii, light * color, edge)
    return canvas.silhouette(first_part)


def sample_labelled(rng: Rng, body: Body, picture_hw: tuple[int, int]) -> Bool[np.ndarray, " K"]:
    """Which keypoints an annotator labels: those inside the picture, less one missed in 33."""
    is_missed = rng.random(len(body.keypoint_names)) <= 0.03
    is_away = np.array([name in body.turned_away for name in body.keypoint_names])
    return is_inside(body.xy(), picture_hw) & ~is_missed & ~is_away


def annotate(
    canvas: Canvas, number: int, body: Body, labelled: Bool[np.ndarray, " K"]
) -> Float[np.ndarray, "K 3"]:
    """(x, y, visibility) of each keypoint, as in COCO: 0, 1 hidden, or 2 visible."""
    keypoints = np.zeros((len(labelled), 3))
    for k in np.flatnonzero(labelled):
        xy = body.xy()[k]
        is_shown = canvas.is_shown(number, body.keypoint_names[k], xy)
        keypoints[k] = (*xy.round(1), 1 + is_shown)
    return keypoints
