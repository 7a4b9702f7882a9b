"""Drawn videos of people who walk, cross, leave and come back, with their true ids."""

import argparse
import copy
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from mspn_jax.data.video_writer import VideoWriter
from mspn_jax.skeletons import COCO
from mspn_jax.synthetic import bodies
from mspn_jax.synthetic.bodies import Body
from mspn_jax.synthetic.canvas import Rng, draw_background, expose
from mspn_jax.synthetic.human import sample_person
from mspn_jax.synthetic.poses import Pose

PER_SECOND = 25
STEP_HZ = 0.9  # of two steps
SEEN_SHARE = 0.15  # of a silhouette's pixels; less is a person that nobody sees


class DrawnFrame(NamedTuple):
    """A picture and the N people in it that can be seen."""

    image_rgb: UInt8[np.ndarray, "H W 3"]
    time_s: float
    ids: Int[np.ndarray, "N"]  # the same number in each frame for the same person
    # Of their silhouettes inside the picture, hidden parts included
    boxes_xywh: Float[np.ndarray, "N 4"]
    # x, y and COCO's visibility: 0 outside, 1 hidden, 2 visible
    keypoints: Float[np.ndarray, "N K 3"]
    seen_shares: Float[np.ndarray, "N"]  # of a silhouette's pixels, those with nobody in front


class Walker(NamedTuple):
    """A person, who walks at constant speed, or to and fro between two places."""

    seed: int  # of the body and its clothes
    stature: float  # as a share of the picture's height
    x: float  # of the hips at the start, as shares of the picture's width and height
    y: float
    speed: float  # statures a second, to the right
    turns_s: tuple[float, ...] = ()  # times at which the person turns round
    phase: float = 0.0  # of the steps, from 0 to 1

    def body(self, time_s: float, picture_hw: tuple[int, int]) -> Body:
        turns = [t for t in self.turns_s if t < time_s]
        times = [0.0, *turns, time_s]
        ways = [(-1) ** i * (b - a) for i, (a, b) in enumerate(itertools.pairwise(times))]
        direction = np.sign(self.speed) * (-1) ** len(turns)
        height, width = picture_hw
        stature = self.stature * height
        at_xy = np.array([self.x * width + self.speed * stature * sum(ways), self.y * height])
        pose = walking_pose(2 * np.pi * (STEP_HZ * time_s + self.phase), direction)
        body = sample_person(np.random.default_rng(self.seed), pose, stature)
        return body._replace(origin_xy=at_xy)


def walking_pose(step: float, direction: float) -> Pose:
    """A moment of walking to the right (1) or to the left (-1), seen from the side."""
    swing = np.sin(step) * np.array([1, -1])  # of the left and of the right leg
    bend = np.maximum(0, np.cos(step) * np.array([1, -1]))  # of a leg that comes forward
    legs = [
        np.array([np.radians(28) * s, 0.05, np.radians(8 + 45 * b)]) for s, b in zip(swing, bend)
    ]
    arms = [np.array([-np.radians(25) * s, 0.15, np.radians(20 + 10 * s), 0.0]) for s in swing]
    return Pose(
        arms=arms,
        legs=legs,
        lean=np.radians(4),
        head=(0.0, 0.0),
        view=direction * np.radians(62),
        pitch=np.radians(5),
        roll=0.0,
    )


def crossing(rng: Rng) -> list[Walker]:
    """Two to four people, who walk through the picture's middle from both sides."""
    walkers = []
    for i in range(rng.integers(2, 5)):
        direction = (-1) ** i
        x = 0.5 - direction * rng.uniform(0.25, 0.45)
        walkers.append(_walker(rng, x, direction * rng.uniform(0.25, 0.6)))
    return walkers


def returning(rng: Rng) -> list[Walker]:
    """Three people, two of whom leave the picture and come back."""
    stays = _walker(rng, 0.5, 0.12)._replace(turns_s=(1.5, 4.5, 7.5))
    leave = [
        _walker(rng, 0.5 + direction * 0.3, direction * 0.5)._replace(turns_s=(rng.uniform(1, 3),))
        for direction in (-1, 1)
    ]
    return [stays, *leave]


def together(rng: Rng) -> list[Walker]:
    """Two people, who walk side by side, and one who overtakes them."""
    x, speed = rng.uniform(0.1, 0.2), rng.uniform(0.25, 0.35)
    first = _walker(rng, x, speed)
    second = _walker(rng, x + 0.1, speed)
    return [first, second, _walker(rng, x - 0.15, 2.2 * speed)]


def _walker(rng: Rng, x: float, speed: float) -> Walker:
    y, stature = rng.uniform(0.5, 0.6), rng.uniform(0.6, 0.8)
    return Walker(int(rng.integers(2**31)), stature, x, y, speed, phase=rng.random())


SCENES = {scene.__name__: scene for scene in (crossing, returning, together)}


def draw_video(
    walkers: Sequence[Walker],
    num_frames: int,
    *,
    seed: int = 0,
    picture_hw: tuple[int, int] = (240, 320),
) -> Iterator[DrawnFrame]:
    """Draws each frame. The larger people are nearer. Walker i has the id i.

    The seed is that of the background and of the camera's flaws.
    """
    background = draw_background(np.random.default_rng(seed), picture_hw)
    for index in range(num_frames):
        time_s = index / PER_SECOND
        canvas = copy.deepcopy(background)
        drawn = []
        for i in np.argsort([walker.stature for walker in walkers]).tolist():
            body = walkers[i].body(time_s, picture_hw)
            drawn.append((i, body, bodies.draw_body(canvas, i, body)))
        of_part = np.array([body for body, _ in canvas.parts])[canvas.top]  # body of each pixel
        ids, boxes, keypoints, shares = [], [], [], []
        for i, body, silhouette in sorted(drawn, key=lambda row: row[0]):
            share = (of_part == i).sum() / max(1, silhouette.sum())
            if share < SEEN_SHARE:
                continue
            inside = bodies.is_inside(body.xy(), picture_hw)
            ids.append(i)
            boxes.append(cv2.boundingRect(silhouette))
            keypoints.append(bodies.annotate(canvas, i, body, inside))
            shares.append(share)
        yield DrawnFrame(
            expose(np.random.default_rng(seed), canvas.image),
            time_s,
            np.array(ids, int),
            np.array(boxes, float).reshape(-1, 4),
            np.array(keypoints, float).reshape(-1, COCO.num_keypoints, 3),
            np.array(shares, float),
        )


def write_video(path: str | os.PathLike, frames: Iterator[DrawnFrame]) -> None:
    """Writes an .mp4."""
    writer = None
    for frame in frames:
        if writer is None:
            writer = VideoWriter(path, frame.image_rgb.shape[:2])
        writer.write(frame.image_rgb, frame.time_s)
    if writer is not None:
        writer.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("data/videos"), help="gets SCENE.mp4")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=8)
    arguments = parser.parse_args()
    arguments.root.mkdir(parents=True, exist_ok=True)
    for name, scene in SCENES.items():
        walkers = scene(np.random.default_rng(arguments.seed))
        frames = draw_video(walkers, round(arguments.seconds * PER_SECOND), seed=arguments.seed)
        write_video(arguments.root / f"{name}.mp4", frames)
