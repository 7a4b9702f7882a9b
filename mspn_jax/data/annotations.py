"""A split's annotations, as columns.

Records, boxes to evaluate and the truth to score against are made from them.
"""

import dataclasses
import itertools
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from mspn_jax import geometry


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture and its N people with labelled keypoints: no crowds, no empty boxes.

    Attributes:
      boxes_xywh: image pixels, as annotated.
      boxes_xyxy: image pixels, as crops are cut around them: see `Annotations`.
      keypoints_image_xy: image pixels.
      visibility: COCO's 0 not labelled, 1 hidden, 2 visible.
    """

    image_id: int
    file_name: str
    image_hw: tuple[int, int]
    annotation_ids: Int[np.ndarray, "N"]
    boxes_xywh: Float[np.ndarray, "N 4"]
    boxes_xyxy: Float[np.ndarray, "N 4"]
    keypoints_image_xy: Float[np.ndarray, "N K 2"]
    visibility: Float[np.ndarray, "N K"]


@dataclasses.dataclass(frozen=True)
class Annotations:
    """A split: M images, and N annotations of the skeleton's category, in the order of the file.

    Attributes:
      file: the json.
      ids: of the annotations.
      image_rows: the image of each annotation, an index.
      boxes_xywh: image pixels, as annotated.
      keypoints_image_xy: image pixels.
      visibility: COCO's 0 not labelled, 1 hidden, 2 visible.
      areas: square image pixels; the box's where no area is given.
      head_sizes: in image pixels, for PCKh; 0 where none is given.
      is_crowd: COCO's `iscrowd`.
      is_person: has labelled keypoints and a box with an area in its picture, and is no crowd.
        Others are neither trained on nor counted in a score.
      clip_boxes: whether crops are cut around what of a box is inside its picture.
      crowd_indices: CrowdPose's measure of how much people overlap, of each image: NaN where it
        is missing, and None if every image lacks it.
    """

    file: pathlib.Path
    category_id: int
    image_ids: Int[np.ndarray, "M"]
    file_names: tuple[str, ...]
    image_hw: Int[np.ndarray, "M 2"]
    ids: Int[np.ndarray, "N"]
    image_rows: Int[np.ndarray, "N"]
    boxes_xywh: Float[np.ndarray, "N 4"]
    keypoints_image_xy: Float[np.ndarray, "N K 2"]
    visibility: Float[np.ndarray, "N K"]
    areas: Float[np.ndarray, "N"]
    head_sizes: Float[np.ndarray, "N"]
    is_crowd: Bool[np.ndarray, "N"]
    is_person: Bool[np.ndarray, "N"]
    clip_boxes: bool = True
    crowd_indices: Float[np.ndarray, "M"] | None = None

    @property
    def boxes_xyxy(self) -> Float[np.ndarray, "N 4"]:
        """The boxes that crops are cut around, in image pixels."""
        if self.clip_boxes:
            return geometry.clip_boxes(self.boxes_xywh, self.image_hw[self.image_rows])
        return geometry.boxes_xywh_to_xyxy(self.boxes_xywh)

    @property
    def num_labelled(self) -> Int[np.ndarray, "N"]:
        """The number of labelled keypoints of each annotation."""
        return (self.visibility > 0).sum(1)

    def select(self, rows: Any) -> "Annotations":
        """Some of the annotations, and all images."""
        columns = {name: getattr(self, name)[rows] for name in _OF_ANNOTATIONS}
        return dataclasses.replace(self, **columns)

    def people(self) -> "Annotations":
        """The annotations with `is_person`, and all images."""
        return self.select(self.is_person)

    def with_areas_of_boxes(self, share: float) -> "Annotations":
        """The same annotations, with a share of each box as the area."""
        return dataclasses.replace(self, areas=share * self.boxes_xywh[:, 2:].prod(1))

    def first_people(self, count: int) -> "Annotations":
        """The first people in the order of the file; 0: all annotations."""
        return self.select(np.flatnonzero(self.is_person)[:count]) if count else self

    def pictures(self, *, only_with_people: bool = False) -> list[Picture]:
        """The images in the order of the file, each with its people in theirs."""
        people = self.people()
        people = people.select(np.argsort(people.image_rows, kind="stable"))
        ends = np.bincount(people.image_rows, minlength=len(self.image_ids)).cumsum().tolist()
        boxes_xyxy = people.boxes_xyxy
        keypoints_image_xy = people.keypoints_image_xy.astype(np.float32)
        visibility = people.visibility.astype(np.float32)
        pictures = []
        for image, (start, end) in enumerate(itertools.pairwise([0, *ends])):
            if only_with_people and start == end:
                continue
            rows = slice(start, end)
            height, width = self.image_hw[image].tolist()
            pictures.append(
                Picture(
                    image_id=int(self.image_ids[image]),
                    file_name=self.file_names[image],
                    image_hw=(height, width),
                    annotation_ids=people.ids[rows],
                    boxes_xywh=people.boxes_xywh[rows],
                    boxes_xyxy=boxes_xyxy[rows],
                    keypoints_image_xy=keypoints_image_xy[rows],
                    visibility=visibility[rows],
                )
            )
        return pictures


_OF_ANNOTATIONS = (
    "ids",
    "image_rows",
    "boxes_xywh",
    "keypoints_image_xy",
    "visibility",
    "areas",
    "head_sizes",
    "is_crowd",
    "is_person",
)


def lookup(known: Int[np.ndarray, "M"], wanted: Int[np.ndarray, "N"]) -> Int[np.ndarray, "N"]:
    """The index of each wanted id among the known ones, or -1."""
    order = np.argsort(known, kind="stable")
    place = np.searchsorted(known[order], wanted).clip(max=len(known) - 1)
    return np.where(known[order][place] == wanted, order[place], -1)


def rows_by_picture(image_ids: Int[np.ndarray, "N"]) -> dict[int, Int[np.ndarray, "..."]]:
    """{image id: indices of the rows that have it, in their order}."""
    order = np.argsort(image_ids, kind="stable")
    ids, starts = np.unique(image_ids[order], return_index=True)
    return dict(zip(ids.tolist(), np.split(order, starts[1:])))
