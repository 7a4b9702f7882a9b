"""Draws the figures of the pages: python docs/figures.py [--output DIR]

On drawn people, by the project's own geometry, augmentation and targets: a figure shows what
the code does.
"""

import argparse
import pathlib

import cv2
import numpy as np

from mspn_jax import geometry, heatmaps
from mspn_jax.crops import cut
from mspn_jax.data import augment
from mspn_jax.drawing import annotate_people, grid, write_picture
from mspn_jax.skeletons import COCO
from mspn_jax.synthetic import people

SEED = 155  # of a picture with one person, all of whose joints are seen
CROP_HW = (256, 192)
PICTURE_HW = (240, 320)
WHITE, ORANGE = (255, 255, 255), (255, 140, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws the figures of the pages.")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    folder = parser.parse_args().output / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    image, annotations = people.draw_picture(np.random.default_rng(SEED), PICTURE_HW)
    person = max(annotations, key=lambda a: a["num_keypoints"])
    write_picture(folder / "crop.jpg", crop_figure(image, person))
    write_picture(folder / "targets.png", target_figure(image, person))


def crop_of(image, person, augmentation: augment.Augmentation, skeleton=COCO):
    """A crop, as training cuts it; with its keypoints, their visibility, and the map to it."""
    triples = np.array(person["keypoints"], np.float32).reshape(-1, 3)
    image_to_crop, keypoints_crop_xy, visibility = augment.apply(
        augmentation,
        triples[:, :2],
        triples[:, 2],
        geometry.clip_boxes(np.array(person["bbox"], np.float64), image.shape[:2]),
        padding=1.25,
        image_width=image.shape[1],
        crop_hw=CROP_HW,
        flip_permutation=skeleton.flip_permutation,
        half_body_padding=augment.Settings().half_body_padding,
    )
    crop = np.zeros((*CROP_HW, 3), np.uint8)
    cut(image, image_to_crop, augmentation.flip, crop)
    return crop, keypoints_crop_xy, visibility, image_to_crop


def with_joints(crop, keypoints_crop_xy, visibility):
    return annotate_people(crop, keypoints_crop_xy[None], np.minimum(visibility, 1)[None], COCO)


def crop_figure(image, person) -> np.ndarray:
    """A picture with a box and its region; the plain crop; four augmented ones."""
    crop, keypoints, visibility, image_to_crop = crop_of(image, person, augment.UNCHANGED)
    scale = CROP_HW[0] / image.shape[0]
    enlarged = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    x, y, w, h = (round(scale * side) for side in person["bbox"])
    cv2.rectangle(enlarged, (x, y), (x + w, y + h), WHITE, 2, cv2.LINE_AA)
    height, width = CROP_HW
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float64)
    region = scale * geometry.transform(geometry.invert(image_to_crop), corners)
    cv2.polylines(enlarged, [np.rint(region).astype(np.int32)], True, ORANGE, 2, cv2.LINE_AA)

    panels = [enlarged, with_joints(crop, keypoints, visibility)]
    rng = np.random.default_rng(SEED)
    settings = augment.Settings()
    wanted = [lambda d: d.flip, lambda d: d.half_body.any(), lambda d: d.rotation_deg > 25]
    for is_wanted in (*wanted, lambda d: d.scale < 0.8):
        augmentation = augment.UNCHANGED
        while not is_wanted(augmentation):
            augmentation = augment.sample(
                rng, visibility, COCO.is_upper_body, COCO.flip_permutation, settings
            )
        panels.append(with_joints(*crop_of(image, person, augmentation)[:3]))
    space = np.full((height, 6, 3), 255, np.uint8)
    return np.hstack([part for panel in panels for part in (panel, space)][:-1])


def target_figure(image, person) -> np.ndarray:
    """A crop with its joints, and the five levels of all its targets laid over it."""
    crop, keypoints, visibility, _ = crop_of(image, person, augment.UNCHANGED)
    heatmap_hw = (CROP_HW[0] // 4, CROP_HW[1] // 4)
    targets, _ = heatmaps.encode(keypoints[None], visibility[None], CROP_HW, heatmap_hw)
    panels = [with_joints(crop, keypoints, visibility)]
    for level in np.asarray(targets)[0]:
        cells = np.clip(level.max(-1), 0, 255).astype(np.uint8)
        hot = cv2.applyColorMap(cells, cv2.COLORMAP_INFERNO)[..., ::-1]
        panels.append(cv2.resize(hot, CROP_HW[::-1], interpolation=cv2.INTER_NEAREST))
    return grid(panels, columns=6, cell_hw=(CROP_HW[0] // 4 * 3, CROP_HW[1] // 4 * 3))


if __name__ == "__main__":
    main()
