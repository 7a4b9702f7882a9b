"""The people of one picture: a result to annotate the picture with, to write or to pass on."""

import csv
import dataclasses
import io
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8

from mspn_jax.data.coco import PERSON
from mspn_jax.drawing import annotate_people
from mspn_jax.skeletons import Skeleton

KEYPOINT_SCORE_THRESHOLD = 0.2  # keypoints below it do not count in a person's score
NOTHING_FOUND = 0.5  # the keypoint score of an empty heatmap: scores are peaks / 255 + 0.5


def person_scores(
    box_scores: Float[np.ndarray, "N"], keypoint_scores: Float[np.ndarray, "N K"]
) -> Float[np.ndarray, "N"]:
    """Box score times the mean of the keypoint scores above the threshold (0 if there are none)."""
    counted = keypoint_scores > KEYPOINT_SCORE_THRESHOLD
    total = np.where(counted, keypoint_scores, 0).sum(1)
    return box_scores * total / np.maximum(counted.sum(1), 1)


@dataclasses.dataclass(frozen=True, eq=False)
class People:
    """The N people of a picture, each with K keypoints.

        people = mspn_jax.find_people("street.jpg")
        for person in people:  # each is a `People` of length 1
            print(person.boxes_xywh, person.confidences)
        annotated = people.draw()

    Attributes:
      boxes_xywh: in image pixels.
      box_scores: of the detector, from 0 to 1; 1 for a box that was given without a score.
      keypoints_image_xy: in image pixels.
      keypoint_scores: from about 0.5 (no keypoint found) to about 1.5 (certain).
      skeleton: names and limbs of the keypoints.
      person_scores: COCO's score for AP, box score times mean keypoint score. It ranks people, and
        is not a probability: see `confidences`.
      ids: the same number in each frame for the same person; None without tracking.
      image_rgb: the picture; None if it was not kept.
      file_name: of the picture or video; "" for an array.
      frame_index: position in a video or stream, from 0; None for a picture.
      time_s: seconds from the start of a video or stream; None for a picture.
    """

    boxes_xywh: Float[np.ndarray, "N 4"]
    box_scores: Float[np.ndarray, "N"]
    keypoints_image_xy: Float[np.ndarray, "N K 2"]
    keypoint_scores: Float[np.ndarray, "N K"]
    skeleton: Skeleton
    person_scores: Float[np.ndarray, "N"]
    ids: Int[np.ndarray, "N"] | None = None
    image_rgb: UInt8[np.ndarray, "H W 3"] | None = None
    file_name: str = ""
    frame_index: int | None = None
    time_s: float | None = None

    def __len__(self) -> int:
        return len(self.boxes_xywh)

    def __getitem__(
        self, which: int | np.integer | slice | Int[np.ndarray, "M"] | Bool[np.ndarray, "N"]
    ) -> "People":
        """Some of the people, by position: always a `People`, of length 1 for an int."""
        rows = np.arange(len(self))[which].reshape(-1)
        return dataclasses.replace(
            self,
            boxes_xywh=self.boxes_xywh[rows],
            box_scores=self.box_scores[rows],
            keypoints_image_xy=self.keypoints_image_xy[rows],
            keypoint_scores=self.keypoint_scores[rows],
            person_scores=self.person_scores[rows],
            ids=None if self.ids is None else self.ids[rows],
        )

    @property
    def confidences(self) -> Float[np.ndarray, "N"]:
        """From 0 (no keypoint found) to 1 (all certain): box score times mean heatmap peak."""
        peaks = np.clip(self.keypoint_scores - NOTHING_FOUND, 0, 1)
        return self.box_scores * peaks.mean(1)

    def draw(self, image: UInt8[np.ndarray, "H W 3"] | None = None) -> UInt8[np.ndarray, "H W 3"]:
        """An annotated copy of the picture, or of another `image` of the same size.

        Raises:
          ValueError: the picture was not kept, and there is no other.
        """
        image = self.image_rgb if image is None else image
        if image is None:
            raise ValueError("the picture was not kept: give draw() the image")
        labels = [f"{confidence:.2f}" for confidence in self.confidences]
        if self.ids is not None:
            labels = [f"{id} {label}" for id, label in zip(self.ids, labels)]
        return annotate_people(
            image,
            self.keypoints_image_xy,
            self.keypoint_scores,
            self.skeleton,
            boxes_xywh=self.boxes_xywh,
            labels=labels,
            ids=self.ids,
        )

    def to_json(self) -> list[dict[str, Any]]:
        """Entries in COCO's results format, one for each person.

        Beside COCO's keys an entry has `file_name`, `confidence` and, where they are known,
        `frame`, `time` and `id`. It has an `image_id` if the picture's name is a number, as COCO's.
        """
        path = pathlib.PurePath(self.file_name)
        shared: dict[str, Any] = {"file_name": self.file_name}
        if self.frame_index is not None:
            shared |= {"frame": self.frame_index}
        elif path.stem.isdecimal():
            shared |= {"image_id": int(path.stem)}
        if self.time_s is not None:
            shared |= {"time": round(self.time_s, 6)}
        entries = coco_entries(
            self.boxes_xywh, self.keypoints_image_xy, self.keypoint_scores, self.person_scores
        )
        confidences = self.confidences.tolist()
        own = [{"confidence": round(confidence, 4)} for confidence in confidences]
        if self.ids is not None:
            own = [{"id": id} | each for id, each in zip(self.ids.tolist(), own)]
        return [shared | entry | each for entry, each in zip(entries, own)]

    def rows(self) -> list[list[Any]]:
        """The values of `csv_columns` for each person; None for what is not known."""
        triples = np.concatenate([self.keypoints_image_xy, self.keypoint_scores[..., None]], -1)
        ids = [None] * len(self) if self.ids is None else self.ids.tolist()
        confidences = self.confidences.tolist()
        return [
            [
                self.file_name,
                self.frame_index or 0,
                person,
                float(self.person_scores[person]),
                *self.boxes_xywh[person].tolist(),
                *triples[person].ravel().tolist(),
                confidences[person],
                ids[person],
                self.time_s,
            ]
            for person in range(len(self))
        ]

    def to_csv(self) -> str:
        """A table with a header and one line for each person."""
        return csv_lines([csv_columns(self.skeleton), *self.rows()])

    def to_dataframe(self) -> Any:
        """`to_csv` as a `pandas.DataFrame`.

        Raises:
          ImportError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise ImportError("to_dataframe() needs pandas: pip install pandas") from None
        return pandas.DataFrame(self.rows(), columns=csv_columns(self.skeleton))

    def to_supervision(self) -> Mapping[str, Shaped[np.ndarray, "N *K"]]:
        """What `supervision.KeyPoints` takes: `KeyPoints(**people.to_supervision())`.

        Returns:
          xy: (N, K, 2) float32, in image pixels.
          confidence: (N, K) float32, heatmap peaks from 0 to 1.
          class_id: (N,) int, 0 for a person.
        """
        peaks = np.clip(self.keypoint_scores - NOTHING_FOUND, 0, 1)
        return {
            "xy": self.keypoints_image_xy.astype(np.float32),
            "confidence": peaks.astype(np.float32),
            "class_id": np.zeros(len(self), int),
        }


def coco_entries(
    boxes_xywh: Float[np.ndarray, "N 4"],
    keypoints_image_xy: Float[np.ndarray, "N K 2"],
    keypoint_scores: Float[np.ndarray, "N K"],
    scores: Float[np.ndarray, "N"],
    category_id: int = PERSON,
) -> list[dict[str, Any]]:
    """People in COCO's results format, without their image_id.

    A `bbox` is written, as in the reference's results: COCO takes a person's area from it, which
    changes AP and AR of medium and large people.
    """
    triples = np.concatenate([keypoints_image_xy, keypoint_scores[..., None]], -1)
    return [
        {
            "category_id": category_id,
            "keypoints": triples[i].ravel().tolist(),
            "score": float(scores[i]),
            "bbox": boxes_xywh[i].tolist(),
        }
        for i in range(len(triples))
    ]


def csv_columns(skeleton: Skeleton) -> list[str]:
    """The header of a table of people. A picture has the frame 0."""
    columns = ["file_name", "frame", "person", "score", "box_x", "box_y", "box_w", "box_h"]
    for name in skeleton.keypoint_names:
        columns += [f"{name}_x", f"{name}_y", f"{name}_score"]
    return [*columns, "confidence", "id", "time"]


def csv_lines(rows: Iterable[list[Any]]) -> str:
    """Lines of csv; floats with 8 digits, None as an empty field."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    for row in rows:
        writer.writerow([f"{x:.8g}" if isinstance(x, float) else x for x in row])
    return text.getvalue()
