"""Frames -> people: a detector, a network, and what follows people from frame to frame."""

import collections
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from mspn_jax.data.pictures import Frame, Source
from mspn_jax.detector import Detector
from mspn_jax.frame_boxes import Boxes, are_usable, given_boxes, usable
from mspn_jax.people import People, person_scores
from mspn_jax.predictor import Predictor

if TYPE_CHECKING:
    from mspn_jax.following import Follower

MODEL, DETECTOR = "mspn50", "yolox_s"
MIN_SCORE = 0.1  # of a detected person's confidence
TOGETHER = 4  # pictures whose people share batches; 1 for a camera, which must not lag

Detect = Callable[  # such as a Detector
    [UInt8[np.ndarray, "H W 3"]], tuple[Float[np.ndarray, "N 4"], Float[np.ndarray, "N"]]
]


class PeopleFinder:
    """Finds the people of pictures. Make one, and use it for many.

        finder = PeopleFinder.load("mspn50", "yolox_s")
        people = finder(image_rgb)
        for people in finder.stream(frames):
            ...

    Attributes:
      predictor: the network.
      detector: image_rgb -> (boxes_xywh, scores); None: each picture is one person's box.
      min_score: people that were detected and have a lower `People.confidences` are left out. Of
        people whose boxes are given nobody is left out.
    """

    def __init__(
        self, predictor: Predictor, detector: Detect | None, *, min_score: float = MIN_SCORE
    ):
        self.predictor = predictor
        self.detector = detector
        self.min_score = min_score

    @classmethod
    def load(
        cls,
        model: str | os.PathLike | Predictor = MODEL,
        detector: str | os.PathLike | Detect | None = DETECTOR,
        *,
        min_score: float = MIN_SCORE,
        flip_test: bool = True,
        num_stages: int | None = None,
        dtype: Any = jnp.float32,
        decoding: str = "quarter",
        backend: str | None = None,
    ) -> "PeopleFinder":
        """Loads what is named; published names are fetched once.

        Args:
          model: what `Predictor.load` takes, or a Predictor.
          detector: what `Detector.load` takes, or a function like a Detector. None: each picture is
            one person's box.
          min_score: see the class.
          flip_test, num_stages, dtype, decoding, backend: as in `Predictor.load`.
        """
        if not isinstance(model, Predictor):
            model = Predictor.load(
                model,
                flip_test,
                num_stages=num_stages,
                dtype=dtype,
                decoding=decoding,
                backend=backend,
            )
        if isinstance(detector, str | os.PathLike):
            detector = load_detector(detector)
        return cls(model, detector, min_score=min_score)

    def __call__(self, image_rgb: UInt8[np.ndarray, "H W 3"], boxes: Boxes | None = None) -> People:
        """The people of one picture, in a detector's order or in that of `boxes`.

        Args:
          boxes: as in `find_people`.

        Raises:
          DataError: `boxes` are none.
          ValueError: the picture is not (H, W, 3) uint8.
        """
        return next(self.stream([Frame(Source("", ""), image_rgb)], boxes))

    def stream(
        self,
        frames: Iterable[Frame],
        boxes: Boxes | None = None,
        *,
        together: int = TOGETHER,
        track: bool = False,
        detect_every: int = 1,
        smooth: bool = False,
    ) -> Iterator[People]:
        """The people of each frame, in order. The next frames are read while the device computes.

        Args:
          boxes: as in `find_people`; by default the detector finds them.
          together: the number of successive pictures whose people share batches; 1 for a camera.
          track, detect_every, smooth: as in `find_people`. With `detect_every` above 1 a frame is
            done before the next is read.

        Raises:
          ValueError: `detect_every` is below 1, or above 1 without a detector.
        """
        if detect_every < 1:
            raise ValueError(f"detect_every is {detect_every}, and must be at least 1")
        if detect_every > 1 and (boxes is not None or self.detector is None):
            raise ValueError("detect_every needs a detector, but says how often it is used")
        if not track and not smooth and detect_every == 1:
            return self._pipelined(frames, boxes, together)
        from mspn_jax.following import Follower  # loads scipy.optimize, which takes 0.4 s

        follower = Follower(self.predictor.skeleton, smooth=smooth)
        if detect_every > 1:
            return self._following(frames, detect_every, follower)
        return map(follower.name, self._pipelined(frames, boxes, together))

    def _pipelined(
        self, frames: Iterable[Frame], boxes: Boxes | None, together: int
    ) -> Iterator[People]:
        boxes_of = self._detected if boxes is None else given_boxes(boxes)
        min_score = self.min_score if boxes is None and self.detector else 0.0
        in_flight: collections.deque[tuple[Frame, Float[np.ndarray, "_ 5"]]] = collections.deque()

        # The boxes of the next frames are found before the keypoints of this one are there.
        def pairs() -> Iterator[tuple[UInt8[np.ndarray, "_ _ 3"], Float[np.ndarray, "_ 4"]]]:
            for frame in frames:
                found = usable(frame, boxes_of(frame))
                in_flight.append((frame, found))
                yield frame.image, found[:, :4]

        for keypoints_image_xy, keypoint_scores in self.predictor.stream(pairs(), together):
            frame, found = in_flight.popleft()
            people = self._people(frame, found, keypoints_image_xy, keypoint_scores)
            yield people[people.confidences >= min_score]

    def _following(
        self, frames: Iterable[Frame], detect_every: int, follower: "Follower"
    ) -> Iterator[People]:
        """Takes boxes from the last frame's keypoints between two detections."""
        for frame in frames:
            if frame.index is None or frame.index % detect_every == 0:
                boxes, ids = usable(frame, self._detected(frame)), None
            else:
                boxes, ids = follower.expected(frame)
                inside = are_usable(frame, boxes)  # a person who leaves the picture is not
                boxes, ids = boxes[inside], ids[inside]
            people = self._people(frame, boxes, *self.predictor(frame.image, boxes[:, :4]))
            people = dataclasses.replace(people, ids=ids)
            yield follower.name(people[people.confidences >= self.min_score])

    def _detected(self, frame: Frame) -> Float[np.ndarray, "N 5"]:
        if self.detector is None:
            return np.array([(0, 0, *frame.image.shape[1::-1], 1)], np.float64)
        return np.column_stack(self.detector(frame.image)).astype(np.float64)

    def _people(
        self,
        frame: Frame,
        boxes: Float[np.ndarray, "N 5"],
        keypoints_image_xy: Float[np.ndarray, "N K 2"],
        keypoint_scores: Float[np.ndarray, "N K"],
    ) -> People:
        return People(
            boxes_xywh=boxes[:, :4],
            box_scores=boxes[:, 4],
            keypoints_image_xy=keypoints_image_xy,
            keypoint_scores=keypoint_scores,
            skeleton=self.predictor.skeleton,
            person_scores=person_scores(boxes[:, 4], keypoint_scores),
            image_rgb=frame.image,
            file_name=frame.source.name,
            frame_index=frame.index,
            time_s=frame.time_s,
        )


def load_detector(name: str | os.PathLike, **options: Any) -> Detect:
    return Detector.load(name, **options)


def together_for(sources: Iterable[Source]) -> int:
    """How many pictures share batches: 1 if one of the sources is live, which must not lag."""
    return 1 if any(source.is_live for source in sources) else TOGETHER
