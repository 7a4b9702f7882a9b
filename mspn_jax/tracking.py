"""Ids of the people in a video: the same person has the same id in each frame."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment

from mspn_jax.evaluation.similarity import keypoint_similarities
from mspn_jax.people import People
from mspn_jax.skeletons import Skeleton

KEEP_S = 1.0  # an unseen person's id, in seconds
MIN_SIMILARITY = 0.2  # of the mean of OKS and IoU, for the same id
FOUND_SCORE = 0.55  # keypoints with a lower score do not count
VELOCITY_S = 0.15  # the velocity is an average over about this time
SPREAD_S = 0.2  # an unseen person may be twice as far from the prediction after this time


@dataclasses.dataclass
class Track:
    """A person, as last seen.

    Attributes:
      first_s, last_s: times of the first and the last sight, in seconds.
      velocity_xy: in image pixels a second.
    """

    id: int
    first_s: float
    last_s: float
    box_xywh: Float[np.ndarray, "4"]
    keypoints_image_xy: Float[np.ndarray, "K 2"]
    is_found: Bool[np.ndarray, "K"]
    velocity_xy: Float[np.ndarray, "2"]

    def shift_xy(self, time_s: float) -> Float[np.ndarray, "2"]:
        """How far the person has moved since the last sight, at constant velocity."""
        return self.velocity_xy * (time_s - self.last_s)

    def is_kept(self, time_s: float, keep_s: float) -> bool:
        """Whether the person may still come back: for as long as it was seen, at most `keep_s`."""
        unseen_s = time_s - self.last_s
        return unseen_s <= min(keep_s, self.last_s - self.first_s) + 1e-6


class Tracker:
    """Gives each person of one video or camera an id, frame by frame.

        tracker = Tracker(skeleton)
        for people in finder.stream(frames):
            ids = tracker.update(people, people.time_s)

    People are assigned to the tracks so that the sum of their similarities is greatest. The
    similarity is the mean of OKS and of the boxes' IoU, with the track moved on at constant
    velocity. Who is like no track gets a new id; ids count from 1 and are not used again.
    """

    def __init__(self, skeleton: Skeleton, *, keep_s: float = KEEP_S):
        """Starts without people.

        Args:
          keep_s: a person who is unseen for longer gets a new id.
        """
        self._oks_sigmas = skeleton.oks_sigmas
        self._keep_s = keep_s
        self._next_id = 1
        self.tracks: list[Track] = []

    def update(self, people: People, time_s: float) -> Int[np.ndarray, "N"]:
        """Takes the people of the next frame, and returns their ids.

        Args:
          time_s: rises from frame to frame.
        """
        self.tracks = [track for track in self.tracks if track.is_kept(time_s, self._keep_s)]
        similarities = self._similarities(people, time_s)
        rows, columns = linear_sum_assignment(
            np.where(similarities >= MIN_SIMILARITY, similarities, 0), maximize=True
        )
        track_of = {
            row: self.tracks[column]
            for row, column in zip(rows.tolist(), columns.tolist())
            if similarities[row, column] >= MIN_SIMILARITY
        }
        return self.see(people, time_s, [track_of.get(row) for row in range(len(people))])

    def see(
        self, people: People, time_s: float, tracks: list[Track | None]
    ) -> Int[np.ndarray, "N"]:
        """Takes people whose tracks are known, None for a new one; returns their ids."""
        ids = []
        for row, track in enumerate(tracks):
            box = people.boxes_xywh[row].astype(float)
            xy = people.keypoints_image_xy[row].astype(float)
            is_found = people.keypoint_scores[row] > FOUND_SCORE
            if track is None:
                track = Track(self._next_id, time_s, time_s, box, xy, is_found, np.zeros(2))
                self.tracks.append(track)
                self._next_id += 1
            else:
                _move(track, time_s, box, xy, is_found)
            ids.append(track.id)
        return np.array(ids, int)

    def _similarities(self, people: People, time_s: float) -> Float[np.ndarray, "N M"]:
        """Of each person to each track."""
        if not len(people) or not self.tracks:
            return np.zeros((len(people), len(self.tracks)))
        shifts_xy = np.array([track.shift_xy(time_s) for track in self.tracks])
        boxes = np.array([track.box_xywh for track in self.tracks])
        xy = np.array([track.keypoints_image_xy for track in self.tracks])
        is_found = np.array([track.is_found for track in self.tracks])
        unseen_s = time_s - np.array([track.last_s for track in self.tracks])

        areas = boxes[:, 2] * boxes[:, 3] * (1 + unseen_s / SPREAD_S) ** 2
        of_keypoints = keypoint_similarities(
            people.keypoints_image_xy.astype(float),
            xy + shifts_xy[:, None],
            areas,
            self._oks_sigmas,
        )
        counted = is_found & (people.keypoint_scores > FOUND_SCORE)[:, None]
        oks = (of_keypoints * counted).sum(-1) / np.maximum(1, counted.sum(-1))
        boxes[:, :2] += shifts_xy
        return (oks + intersections_over_union(people.boxes_xywh.astype(float), boxes)) / 2


def _move(
    track: Track,
    time_s: float,
    box_xywh: Float[np.ndarray, "4"],
    keypoints_image_xy: Float[np.ndarray, "K 2"],
    is_found: Bool[np.ndarray, "K"],
) -> None:
    """Sees a track's person again."""
    seconds = time_s - track.last_s
    both = is_found & track.is_found
    if seconds > 0 and both.any():
        moved_xy = (keypoints_image_xy - track.keypoints_image_xy)[both].mean(0)
        is_second_sight = track.first_s == track.last_s
        weight = 1.0 if is_second_sight else 1 - np.exp(-seconds / VELOCITY_S)
        track.velocity_xy = track.velocity_xy + weight * (moved_xy / seconds - track.velocity_xy)
    track.last_s, track.box_xywh = time_s, box_xywh
    track.keypoints_image_xy, track.is_found = keypoints_image_xy, is_found


def intersections_over_union(
    boxes_xywh: Float[np.ndarray, "N 4"], others_xywh: Float[np.ndarray, "M 4"]
) -> Float[np.ndarray, "N M"]:
    """IoU of each box with each of the others."""
    top_left = np.maximum(boxes_xywh[:, None, :2], others_xywh[:, :2])
    ends, other_ends = (b[:, :2] + b[:, 2:] for b in (boxes_xywh, others_xywh))
    common = np.maximum(0, np.minimum(ends[:, None], other_ends) - top_left).prod(-1)
    areas, other_areas = (b[:, 2:].prod(-1) for b in (boxes_xywh, others_xywh))
    return common / (areas[:, None] + other_areas - common)
