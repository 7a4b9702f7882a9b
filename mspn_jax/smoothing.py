"""Smooths keypoints over time with the One-Euro filter.

Source: Casiez, Roussel and Vogel, "1€ Filter", CHI 2012. A slow keypoint is smoothed much, which
removes its jitter; a fast one little, so that it does not lag.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from mspn_jax.people import People
from mspn_jax.tracking import FOUND_SCORE

SLOW_HZ = 1.5  # cutoff frequency of a keypoint at rest
RISE_HZ = 8.0  # added for each stature a second; a stature is the longer side of the box
SPEED_HZ = 2.0  # cutoff frequency of the speed itself
FORGET_S = 1.0  # the filter of a person who was unseen for longer starts again


class _Filter(NamedTuple):
    time_s: float
    xy: Float[np.ndarray, "K 2"]
    speed_xy: Float[np.ndarray, "K 2"]  # pixels a second
    is_found: Bool[np.ndarray, "K"]


class Smoother:
    """Smooths the keypoints of one video or camera, frame by frame, for each id."""

    def __init__(self) -> None:
        self._filters: dict[int, _Filter] = {}

    def update(self, people: People, time_s: float) -> Float[np.ndarray, "N K 2"]:
        """The people's `keypoints_image_xy`, smoothed.

        Keypoints that are not found, and the first that are found after them, stay as they are.

        Args:
          people: with ids.
          time_s: rises from frame to frame.
        """
        smooth = people.keypoints_image_xy.copy()
        for row, person in enumerate([] if people.ids is None else people.ids.tolist()):
            xy = people.keypoints_image_xy[row].astype(float)
            is_found = people.keypoint_scores[row] > FOUND_SCORE
            last = self._filters.get(person)
            if last is None or not 0 < time_s - last.time_s <= FORGET_S:
                last = _Filter(time_s, xy, np.zeros_like(xy), is_found)
            else:
                last = _step(last, time_s, xy, is_found, people.boxes_xywh[row, 2:].max())
            self._filters[person] = last
            smooth[row] = last.xy
        self._filters = {
            person: each
            for person, each in self._filters.items()
            if time_s - each.time_s <= FORGET_S
        }
        return smooth


def _step(
    last: _Filter,
    time_s: float,
    xy: Float[np.ndarray, "K 2"],
    is_found: Bool[np.ndarray, "K"],
    stature: float | np.floating,
) -> _Filter:
    seconds = time_s - last.time_s
    is_smooth = (is_found & last.is_found)[:, None]
    speed_xy = (xy - last.xy) / seconds
    speed_xy = last.speed_xy + _weight(SPEED_HZ, seconds) * (speed_xy - last.speed_xy)
    speed_xy = np.where(is_smooth, speed_xy, 0)
    speeds = np.linalg.norm(speed_xy, axis=-1, keepdims=True) / stature
    weights = np.where(is_smooth, _weight(SLOW_HZ + RISE_HZ * speeds, seconds), 1)
    return _Filter(time_s, last.xy + weights * (xy - last.xy), speed_xy, is_found)


def _weight(cutoff_hz, seconds: float):
    """Of the new value, in a low-pass filter of first order."""
    rate = 2 * np.pi * cutoff_hz * seconds
    return rate / (rate + 1)
