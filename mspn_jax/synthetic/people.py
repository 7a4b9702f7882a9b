"""Drawn people in COCO's layout: the data set of a first run, with nothing to download."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8

from mspn_jax.data import categories
from mspn_jax.skeletons import COCO
from mspn_jax.synthetic import bodies, coco_files
from mspn_jax.synthetic.bodies import Body
from mspn_jax.synthetic.canvas import NOBODY, Canvas, Rng, draw_background, draw_object, expose
from mspn_jax.synthetic.coco_files import Subject, annotation
from mspn_jax.synthetic.human import sample_person
from mspn_jax.synthetic.poses import sample_pose

CATEGORY = categories.entry(1, "person", COCO)


def draw_picture(
    rng: Rng, picture_hw: tuple[int, int]
) -> tuple[UInt8[np.ndarray, "H W 3"], list[dict[str, Any]]]:
    """Draws a picture, in RGB, and annotates it as COCO does, without segmentations.

    There is an annotation for each person, and one for a crowd. Keypoints are in pixels, and (0, 0)
    is the center of the first. The box and the area are those of the person's silhouette inside
    the picture, whatever stands in front of it.
    """
    canvas = draw_background(rng, picture_hw)
    annotations = [draw_crowd(rng, canvas)] if rng.random() < 0.04 else []

    count = rng.choice((1, 2, 3, 4), p=(0.3, 0.35, 0.25, 0.1))
    people: list[Body] = []
    # The larger ones are nearer, and are drawn later.
    for stature in np.sort(np.exp(rng.uniform(*np.log((0.35, 1.1)), count))) * picture_hw[0]:
        person = sample_person(rng, sample_pose(rng), stature)
        placed = bodies.find_place(rng, person, people, picture_hw)
        if placed is not None:
            people.append(placed)
    silhouettes = [bodies.draw_body(canvas, i, person) for i, person in enumerate(people)]
    if people and rng.random() < 0.1:  # an object in front of the nearest
        draw_object(rng, canvas, rng.choice(people[-1].xy()), 0.35 * people[-1].size)

    for i, (person, silhouette) in enumerate(zip(people, silhouettes, strict=True)):
        labelled = bodies.sample_labelled(rng, person, picture_hw)
        labelled &= rng.random() > 0.03  # annotators sometimes leave out a whole person
        keypoints = bodies.annotate(canvas, i, person, labelled)
        annotations.append(annotation(CATEGORY["id"], silhouette, keypoints))
    return expose(rng, canvas.image), annotations


def draw_crowd(rng: Rng, canvas: Canvas) -> dict[str, Any]:
    """Draws a row of tiny people, annotated as one crowd."""
    height, width = canvas.top.shape
    first_part = len(canvas.parts)
    left, level = rng.uniform((0, 0.2), (0.6, 0.8)) * (width, height)
    for i in range(rng.integers(5, 10)):
        person = sample_person(rng, sample_pose(rng), height * rng.uniform(0.07, 0.1))
        at_xy = np.array([left + 0.045 * i * height, level])
        bodies.draw_body(canvas, NOBODY, person._replace(origin_xy=at_xy))
    no_keypoints = np.zeros((COCO.num_keypoints, 3))
    return annotation(CATEGORY["id"], canvas.silhouette(first_part), no_keypoints) | {"iscrowd": 1}


PEOPLE = Subject("People drawn by mspn_jax.synthetic.people", "1", CATEGORY, draw_picture)


def write_dataset(
    root: str | os.PathLike,
    pictures: Mapping[str, int],
    *,
    seed: int = 0,
    picture_hw: tuple[int, int] = (240, 320),
) -> None:
    """Writes a data set of drawn people: see `coco_files.write`."""
    coco_files.write(root, pictures, PEOPLE, seed=seed, picture_hw=picture_hw)


if __name__ == "__main__":
    coco_files.command(PEOPLE, "data/synthetic", train=2500, val=200)
