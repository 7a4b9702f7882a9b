"""Drawn people in COCO's own layout: the data set of a first run, with nothing to download.

Figures are set into pictures, nearer ones before farther ones.
"""

import os
from collections.abc import Mapping

import numpy as np

from mspn_jax.skeletons import COCO
from mspn_jax.synthetic import coco_files
from mspn_jax.synthetic.canvas import (
    NOBODY,
    Canvas,
    Rng,
    draw_background,
    draw_object,
    expose,
    is_inside,
)
from mspn_jax.synthetic.coco_files import Subject, annotation
from mspn_jax.synthetic.human import FACE_LIMITS, Figure, Part, sample_figure, sample_pose

CATEGORY = coco_files.category(1, "person", COCO)


def draw_figure(canvas: Canvas, person: int, figure: Figure) -> np.ndarray:
    """Draws the farthest part first; returns the figure's silhouette."""

    def depth(part: Part) -> float:
        centers = part.blobs[0].centers
        return sum(figure.points[name][2] for name in centers) / len(centers) + part.nearer

    first_part = len(canvas.parts)
    edge = 1 - 0.4 * min(1, figure.stature / 120)  # a dark outline would swallow thin limbs
    for part in sorted(figure.parts, key=depth):
        canvas.add_part(person, part.shows)
        light = np.clip(0.95 + 1.2 * depth(part), 0.7, 1.1)  # far limbs are darker
        for centers, radii, color in part.blobs:
            canvas.fill(figure.xy(centers), figure.stature * radii, light * color, edge)
    return canvas.silhouette(first_part)


def find_place(
    rng: Rng, figure: Figure, others: list[Figure], picture_hw: tuple[int, int]
) -> Figure | None:
    """Moves the figure where enough of it is in the picture and not all of it behind another."""
    for _ in range(10):
        target_xy = rng.uniform((0.05, 0.25), 0.95) * picture_hw[::-1]
        moved = figure._replace(origin_xy=target_xy - figure.xy().mean(axis=0))
        is_apart = all(
            np.linalg.norm(target_xy - other.xy().mean(axis=0))
            > 0.42 * (figure.stature + other.stature)
            for other in others
        )
        if is_apart and is_inside(moved.xy(), picture_hw).mean() > rng.uniform(0.65, 1):
            return moved
    return None


def draw_picture(rng: Rng, picture_hw: tuple[int, int]) -> tuple[np.ndarray, list[dict]]:
    """Draws a picture and annotates it as COCO does, but for segmentations.

    Returns:
      image: (H, W, 3) uint8, RGB.
      annotations: a dictionary a person, and one for a crowd, without `id` and `image_id`.
        Keypoints are in pixels, (0, 0) the center of the first; the box and the area are those
        of the person's silhouette inside the picture, whatever stands in front of it.
    """
    canvas = draw_background(rng, picture_hw)
    annotations = [draw_crowd(rng, canvas)] if rng.random() < 0.04 else []

    count = rng.choice((1, 2, 3, 4), p=(0.3, 0.35, 0.25, 0.1))
    people: list[Figure] = []
    for stature in np.sort(np.exp(rng.uniform(*np.log((0.35, 1.1)), count))) * picture_hw[0]:
        figure = find_place(rng, sample_figure(rng, sample_pose(rng), stature), people, picture_hw)
        if figure is not None:
            people.append(figure)
    # The larger ones are nearer, and are drawn later.
    silhouettes = [draw_figure(canvas, person, figure) for person, figure in enumerate(people)]
    if people and rng.random() < 0.1:  # an object in front of the nearest
        draw_object(rng, canvas, rng.choice(people[-1].xy()), 0.35 * people[-1].stature)

    for person, (figure, silhouette) in enumerate(zip(people, silhouettes, strict=True)):
        keypoints = np.zeros((COCO.num_keypoints, 3))
        # Annotators miss a joint now and then, and sometimes leave out a whole person.
        labelled = is_inside(figure.xy(), picture_hw) & (rng.random(COCO.num_keypoints) > 0.03)
        labelled &= rng.random() > 0.03
        for k, (name, xy) in enumerate(zip(COCO.keypoint_names, figure.xy(), strict=True)):
            if labelled[k] and (name in figure.seen_face or name not in FACE_LIMITS):
                keypoints[k] = (*xy.round(1), 1 + canvas.is_shown(person, name, xy))
        annotations.append(annotation(CATEGORY["id"], silhouette, keypoints))
    return expose(rng, canvas.image), annotations


def draw_crowd(rng: Rng, canvas: Canvas) -> dict:
    """Draws a row of tiny people, annotated as one."""
    height, width = canvas.top.shape
    first_part = len(canvas.parts)
    left, level = rng.uniform((0, 0.2), (0.6, 0.8)) * (width, height)
    for i in range(rng.integers(5, 10)):
        figure = sample_figure(rng, sample_pose(rng), height * rng.uniform(0.07, 0.1))
        at_xy = np.array([left + 0.045 * i * height, level])
        draw_figure(canvas, NOBODY, figure._replace(origin_xy=at_xy))
    nothing = np.zeros((COCO.num_keypoints, 3))
    return annotation(CATEGORY["id"], canvas.silhouette(first_part), nothing) | {"iscrowd": 1}


def write_dataset(
    root: str | os.PathLike,
    pictures: Mapping[str, int],
    seed: int = 0,
    picture_hw: tuple[int, int] = (240, 320),
) -> None:
    """Draws people: `coco_files.write`, which says the rest."""
    coco_files.write(root, pictures, _people(), seed, picture_hw)


def _people() -> Subject:
    return Subject("People drawn by mspn_jax.synthetic.people", "1", CATEGORY, draw_picture)


if __name__ == "__main__":
    coco_files.command(_people(), "data/synthetic", train=2500, val=200)
