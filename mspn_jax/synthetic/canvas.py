"""The picture that bodies are drawn on: background, objects, parts in order, a camera's flaws."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

Rng = np.random.Generator
Color = Float[np.ndarray, "3"]  # RGB, 0..255

CIRCLE = np.stack([f(np.arange(16) * np.pi / 8) for f in (np.cos, np.sin)], axis=-1)
SUBPIXEL_BITS = 4  # OpenCV draws polygons in fixed point
NOBODY = -1


class Canvas:
    """A picture, and for each pixel the number of the part on top (0: the background)."""

    def __init__(self, image: UInt8[np.ndarray, "H W 3"]):
        self.image = image
        self.top = np.zeros(image.shape[:2], np.uint16)
        self.parts: list[tuple[int, Sequence[str]]] = [(NOBODY, ())]  # body, keypoints on it

    def add_part(self, body: int = NOBODY, shows: Sequence[str] = ()) -> None:
        self.parts.append((body, shows))

    def fill(
        self,
        centers_xy: Float[np.ndarray, "N 2"],
        radii: Float[np.ndarray, " N"],
        color: Color,
        edge: float,
    ) -> None:
        """Adds the hull of circles to the newest part; its outline is `edge` times as bright."""
        circles = centers_xy[:, None] + radii[:, None, None] * CIRCLE
        fixed_point = np.rint(circles.reshape(-1, 2) * 2**SUBPIXEL_BITS).astype(np.int32)
        hull = cv2.convexHull(fixed_point)
        cv2.fillConvexPoly(self.image, hull, color, cv2.LINE_AA, SUBPIXEL_BITS)
        if len(radii) > 1:  # an outline would swallow an eye
            cv2.polylines(self.image, [hull], True, edge * color, 1, cv2.LINE_AA, SUBPIXEL_BITS)
        cv2.fillConvexPoly(self.top, hull, len(self.parts) - 1, cv2.LINE_8, SUBPIXEL_BITS)

    def silhouette(self, first_part: int) -> UInt8[np.ndarray, "H W"]:
        """1 where this part or a later one is on top, else 0."""
        return (self.top >= first_part).view(np.uint8)

    def is_shown(self, body: int, keypoint: str, xy: Float[np.ndarray, "2"]) -> bool:
        on_top, shows = self.parts[self.top[round(xy[1]), round(xy[0])]]
        return on_top == body and keypoint in shows


def sample_color(rng: Rng) -> Color:
    gray, tint = rng.uniform(0, 255), rng.uniform(0, 255, 3)
    return gray + rng.random() * (tint - gray)


def draw_object(rng: Rng, canvas: Canvas, center_xy: Float[np.ndarray, "2"], size: float) -> None:
    """Draws a disc, a stick, or a polygon with round corners, about `size` pixels large."""
    num_corners = rng.integers(1, 6)
    radius = size * (0.4 if num_corners == 1 else rng.uniform(0.02, 0.12))
    corners_xy = center_xy + rng.normal(0, 0.4 * size, (num_corners, 2))
    canvas.add_part()
    canvas.fill(corners_xy, np.full(num_corners, radius), sample_color(rng), rng.uniform(0.6, 1))


def draw_background(rng: Rng, picture_hw: tuple[int, int]) -> Canvas:
    """A canvas with soft light, a rough texture, and objects, some of them like limbs."""
    height, width = picture_hw
    rough_hw = (height // 6, width // 6)
    light = rng.uniform(20, 235) + rng.normal(0, 35, (3, 4, 1)) + rng.normal(0, 12, (3, 4, 3))
    image = cv2.resize(light, rough_hw[::-1], interpolation=cv2.INTER_CUBIC)
    image += rng.normal(0, 20, 3) + rng.normal(0, rng.uniform(0, 14), (*rough_hw, 1))
    canvas = Canvas(cv2.resize(image.clip(0, 255).astype(np.uint8), (width, height)))
    for _ in range(rng.integers(0, 8)):
        draw_object(rng, canvas, rng.uniform((0, 0), (width, height)), rng.uniform(10, 110))
    return canvas


def expose(rng: Rng, image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """Applies a camera's contrast, brightness, blur and noise."""
    image = cv2.convertScaleAbs(image, alpha=rng.uniform(0.7, 1.0), beta=rng.uniform(0, 60))
    if rng.random() < 0.4:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.1))
    noise = int(rng.integers(0, 10))
    grains = rng.integers(0, 2 * noise + 1, image.shape, np.uint8)
    return cv2.subtract(cv2.add(image, grains), (noise, noise, noise, 0))


def is_inside(xy: Float[np.ndarray, "N 2"], picture_hw: tuple[int, int]) -> Bool[np.ndarray, " N"]:
    return ((xy >= 0) & (xy <= (picture_hw[1] - 1, picture_hw[0] - 1))).all(axis=1)
