"""Ids of the people in a video: the same person has the same id in each frame."""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment

from mspn_jax.evaluation.similarity import keypoint_similarities
from mspn_jax.geometry import intersections_over_union
from mspn_jax.people import NOTHING_FOUND, People
from mspn_jax.skeletons import Skeleton

KEEP_S = 1.0  # an unseen person's id, in seconds
MEMORY_S = 0.5  # a track's sights that a person is compared with
MIN_SIMILARITY = 0.05  # for the same id
MIN_OKS = 0.3  # between detections, of the keypoints to their track
FOUND_SCORE = 0.65  # keypoints with a lower score do not count
VELOCITY_S = 0.4  # the velocity is an average over about this time
DUPLICATE_OKS = 0.9  # above it two people are one, found twice
MARGIN = 0.1  # of a box around keypoints, as a share of its longer side: about that of COCO's boxes
DOUBT_S = 0.5  # after this time a sight's similarity counts half
OKS_SHARE = 0.7  # of the similarity; the rest is IoU
SPREAD_S = 0.2  # an unseen person may be twice as far from the prediction after this time


class Sight(NamedTuple):
    """A person in one frame.

    Attributes:
      weights: of the keypoints, their heatmap peaks; 0 for those that are not found.
    """

    time_s: float
    box_xywh: Float[np.ndarray, "4"]
    box_score: float
    keypoints_image_xy: Float[np.ndarray, "K 2"]
    weights: Float[np.ndarray, "K"]


@dataclasses.dataclass(eq=False)
class Track:
    """A person, as seen until now.

    Attributes:
      first_s: time of the first sight, in seconds.
      velocity_xy: in image pixels a second.
      sights: the last one, and those of MEMORY_S before it. Where people cross, the last may have
        the joints of somebody else.
    """

    id: int
    first_s: float
    velocity_xy: Float[np.ndarray, "2"]
    sights: list[Sight]

    @property
    def last(self) -> Sight:
        return self.sights[-1]

    def see(self, sight: Sight) -> None:
        """Takes the next sight."""
        self.velocity_xy = self._velocity(sight)
        oldest_s = sight.time_s - MEMORY_S
        self.sights = [each for each in self.sights if each.time_s >= oldest_s] + [sight]

    def _velocity(self, sight: Sight) -> Float[np.ndarray, "2"]:
        seconds = sight.time_s - self.last.time_s
        both = (sight.weights > 0) & (self.last.weights > 0)
        if seconds <= 0 or not both.any():
            return self.velocity_xy
        moved_xy = np.median((sight.keypoints_image_xy - self.last.keypoints_image_xy)[both], 0)
        # At first the mean since the first sight.
        weight = max(1 - np.exp(-seconds / VELOCITY_S), seconds / (sight.time_s - self.first_s))
        return self.velocity_xy + weight * (moved_xy / seconds - self.velocity_xy)

    def expected_box_xywh(self, time_s: float) -> Float[np.ndarray, "4"]:
        """A box around the keypoints that were found last, moved on at constant velocity."""
        shift_xy = self.velocity_xy * (time_s - self.last.time_s)
        is_found = self.last.weights > 0
        if not is_found.any():
            return self.last.box_xywh + np.append(shift_xy, (0, 0))
        xy = self.last.keypoints_image_xy[is_found]
        size_wh = np.ptp(xy, axis=0)
        margin = max(1, MARGIN * size_wh.max())
        return np.concatenate([xy.min(0) + shift_xy - margin, size_wh + 2 * margin])


class Tracker:
    """Gives each person of one video or camera an id, frame by frame.

        tracker = Tracker(skeleton)
        for people in finder.stream(frames):
            people = tracker.update(people, people.time_s)

    People are assigned to the tracks so that the sum of their similarities is greatest. The
    similarity is OKS, in which a keypoint counts as much as its heatmap's peak, and, with less
    weight, the boxes' IoU. Of a track's sights, moved on at constant velocity, the most similar
    counts. Who is like no track gets a new id; ids count from 1 and are not used again. Of two
    people with the same joints the lesser is left out.
    """

    def __init__(self, skeleton: Skeleton, *, keep_s: float = KEEP_S):
        """Starts without people. Who is unseen for more than `keep_s` seconds gets a new id."""
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
            people, tracks = self._assigned(people, time_s)
        else:
            people, tracks = self._checked(people, time_s)
        ids = [self._see(people[row], track, time_s) for row, track in enumerate(tracks)]
        self._time_s = time_s
        if people.ids is None:  # between detections nobody has a chance to be found again
            self.tracks = [
                each for each in self.tracks if time_s - each.last.time_s <= self._keep_s
            ]
        return dataclasses.replace(people, ids=np.array(ids, int))

    def _assigned(self, people: People, time_s: float) -> tuple[People, list[Track | None]]:
        """Detected people who are distinct, and the track of each."""
        sights = [(track, sight) for track in self.tracks for sight in track.sights]
        similarities = self._similarities(people, sights, time_s, OKS_SHARE)
        if sights:  # of each track the most similar
            starts = np.cumsum([0, *(len(track.sights) for track in self.tracks[:-1])])
            similarities = np.maximum.reduceat(similarities, starts, axis=1)
        # First, since somebody's second box would take the track of a person behind.
        kept = self._are_distinct(people, similarities.max(1, initial=0))
        columns = assign(similarities[kept])
        return people[kept], [None if each is None else self.tracks[each] for each in columns]

    def _checked(self, people: People, time_s: float) -> tuple[People, list[Track | None]]:
        """People with ids who are distinct and like their tracks, and the tracks.

        Their boxes are made from the last sights: IoU says nothing, but OKS whether somebody else
        walked into one.
        """
        of_id = {track.id: track for track in self.tracks}
        tracks = [of_id[each] for each in np.asarray(people.ids).tolist()]
        sights = [(track, track.last) for track in tracks]
        own = self._similarities(people, sights, time_s, 1.0).diagonal()
        kept = self._are_distinct(people, own) & (own >= MIN_OKS)
        return people[kept], [tracks[row] for row in np.flatnonzero(kept)]

    def expected(self, time_s: float) -> tuple[Float[np.ndarray, "N 5"], Int[np.ndarray, "N"]]:
        """Boxes around the keypoints of the last frame's people, moved on at constant velocity.

        Returns:
          boxes: x, y, width, height in image pixels, and the score of the last detection.
          ids: of the people.
        """
        time_s = max(time_s, self._time_s)
        tracks = [track for track in self.tracks if track.last.time_s == self._time_s]
        boxes = [[*track.expected_box_xywh(time_s), track.last.box_score] for track in tracks]
        return np.array(boxes).reshape(-1, 5), np.array([track.id for track in tracks], int)

    def _see(self, person: People, track: Track | None, time_s: float) -> int:
        """Puts a person's sight into their track, or into a new one; returns the id."""
        sight = Sight(
            time_s,
            person.boxes_xywh[0].astype(float),
            float(person.box_scores[0]),
            person.keypoints_image_xy[0].astype(float),
            _weights(person.keypoint_scores[0]),
        )
        if track is None:
            track = Track(self._next_id, time_s, np.zeros(2), [sight])
            self._next_id += 1
            self.tracks.append(track)
        else:
            track.see(sight)
        return track.id

    def _similarities(
        self,
        people: People,
        sights: list[tuple[Track, Sight]],
        time_s: float,
        oks_share: float,
    ) -> Float[np.ndarray, "N M"]:
        """Of each person to each sight, moved on at its track's velocity."""
        if not len(people) or not sights:
            return np.zeros((len(people), len(sights)))
        unseen_s = time_s - np.array([sight.time_s for _, sight in sights])
        shifts_xy = np.array([track.velocity_xy for track, _ in sights]) * unseen_s[:, None]
        boxes = np.array([sight.box_xywh for _, sight in sights])
        boxes[:, :2] += shifts_xy
        xy = np.array([sight.keypoints_image_xy for _, sight in sights]) + shifts_xy[:, None]
        weights = np.array([sight.weights for _, sight in sights])

        areas = (_areas(people.boxes_xywh)[:, None] + _areas(boxes)) / 2
        oks = self._oks(people, xy, weights, areas * (1 + unseen_s / SPREAD_S) ** 2)
        iou = intersections_over_union(people.boxes_xywh, boxes)
        return (oks_share * oks + (1 - oks_share) * iou) / (1 + unseen_s / DOUBT_S)

    def _oks(
        self,
        people: People,
        others_xy: Float[np.ndarray, "M K 2"],
        weights: Float[np.ndarray, "M K"],
        areas: Float[np.ndarray, "N M"],
    ) -> Float[np.ndarray, "N M"]:
        """OKS over the keypoints that are found of both, weighted; 0 where there are none."""
        xy = people.keypoints_image_xy.astype(float)
        of_keypoints = keypoint_similarities(xy, others_xy, areas, self._oks_sigmas)
        both = np.minimum(weights, _weights(people.keypoint_scores)[:, None])
        return (of_keypoints * both).sum(-1) / np.maximum(np.finfo(float).tiny, both.sum(-1))

    def _are_distinct(
        self, people: People, similarities: Float[np.ndarray, "N"]
    ) -> Bool[np.ndarray, "N"]:
        """False for people whose keypoints are those of another, who is more like a track.

        Of people who are as similar the more confident one is distinct.
        """
        oks = self._oks(
            people,
            people.keypoints_image_xy.astype(float),
            _weights(people.keypoint_scores),
            np.tile(_areas(people.boxes_xywh), (len(people), 1)),
        )
        ranks = similarities + 1e-6 * people.confidences
        is_lesser = ranks[:, None] < ranks
        return np.logical_not(((oks > DUPLICATE_OKS) & is_lesser).any(1))


def _areas(boxes_xywh: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, "N"]:
    return boxes_xywh[:, 2:].prod(1).astype(float)


def _weights(keypoint_scores: Float[np.ndarray, "*N K"]) -> Float[np.ndarray, "*N K"]:
    """Heatmap peaks, 0 for keypoints that are not found."""
    scores = keypoint_scores.astype(float)
    return np.where(scores > FOUND_SCORE, scores - NOTHING_FOUND, 0)


def assign(similarities: Float[np.ndarray, "N M"]) -> list[int | None]:
    """The column of each row that makes the sum greatest; None where nothing is similar."""
    usable = np.where(similarities >= MIN_SIMILARITY, similarities, 0)
    columns: list[int | None] = [None] * len(usable)
    for row, column in zip(*linear_sum_assignment(usable, maximize=True)):
        if usable[row, column]:
            columns[row] = int(column)
    return columns
