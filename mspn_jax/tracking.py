"""Ids of the people in a video: the same person has the same id in each frame."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment

from mspn_jax.evaluation.similarity import keypoint_similarities
from mspn_jax.geometry import intersections_over_union
from mspn_jax.people import People
from mspn_jax.skeletons import Skeleton

KEEP_S = 1.0  # an unseen person's id, in seconds
MIN_SIMILARITY = 0.15  # for the same id
MIN_OKS = 0.3  # between detections, of the keypoints to their track
FOUND_SCORE = 0.65  # keypoints with a lower score do not count
VELOCITY_S = 0.4  # the velocity is an average over about this time
DUPLICATE_OKS = 0.9  # above it two people are one, found twice
MARGIN = 0.1  # of a box around keypoints, as a share of its longer side: about that of COCO's boxes
NEW_S = 0.2  # a person seen for less may be unseen for this long
DOUBT_S = 0.5  # after this time unseen the similarity counts half
OKS_SHARE = 0.7  # of the similarity; the rest is IoU
SPREAD_S = 0.2  # an unseen person may be twice as far from the prediction after this time


@dataclasses.dataclass(eq=False)
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
    box_score: float
    keypoints_image_xy: Float[np.ndarray, "K 2"]
    is_found: Bool[np.ndarray, "K"]
    velocity_xy: Float[np.ndarray, "2"]

    def shift_xy(self, time_s: float) -> Float[np.ndarray, "2"]:
        """How far the person has moved since the last sight, at constant velocity."""
        return self.velocity_xy * (time_s - self.last_s)

    def expected_box_xywh(self, time_s: float) -> Float[np.ndarray, "4"]:
        """A box around the keypoints that were found, moved on."""
        if not self.is_found.any():
            return self.box_xywh + np.append(self.shift_xy(time_s), (0, 0))
        xy = self.keypoints_image_xy[self.is_found]
        size_wh = np.ptp(xy, axis=0)
        margin = max(1, MARGIN * size_wh.max())
        return np.concatenate([xy.min(0) + self.shift_xy(time_s) - margin, size_wh + 2 * margin])

    def keep_s(self, most_s: float) -> float:
        """Seconds for which the person may be unseen: as long as it was seen, at most `most_s`.

        So a false detection does not become a person who appears there later.
        """
        return min(most_s, max(NEW_S, self.last_s - self.first_s))


class Tracker:
    """Gives each person of one video or camera an id, frame by frame.

        tracker = Tracker(skeleton)
        for people in finder.stream(frames):
            people = tracker.update(people, people.time_s)

    People are assigned to the tracks so that the sum of their similarities is greatest. The
    similarity is OKS and, with less weight, the boxes' IoU, after the track has moved on at
    constant velocity. Who is like no track gets a new id; ids count from 1 and are not used again.
    Of two people with the same joints the lesser is left out.
    """

    def __init__(self, skeleton: Skeleton, *, keep_s: float = KEEP_S):
        """Starts without people.

        Args:
          keep_s: a person who is unseen for longer gets a new id.
        """
        self._oks_sigmas = skeleton.oks_sigmas
        self._keep_s = keep_s
        self._next_id = 1
        self._time_s = -np.inf
        self.tracks: list[Track] = []

    def update(self, people: People, time_s: float) -> People:
        """Takes the people of the next frame, and returns them with ids.

        Args:
          people: without ids; or, if their boxes are those of `expected`, with its ids. Then those
            whose keypoints are not like their track's are left out.
          time_s: rises from frame to frame; a damaged video's that falls counts as the last one.
        """
        time_s = max(time_s, self._time_s)
        if people.ids is None:
            similarities = self._similarities(people, time_s, OKS_SHARE)
            columns: list[int | None] = assign(similarities)
        else:
            # The boxes are made from the tracks: IoU says nothing, but OKS whether somebody else
            # walked into one.
            similarities = self._similarities(people, time_s, 1.0)
            known = [track.id for track in self.tracks]
            columns = [known.index(each) for each in people.ids.tolist()]
        own = [0 if column is None else similarities[i, column] for i, column in enumerate(columns)]
        kept = self._are_distinct(people, np.array(own) + 1e-6 * people.confidences)
        if people.ids is not None:
            kept &= np.array(own) >= MIN_OKS
        people, columns = people[kept], [columns[row] for row in np.flatnonzero(kept)]
        tracks = [None if column is None else self.tracks[column] for column in columns]
        ids = [self._see(people[row], track, time_s) for row, track in enumerate(tracks)]
        self._time_s = time_s
        if people.ids is None:  # between detections nobody has a chance to be found again
            self.tracks = [
                each for each in self.tracks if time_s - each.last_s <= each.keep_s(self._keep_s)
            ]
        return dataclasses.replace(people, ids=np.array(ids, int))

    def expected(self, time_s: float) -> tuple[Float[np.ndarray, "N 5"], Int[np.ndarray, "N"]]:
        """Boxes around the keypoints of the last frame's people, moved on at constant velocity.

        Returns:
          boxes: x, y, width, height in image pixels, and the score of the last detection.
          ids: of the people.
        """
        time_s = max(time_s, self._time_s)
        tracks = [track for track in self.tracks if track.last_s == self._time_s]
        boxes = [[*track.expected_box_xywh(time_s), track.box_score] for track in tracks]
        return np.array(boxes).reshape(-1, 5), np.array([track.id for track in tracks], int)

    def _see(self, person: People, track: Track | None, time_s: float) -> int:
        """Puts a person's sight into their track, or into a new one; returns the id."""
        sight = Track(
            id=self._next_id if track is None else track.id,
            first_s=time_s if track is None else track.first_s,
            last_s=time_s,
            box_xywh=person.boxes_xywh[0].astype(float),
            box_score=float(person.box_scores[0]),
            keypoints_image_xy=person.keypoints_image_xy[0].astype(float),
            is_found=person.keypoint_scores[0] > FOUND_SCORE,
            velocity_xy=np.zeros(2) if track is None else track.velocity_xy,
        )
        if track is None:
            self._next_id += 1
            self.tracks.append(sight)
        else:
            sight.velocity_xy = _velocity(track, sight)
            self.tracks[self.tracks.index(track)] = sight
        return sight.id

    def _similarities(
        self, people: People, time_s: float, oks_share: float
    ) -> Float[np.ndarray, "N M"]:
        """Of each person to each track."""
        if not len(people) or not self.tracks:
            return np.zeros((len(people), len(self.tracks)))
        shifts_xy = np.array([track.shift_xy(time_s) for track in self.tracks])
        boxes = np.array([track.box_xywh for track in self.tracks])
        xy = np.array([track.keypoints_image_xy for track in self.tracks])
        is_found = np.array([track.is_found for track in self.tracks])
        unseen_s = time_s - np.array([track.last_s for track in self.tracks])

        areas = boxes[:, 2] * boxes[:, 3] * (1 + unseen_s / SPREAD_S) ** 2
        oks = self._oks(people, xy + shifts_xy[:, None], is_found, areas)
        boxes[:, :2] += shifts_xy
        iou = intersections_over_union(people.boxes_xywh, boxes)
        similarity = oks_share * oks + (1 - oks_share) * iou
        return similarity / (1 + unseen_s / DOUBT_S)

    def _oks(
        self,
        people: People,
        others_xy: Float[np.ndarray, "M K 2"],
        are_found: Bool[np.ndarray, "M K"],
        areas: Float[np.ndarray, "M"],
    ) -> Float[np.ndarray, "N M"]:
        """OKS over the keypoints that are found of both; 0 where there are none."""
        xy = people.keypoints_image_xy.astype(float)
        of_keypoints = keypoint_similarities(xy, others_xy, areas, self._oks_sigmas)
        counted = are_found & (people.keypoint_scores > FOUND_SCORE)[:, None]
        return (of_keypoints * counted).sum(-1) / np.maximum(1, counted.sum(-1))

    def _are_distinct(
        self, people: People, similarities: Float[np.ndarray, "N"]
    ) -> Bool[np.ndarray, "N"]:
        """False for people whose keypoints are those of another, who is more like its own track."""
        oks = self._oks(
            people,
            people.keypoints_image_xy.astype(float),
            people.keypoint_scores > FOUND_SCORE,
            people.boxes_xywh[:, 2:].prod(-1).astype(float),
        )
        is_lesser = similarities[:, None] < similarities
        return np.logical_not(((oks > DUPLICATE_OKS) & is_lesser).any(1))


def assign(similarities: Float[np.ndarray, "N M"]) -> list[int | None]:
    """The column of each row that makes the sum greatest; None where nothing is similar."""
    usable = np.where(similarities >= MIN_SIMILARITY, similarities, 0)
    columns: list[int | None] = [None] * len(usable)
    for row, column in zip(*linear_sum_assignment(usable, maximize=True)):
        if usable[row, column]:
            columns[row] = int(column)
    return columns


def _velocity(last: Track, now: Track) -> Float[np.ndarray, "2"]:
    seconds = now.last_s - last.last_s
    both = now.is_found & last.is_found
    if seconds <= 0 or not both.any():
        return last.velocity_xy
    moved_xy = np.median((now.keypoints_image_xy - last.keypoints_image_xy)[both], 0)
    # At first the mean since the first sight.
    weight = max(1 - np.exp(-seconds / VELOCITY_S), seconds / (now.last_s - last.first_s))
    return last.velocity_xy + weight * (moved_xy / seconds - last.velocity_xy)
