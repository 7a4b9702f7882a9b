"""Follows people through frames: ids, boxes between detections, smooth keypoints."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from mspn_jax.data.pictures import Frame
from mspn_jax.data.video import DEFAULT_PER_SECOND
from mspn_jax.people import People
from mspn_jax.skeletons import Skeleton
from mspn_jax.smoothing import Smoother
from mspn_jax.tracking import Tracker


class Follower:
    """Names the people of videos, one video after another.

    Each source has a tracker of its own. Pictures, which have no frame index, get no ids.
    """

    def __init__(self, skeleton: Skeleton, *, smooth: bool = False):
        """Follows nobody yet. With `smooth` the keypoints are smoothed, too."""
        self._skeleton = skeleton
        self._smooth = smooth
        self._source: str | None = None

    def _enter(self, source: str) -> None:
        if source != self._source:
            self._source = source
            self._tracker = Tracker(self._skeleton)
            self._smoother = Smoother()

    def expected(self, frame: Frame) -> tuple[Float[np.ndarray, "N 5"], Int[np.ndarray, "N"]]:
        """Boxes around the people of the last frame, moved on.

        Returns:
          boxes: x, y, width, height in image pixels, and the score of the last detection.
          ids: of the people.
        """
        self._enter(frame.source.name)
        return self._tracker.expected(_time(frame.index, frame.time_s))

    def name(self, people: People) -> People:
        """The people of the next frame, with ids; those that have ids are known to be tracked."""
        self._enter(people.file_name)
        if people.frame_index is None:
            return people
        time_s = _time(people.frame_index, people.time_s)
        people = self._tracker.update(people, time_s)
        if not self._smooth:
            return people
        smooth_xy = self._smoother.update(people, time_s)
        return dataclasses.replace(people, keypoints_image_xy=smooth_xy)


def _time(index: int | None, time_s: float | None) -> float:
    return (index or 0) / DEFAULT_PER_SECOND if time_s is None else time_s
