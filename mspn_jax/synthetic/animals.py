"""Drawn four-legged animals with 11 keypoints: a data set that shows how to use your own.

An animal is seen from its side. The limbs on the viewer's side are in front of its trunk and lit,
the others are behind it and darker. The way it faces tells which of them are its left ones.
"""

from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from mspn_jax.data import categories
from mspn_jax.skeletons import Skeleton
from mspn_jax.storage import files
from mspn_jax.synthetic import bodies, coco_files
from mspn_jax.synthetic.bodies import Body, Part, Points, Rotation
from mspn_jax.synthetic.canvas import Rng, draw_background, expose, sample_color
from mspn_jax.synthetic.coco_files import Subject, annotation

LEGS = ("left_front", "right_front", "left_hind", "right_hind")
LEG_JOINTS = tuple(f"{leg}_{joint}" for leg in LEGS for joint in ("knee", "paw"))
QUADRUPED = Skeleton(
    name="quadruped",
    keypoint_names=("nose", "withers", "tail_base", *LEG_JOINTS),
    limbs=((0, 1), (1, 2), (1, 3), (3, 4), (1, 5), (5, 6), (2, 7), (7, 8), (2, 9), (9, 10)),
    oks_sigmas=(0.03, 0.07, 0.06, *(0.06, 0.05) * 4),
    upper_body=("nose", "withers", *LEG_JOINTS[:4]),
)
CATEGORY = categories.entry(7, "quadruped", QUADRUPED)


def sample_animal(rng: Rng, length: float) -> Body:
    """An animal at the origin, `length` pixels long from chest to tail."""
    rotation = _rotation(rng)
    points = {name: rotation @ xyz for name, xyz in _points(rng).items()}
    return Body(points, _parts(rng, points), length, keypoint_names=QUADRUPED.keypoint_names)


def _points(rng: Rng) -> Points:
    """Facing along x, its left side at negative z; y is down, the unit the trunk's length."""
    width, upper, lower = rng.uniform((0.09, 0.17, 0.18), (0.12, 0.28, 0.3))
    points = {
        "withers": np.array([0.5, -0.1, 0]),
        "chest": np.array([0.42, 0.07, 0]),
        "tail_base": np.array([-0.5, -0.1, 0]),
        "rump": np.array([-0.4, 0.04, 0]),
    }

    def to(start: str, angle_deg: float, length: float) -> Float[np.ndarray, "3"]:
        """The point at this distance; 0 is down and 90 forward."""
        angle = np.radians(angle_deg)
        return points[start] + length * np.array([np.sin(angle), np.cos(angle), 0])

    neck = rng.uniform(125, 160) if rng.random() < 0.8 else rng.uniform(50, 80)  # it grazes
    points["poll"] = to("withers", neck, rng.uniform(0.28, 0.5))
    points["nose"] = to("poll", neck - rng.uniform(50, 85), rng.uniform(0.22, 0.32))
    points["ear"] = to("poll", neck + rng.uniform(10, 60), rng.uniform(0.08, 0.15))
    points["eye"] = points["poll"] + 0.3 * (points["nose"] - points["poll"])
    points["tail"] = to("tail_base", rng.uniform(-110, -10), rng.uniform(0.2, 0.45))
    stride = rng.choice((8, 30), p=(0.4, 0.6))  # it stands, or it walks
    for leg in LEGS:
        side, end = leg.split("_")
        trunk, bend = ("chest", -1) if end == "front" else ("rump", 1)
        beside = np.array([0, 0.04, -width if side == "left" else width])
        points[f"{leg}_root"] = points[trunk] + beside
        swing = rng.uniform(-stride, stride)
        points[f"{leg}_knee"] = to(f"{leg}_root", swing + bend * rng.uniform(0, 15), upper)
        points[f"{leg}_paw"] = to(f"{leg}_knee", swing - rng.uniform(0, 1.2) * stride, lower)
        points[f"{leg}_toes"] = points[f"{leg}_paw"] + np.array([0.05, 0.01, 0])
    return points


def _rotation(rng: Rng) -> Rotation:
    """Faces left or right, a little toward the viewer or away; seen from a little above."""
    yaw = np.radians(rng.choice((0, 180)) + rng.normal(0, 14))
    pitch, roll = np.radians((rng.uniform(0, 14), rng.normal(0, 5)))
    return bodies.roll(roll) @ bodies.bow(pitch) @ bodies.turn(yaw)


def _parts(rng: Rng, points: Points) -> list[Part]:
    coat, mane, socks = sample_color(rng), sample_color(rng), sample_color(rng)
    blob = partial(bodies.blob, unit=rng.uniform(0.8, 1.3))

    trunk = [blob("withers chest rump tail_base", (0.1, 0.14, 0.13, 0.09), coat)]
    if rng.random() < 0.5:
        trunk.append(blob("withers tail_base", (0.05, 0.05), mane))
    head = [
        blob("poll nose", (0.075, 0.04), coat),
        blob("nose", (0.035,), 0.4 * coat),
        blob("eye", (0.02,), np.full(3, 15.0)),
    ]
    parts = [
        Part(trunk, ("withers", "tail_base")),
        Part([blob("withers poll", (0.1, 0.065), coat)], ("withers",), 0.01),
        Part(head, ("nose",), 0.02),
        Part([blob("poll ear", (0.035, 0.02), mane)], (), 0.03),
        Part([blob("tail_base tail", (0.035, 0.02), mane)], ("tail_base",), -0.01),
    ]
    for leg in LEGS:
        root, knee, paw = (f"{leg}_{joint}" for joint in ("root", "knee", "paw"))
        lit = 1.0 if points[root][2] > 0 else 0.55
        upper = blob(f"{root} {knee}", (0.085, 0.045), lit * coat)
        lower = blob(f"{knee} {paw}", (0.042, 0.026), lit * (socks + coat) / 2)
        foot = blob(f"{paw} {leg}_toes", (0.034, 0.028), lit * socks)
        parts.append(Part([foot, lower, upper], (knee, paw)))
    return parts


def draw_picture(
    rng: Rng, picture_hw: tuple[int, int]
) -> tuple[UInt8[np.ndarray, "H W 3"], list[dict[str, Any]]]:
    """Draws a picture of one to three animals, and annotates it as COCO does people."""
    canvas = draw_background(rng, picture_hw)
    animals: list[Body] = []
    lengths = np.exp(rng.uniform(*np.log((0.2, 0.5)), rng.choice((1, 2, 3), p=(0.5, 0.35, 0.15))))
    for length in np.sort(lengths) * picture_hw[1]:  # the larger ones are nearer
        animal = bodies.find_place(rng, sample_animal(rng, length), animals, picture_hw)
        if animal is not None:
            animals.append(animal)
    silhouettes = [bodies.draw_body(canvas, i, animal) for i, animal in enumerate(animals)]
    annotations = []
    for i, (animal, silhouette) in enumerate(zip(animals, silhouettes, strict=True)):
        labelled = bodies.sample_labelled(rng, animal, picture_hw)
        keypoints = bodies.annotate(canvas, i, animal, labelled)
        annotations.append(annotation(CATEGORY["id"], silhouette, keypoints))
    return expose(rng, canvas.image), annotations


ANIMALS = Subject("Animals drawn by mspn_jax.synthetic.animals", "1", CATEGORY, draw_picture)


def main() -> None:
    root = coco_files.command(ANIMALS, "data/animals", train=1500, val=100)
    path = root / "quadruped.json"
    files.write_json(path, QUADRUPED.to_json(), indent=2)
    print(f"{path}: their skeleton")


if __name__ == "__main__":
    main()
