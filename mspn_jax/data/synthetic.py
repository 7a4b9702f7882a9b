"""Drawn people in COCO's own layout: the data set of a first run, with nothing to download.

Figures are set into pictures, nearer ones before farther ones, and the pictures with their
annotations become a data set.
"""

import argparse
import json
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from mspn_jax.data.figures import (
    FACE_LIMITS,
    Color,
    Figure,
    Part,
    Rng,
    sample_color,
    sample_figure,
    sample_pose,
)
from mspn_jax.skeletons import COCO

# --- picture ----------------------------------------------------------------------------------

CIRCLE = np.stack([f(np.arange(16) * np.pi / 8) for f in (np.cos, np.sin)], axis=-1)
SUBPIXEL_BITS = 4  # OpenCV draws polygons in fixed point
NOBODY = -1


class Canvas:
    """A picture, and for each pixel the number of the part on top of it (0: the background)."""

    def __init__(self, image: np.ndarray):
        self.image = image
        self.top = np.zeros(image.shape[:2], np.uint16)
        self.parts: list[tuple[int, Sequence[str]]] = [(NOBODY, ())]  # whose, showing what

    def add_part(self, person: int = NOBODY, shows: Sequence[str] = ()) -> None:
        self.parts.append((person, shows))

    def fill(self, centers_xy: np.ndarray, radii: np.ndarray, color: Color, edge: float) -> None:
        """Draws the hull of circles as a piece of the newest part, its outline `edge` as bright."""
        circles = centers_xy[:, None] + radii[:, None, None] * CIRCLE
        fixed_point = np.rint(circles.reshape(-1, 2) * 2**SUBPIXEL_BITS).astype(np.int32)
        hull = cv2.convexHull(fixed_point)
        cv2.fillConvexPoly(self.image, hull, color, cv2.LINE_AA, SUBPIXEL_BITS)
        if len(radii) > 1:  # an outline would swallow an eye
            cv2.polylines(self.image, [hull], True, edge * color, 1, cv2.LINE_AA, SUBPIXEL_BITS)
        cv2.fillConvexPoly(self.top, hull, len(self.parts) - 1, cv2.LINE_8, SUBPIXEL_BITS)

    def silhouette(self, first_part: int) -> np.ndarray:
        """(H, W) uint8, 1 where a part of this number or a later one is on top."""
        return (self.top >= first_part).view(np.uint8)

    def is_shown(self, person: int, keypoint: str, xy: np.ndarray) -> bool:
        whose, shows = self.parts[self.top[round(xy[1]), round(xy[0])]]
        return whose == person and keypoint in shows


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


def draw_object(rng: Rng, canvas: Canvas, center_xy: np.ndarray, size: float) -> None:
    """Draws a disc, a stick, or a polygon with round corners, of some `size` pixels."""
    num_corners = rng.integers(1, 6)
    radius = size * (0.4 if num_corners == 1 else rng.uniform(0.02, 0.12))
    corners_xy = center_xy + rng.normal(0, 0.4 * size, (num_corners, 2))
    canvas.add_part()
    canvas.fill(corners_xy, np.full(num_corners, radius), sample_color(rng), rng.uniform(0.6, 1))


def draw_background(rng: Rng, picture_hw: tuple[int, int]) -> Canvas:
    """Soft light, a rough texture, and objects, some much like limbs."""
    height, width = picture_hw
    rough_hw = (height // 6, width // 6)
    light = rng.uniform(20, 235) + rng.normal(0, 35, (3, 4, 1)) + rng.normal(0, 12, (3, 4, 3))
    image = cv2.resize(light, rough_hw[::-1], interpolation=cv2.INTER_CUBIC)
    image += rng.normal(0, 20, 3) + rng.normal(0, rng.uniform(0, 14), (*rough_hw, 1))
    canvas = Canvas(cv2.resize(image.clip(0, 255).astype(np.uint8), (width, height)))
    for _ in range(rng.integers(0, 8)):
        draw_object(rng, canvas, rng.uniform((0, 0), (width, height)), rng.uniform(10, 110))
    return canvas


def expose(rng: Rng, image: np.ndarray) -> np.ndarray:
    """The contrast, brightness, blur and noise of a camera."""
    image = cv2.convertScaleAbs(image, alpha=rng.uniform(0.7, 1.0), beta=rng.uniform(0, 60))
    if rng.random() < 0.4:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.1))
    noise = int(rng.integers(0, 10))
    grains = rng.integers(0, 2 * noise + 1, image.shape, np.uint8)
    return cv2.subtract(cv2.add(image, grains), (noise, noise, noise, 0))


def is_inside(xy: np.ndarray, picture_hw: tuple[int, int]) -> np.ndarray:
    """(N,) bool of points (N, 2)."""
    return ((xy >= 0) & (xy <= (picture_hw[1] - 1, picture_hw[0] - 1))).all(axis=1)


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
        annotations.append(_annotation(silhouette, keypoints))
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
    return _annotation(canvas.silhouette(first_part), nothing) | {"iscrowd": 1}


def _annotation(silhouette: np.ndarray, keypoints: np.ndarray) -> dict:
    return {
        "category_id": CATEGORY["id"],
        "iscrowd": 0,
        "bbox": [float(side) for side in cv2.boundingRect(silhouette)],
        "area": float(np.count_nonzero(silhouette)),
        "keypoints": keypoints.ravel().tolist(),
        "num_keypoints": int(np.count_nonzero(keypoints[:, 2])),
    }


# --- data set ---------------------------------------------------------------------------------

CATEGORY = {
    "id": 1,
    "name": "person",
    "supercategory": "person",
    "keypoints": list(COCO.keypoint_names),
    "skeleton": [[a + 1, b + 1] for a, b in COCO.limbs],  # COCO counts from 1
}


def write_dataset(
    root: str | os.PathLike,
    pictures: Mapping[str, int],
    seed: int = 0,
    picture_hw: tuple[int, int] = (240, 320),
) -> None:
    """Writes a data set in COCO's layout; returns at once where this very set is already there.

    Picture i of a split depends on (seed, split, i) alone: a longer set begins with the shorter.
    The annotations of a split are the last file to appear, and appear whole.

    Args:
      root: gets `annotations/person_keypoints_<split>.json` and `<split>/<12 digits>.jpg`.
      pictures: for each split, its number of pictures.

    Raises:
      FileExistsError: the root holds something else under these names. Nothing is overwritten.
    """
    root = Path(root)
    missing = []
    for split, count in pictures.items():
        info = {
            "description": "People drawn by mspn_jax.data.synthetic",
            "version": "1",  # of the drawing: raise it when the same seed gives other pictures
            "arguments": {"pictures": count, "seed": seed, "picture_hw": list(picture_hw)},
        }
        annotation_file = root / "annotations" / f"person_keypoints_{split}.json"
        if not annotation_file.exists() and not (root / split).exists():
            missing.append((annotation_file, split, info))
        elif not annotation_file.exists() or _info(annotation_file) != info:
            raise FileExistsError(
                f"{root} already holds a {split} that is not the set asked for, {info};"
                " choose another root, or delete it if it was drawn"
            )
    for annotation_file, split, info in missing:
        _write_split(annotation_file, root / split, info)


def _info(annotation_file: Path) -> dict | None:
    return json.loads(annotation_file.read_bytes()).get("info")


def _write_split(annotation_file: Path, folder: Path, info: dict) -> None:
    # Split names are hashed by crc32, as Python's own hash differs from run to run. Ids differ
    # between splits, as in COCO, so that results scored against the wrong split are refused.
    split_key = zlib.crc32(folder.name.encode())
    count, seed, picture_hw = (info["arguments"][k] for k in ("pictures", "seed", "picture_hw"))
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was stopped
    partial.mkdir(parents=True)
    annotation_file.parent.mkdir(exist_ok=True)

    images, annotations = [], []
    for i in range(count):
        rng = np.random.default_rng((seed, split_key, i))
        image_rgb, people = draw_picture(rng, picture_hw)
        image_id = split_key % 1000 * 1_000_000 + i + 1
        file_name = f"{image_id:012d}.jpg"
        quality = (cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(55, 96)))
        # Not imwrite: on a full disk it just returns False.
        (partial / file_name).write_bytes(cv2.imencode(".jpg", image_rgb[..., ::-1], quality)[1])
        images.append({"id": image_id, "file_name": file_name,
                       "width": picture_hw[1], "height": picture_hw[0]})  # fmt: skip
        annotations += [
            {"id": 10 * image_id + n, "image_id": image_id} | person
            for n, person in enumerate(people)
        ]

    content = {"info": info, "images": images, "annotations": annotations, "categories": [CATEGORY]}
    partial_json = annotation_file.with_suffix(".partial")
    partial_json.write_text(json.dumps(content))
    partial.rename(folder)
    partial_json.rename(annotation_file)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws people into COCO's own layout.")
    parser.add_argument("--root", default="data/synthetic")
    parser.add_argument("--train", type=int, default=2500, help="pictures in train2017")
    parser.add_argument("--val", type=int, default=200, help="pictures in val2017")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        write_dataset(args.root, {"train2017": args.train, "val2017": args.val}, args.seed)
    except OSError as error:
        raise SystemExit(f"error: {error}") from None
    print(f"{args.root}: {args.train} pictures in train2017, {args.val} in val2017")


if __name__ == "__main__":
    main()
