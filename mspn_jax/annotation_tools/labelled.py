"""What every export is read into: pictures with labelled instances, and what was left out."""

import collections
import dataclasses
import pathlib

from mspn_jax.errors import DataError

Keypoint = tuple[float, float, int]  # x, y in image pixels; COCO's visibility
Box = tuple[float, float, float, float]  # x, y, width, height in image pixels


@dataclasses.dataclass
class Instance:
    """A person, an animal or a thing.

    Attributes:
      keypoints: name -> x, y, visibility. A name that is not there is not labelled.
      box_xywh: as the tool has it, or None.
      area: of the silhouette in square pixels; None: not measured.
      head_size: what PCKh is measured in, in pixels; None: not measured.
    """

    keypoints: dict[str, Keypoint]
    box_xywh: Box | None = None
    area: float | None = None
    is_crowd: bool = False
    head_size: float | None = None


@dataclasses.dataclass
class LabelledPicture:
    """A picture and what is labelled in it.

    Attributes:
      name: path in the new data set's folder of pictures.
      data: the file, or its bytes where the export holds them.
      size_wh: in pixels as the tool saw the picture; None: it does not say.
      subset: the export's own subset or source, such as "train".
      source: what messages call it.
      in_shares: positions are shares of the picture's sides until `to_pixels`.
    """

    name: str
    data: pathlib.Path | bytes
    instances: list[Instance]
    size_wh: tuple[float, float] | None = None
    subset: str = ""
    source: str = ""
    in_shares: bool = False

    def to_pixels(self, width: int, height: int) -> None:
        """Makes pixels of shares, in place."""
        for each in self.instances if self.in_shares else []:
            if each.box_xywh is not None:
                x, y, w, h = each.box_xywh
                each.box_xywh = (x * width, y * height, w * width, h * height)
            each.keypoints = {
                n: (x * width, y * height, v) for n, (x, y, v) in each.keypoints.items()
            }
        self.in_shares = False


class LeftOut:
    """What a reader left out or decided, by kind: how often, and where first."""

    def __init__(self) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self.first: dict[str, str] = {}

    def add(self, what: str, where: str, count: int = 1) -> None:
        if count:
            self.counts[what] += count
            self.first.setdefault(what, where)

    def update(self, other: "LeftOut") -> None:
        for what, count in other.counts.items():
            self.add(what, other.first[what], count)

    def lines(self) -> list[str]:
        """A line for each kind, the most frequent first."""
        return [
            f"{count:,} {what} (first: {self.first[what]})"
            for what, count in self.counts.most_common()
        ]


@dataclasses.dataclass
class Dataset:
    """An export.

    Attributes:
      tool: what messages call it.
      category: name of what is annotated; "" until all `labels` are read.
      labels: of instances, an ordered set.
      keypoint_names: in their order; empty: the tool does not list them.
      limbs: pairs of keypoint names.
      clip_boxes: whether crops are cut around what of a box is inside its picture.
    """

    tool: str
    category: str
    keypoint_names: tuple[str, ...]
    pictures: list[LabelledPicture]
    limbs: tuple[tuple[str, str], ...] = ()
    labels: dict[str, None] = dataclasses.field(default_factory=dict)
    left_out: LeftOut = dataclasses.field(default_factory=LeftOut)
    clip_boxes: bool = True

    def add(self, other: "Dataset", place: pathlib.Path, first: pathlib.Path) -> None:
        """Adds the pictures of a data set that was read from `place`; this one is from `first`."""
        if other.keypoint_names != self.keypoint_names:
            raise DataError(
                f"{place}: its keypoints are not those of {first}: import them one at a time"
            )
        if other.clip_boxes != self.clip_boxes:
            raise DataError(f"{place}: its clip_boxes is not that of {first}: make them one")
        self.pictures += other.pictures
        self.labels |= other.labels
        self.left_out.update(other.left_out)
