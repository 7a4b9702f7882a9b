"""Boxes to evaluate -> batches of crops; and the truth that a split is scored against."""

import dataclasses
import math
import os
from collections.abc import Generator
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8

from mspn_jax import geometry
from mspn_jax.data import pipeline
from mspn_jax.data.annotations import Annotations, lookup
from mspn_jax.data.detections import Detections, read_detections
from mspn_jax.data.records import Records, open_records
from mspn_jax.data.rows import Rows
from mspn_jax.data.schema import some
from mspn_jax.data.validator import read_annotations
from mspn_jax.errors import DataError
from mspn_jax.skeletons import Skeleton


@dataclasses.dataclass(frozen=True)
class Boxes(Rows):
    """Boxes to evaluate, sorted by picture, so that each picture is decoded once.

    Attributes:
      record_indices: into the records.
      image_ids: COCO's.
      boxes_xyxy: image pixels.
      scores: the detector's; 1 for annotated boxes.
    """

    record_indices: Int[np.ndarray, "N"]
    image_ids: Int[np.ndarray, "N"]
    boxes_xyxy: Float[np.ndarray, "N 4"]
    scores: Float[np.ndarray, "N"]


@dataclasses.dataclass(frozen=True)
class EvaluationBatch:
    """Crops of boxes `start` to `start + mask.sum()`; rows where `mask` is False are padding."""

    crops: UInt8[np.ndarray, "B H W 3"]
    mask: Bool[np.ndarray, "*B"]
    start: int


class EvaluationChunks(pipeline.Chunks):
    """Boxes in their order, in chunks of several batches; the last batch is padded with zeros."""

    def __init__(
        self,
        records: Records,
        boxes: Boxes,
        *,
        crop_hw: tuple[int, int],
        batch_size: int,
        padding: float = 1.25,
        num_threads: int = 0,
    ):
        super().__init__(records, crop_hw, num_threads)
        self.boxes = boxes
        self.batch_size = batch_size
        self.people_per_chunk = batch_size * math.ceil(pipeline.CHUNK_PEOPLE / batch_size)
        regions = geometry.crop_regions(boxes.boxes_xyxy, padding, crop_hw)
        self.image_to_crop = geometry.image_to_crop(*regions, 0.0, crop_hw)

    def __len__(self) -> int:
        return math.ceil(len(self.boxes) / self.people_per_chunk)

    def __getitem__(self, chunk: int) -> list[EvaluationBatch]:
        first = chunk * self.people_per_chunk
        count = min(self.people_per_chunk, len(self.boxes) - first)
        num_batches = math.ceil(count / self.batch_size)
        crops = np.zeros((num_batches * self.batch_size, *self.crop_hw, 3), np.uint8)
        rows = slice(first, first + count)
        self.cut_all(
            self.boxes.record_indices[rows], self.image_to_crop[rows], np.zeros(count, bool), crops
        )
        mask = np.arange(len(crops)) < count
        starts = range(0, len(crops), self.batch_size)
        batches = [slice(start, start + self.batch_size) for start in starts]
        return [EvaluationBatch(crops[b], mask[b], first + b.start) for b in batches]


def batches(
    records: Records, boxes: Boxes, **options: Any
) -> Generator[EvaluationBatch, None, None]:
    """Crops of all the boxes, in their order, in batches of one size; each picture decoded once.

    Args:
      options: those of `EvaluationChunks`.
    """
    for batches in pipeline.read_ahead(EvaluationChunks(records, boxes, **options), 0):
        yield from batches


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
    """What to evaluate, and the truth to score it against.

    Attributes:
      annotations: of the split, or of its first people.
    """

    records: Records
    boxes: Boxes
    annotations: Annotations

    @property
    def has_annotations(self) -> bool:
        """False for a split whose results can only be submitted, such as test-dev."""
        return bool(self.annotations.is_person.any())


def open_split(
    *,
    root: str | os.PathLike,
    split: str,
    skeleton: Skeleton,
    first_people: int = 0,
    records_dir: str | os.PathLike = "",
    detections: str | os.PathLike = "",
    box_area_share: float = 0.0,
) -> EvaluationSet:
    """A split with the boxes to evaluate in it.

    Args:
      first_people, records_dir: as in `open_records`.
      detections: a detector's results in COCO's format; without it, the annotated boxes of
        everyone with labelled keypoints. Annotated boxes are clipped to their picture, unless
        the json says otherwise (`fields.clips_boxes`); detected ones are not.
      box_area_share: what of people's boxes is their area in scores; 0: the annotated areas.

    Raises:
      DataError: there are no boxes, or pictures cannot be read: COCO's metrics count every
        picture.
    """
    annotations = read_annotations(root=root, split=split, skeleton=skeleton)
    if box_area_share:
        annotations = annotations.with_areas_of_boxes(box_area_share)
    if detections:
        found = read_detections(detections, annotations.image_ids, annotations.category_id)
    elif not annotations.is_person.any():
        raise DataError(
            f"{split}: has no annotated boxes; a detector's are needed (data.detections)"
        )
    records = open_records(
        root=root,
        split=split,
        skeleton=skeleton,
        first_people=first_people,
        records_dir=records_dir,
        annotations=annotations,
    )
    if records.unreadable:
        raise DataError(
            f"{split}: {len(records.unreadable)} pictures cannot be read, so that the split cannot"
            f" be evaluated: {some(records.unreadable)}. Download them again and delete the split's"
            " records"
        )
    annotations = annotations.first_people(first_people)
    boxes = _detected(found, records) if detections else _annotated(annotations.people(), records)
    if not len(boxes):
        raise DataError(f"{detections}: no box on the pictures of the first {first_people} people")
    return EvaluationSet(records, boxes, annotations)


def _annotated(people: Annotations, records: Records) -> Boxes:
    image_ids = people.image_ids[people.image_rows]
    return _sorted(
        record_indices=lookup(records.image_ids, image_ids),
        image_ids=image_ids,
        boxes_xyxy=people.boxes_xyxy,
        scores=np.ones(len(image_ids)),
    )


def _detected(found: Detections, records: Records) -> Boxes:
    """The boxes on pictures that have a record: with `first_people`, not all."""
    record_indices = lookup(records.image_ids, found.image_ids)
    kept = record_indices >= 0
    found = found[kept]
    return _sorted(
        record_indices=record_indices[kept],
        image_ids=found.image_ids,
        boxes_xyxy=geometry.boxes_xywh_to_xyxy(found.boxes_xywh),
        scores=found.scores,
    )


def _sorted(**columns: Shaped[np.ndarray, "N ..."]) -> Boxes:
    return Boxes(**columns)[np.argsort(columns["record_indices"], kind="stable")]
