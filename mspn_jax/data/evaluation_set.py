"""Boxes to evaluate -> batches of crops, and what a split has to be scored against."""

import dataclasses
import math
import os
import pathlib
from collections.abc import Generator

import numpy as np
from jaxtyping import Float, Int, UInt8

from mspn_jax import geometry
from mspn_jax.data import pipeline
from mspn_jax.data.coco import annotation_file, read_category, read_pictures, some
from mspn_jax.data.detections import read_detections
from mspn_jax.data.records import Records, open_records
from mspn_jax.errors import DataError
from mspn_jax.skeletons import Skeleton

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Boxes:
    """Boxes to evaluate, sorted by picture, so that each picture is decoded once.

    Attributes:
      record_indices: (N,) int, into the records.
      image_ids: (N,) int64, COCO's.
      boxes_xyxy: (N, 4) float32, image pixels.
      scores: (N,) float64, the detector's; 1 for annotated boxes.
    """

    record_indices: Int[Array, "N"]
    image_ids: Int[Array, "N"]
    boxes_xyxy: Float[Array, "N 4"]
    scores: Float[Array, "N"]

    def __len__(self) -> int:
        return len(self.record_indices)

    def __getitem__(self, rows: slice | Array) -> "Boxes":
        return Boxes(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))


@dataclasses.dataclass(frozen=True)
class EvaluationBatch:
    """Crops of boxes `start` to `start + mask.sum()`; rows where `mask` is False are padding."""

    crops: UInt8[Array, "B H W 3"]
    mask: Array
    start: int


class EvaluationChunks(pipeline.Chunks):
    """Boxes in their order, in chunks of several batches; the last batch is padded with zeros."""

    def __init__(self, records, boxes: Boxes, *, crop_hw, batch_size, padding, num_threads):
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
        return [
            EvaluationBatch(
                crops[i : i + self.batch_size], mask[i : i + self.batch_size], first + i
            )
            for i in range(0, len(crops), self.batch_size)
        ]


def batches(
    records: Records,
    boxes: Boxes,
    *,
    crop_hw: tuple[int, int],
    batch_size: int,
    padding: float = 1.25,
    num_threads: int = 0,
) -> Generator[EvaluationBatch, None, None]:
    """Crops of all the boxes, in their order, in batches of one size; each picture decoded once."""
    chunks = EvaluationChunks(
        records, boxes, crop_hw=crop_hw, batch_size=batch_size, padding=padding,
        num_threads=num_threads,
    )  # fmt: skip
    for batches in pipeline.read_ahead(chunks, 0):
        yield from batches


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
    """What there is to evaluate, and against what.

    Attributes:
      annotation_file: COCO's json of the split.
      annotation_ids: the people to score against, None for all.
      category_id: of the people, in the json and in the results.
      has_annotations: False for a split that one can only submit, such as test-dev.
    """

    records: Records
    boxes: Boxes
    annotation_file: pathlib.Path
    annotation_ids: frozenset[int] | None
    category_id: int
    has_annotations: bool


def open_split(
    root: str | os.PathLike,
    split: str,
    skeleton: Skeleton,
    detections: str | os.PathLike = "",
    first_people: int = 0,
    records_dir: str | os.PathLike = "",
) -> EvaluationSet:
    """A split with the boxes to evaluate in it.

    Args:
      detections: a detector's results in COCO's format; without it, the annotated boxes of
        everyone with labelled keypoints. Annotated boxes are clipped to their picture, detected
        ones are taken as they are.
      first_people, records_dir: as in `open_records`.

    Raises:
      DataError: there are no boxes, or some pictures cannot be read: figures that silently leave
        pictures out would not be COCO's.
    """
    pictures = read_pictures(root, split, skeleton, first_people)
    category_id = read_category(root, split, skeleton)
    image_hw = {picture.image_id: picture.image_hw for picture in pictures}
    if detections:
        found = read_detections(detections, image_hw, category_id)
        image_ids, scores = found.image_ids, found.scores
        boxes_xyxy = geometry.boxes_xywh_to_xyxy(found.boxes_xywh)
    else:
        people = [p for p in pictures if len(p.annotation_ids)]
        if not people:
            raise DataError(
                f"{split}: has no annotated boxes; a detector's are needed (data.detections)"
            )
        image_ids = np.repeat([p.image_id for p in people], [len(p.boxes_xywh) for p in people])
        boxes_xyxy = np.concatenate([geometry.clip_boxes(p.boxes_xywh, p.image_hw) for p in people])
        scores = np.ones(len(image_ids))
    if not len(image_ids):
        raise DataError(f"{detections}: no usable box in it")

    records = open_records(root, split, skeleton, records_dir, first_people)
    if records.unreadable:
        raise DataError(
            f"{split}: {len(records.unreadable)} pictures cannot be read, and so not be evaluated:"
            f" {some(records.unreadable)}. Download them again and delete the split's records"
        )
    index_of = {image_id: i for i, image_id in enumerate(records.image_ids.tolist())}
    record_indices = np.array([index_of[image_id] for image_id in image_ids.tolist()])
    order = np.argsort(record_indices, kind="stable")
    chosen = np.concatenate([p.annotation_ids for p in pictures]) if first_people else None
    return EvaluationSet(
        records=records,
        boxes=Boxes(record_indices, image_ids, boxes_xyxy, scores)[order],
        annotation_file=annotation_file(root, split),
        annotation_ids=None if chosen is None else frozenset(chosen.tolist()),
        category_id=category_id,
        has_annotations=any(len(p.annotation_ids) for p in pictures),
    )
