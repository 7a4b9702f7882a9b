"""A read export -> a new folder in COCO's layout, with a config to train on it."""

import dataclasses
import os
import pathlib
import shutil
from typing import Any

from tqdm import tqdm

from mspn_jax.annotation_tools.labelled import Box, Dataset, Instance, LabelledPicture
from mspn_jax.annotation_tools.settings import config_text
from mspn_jax.crops import decode_picture
from mspn_jax.data import categories, validator
from mspn_jax.data.schema import WARNING
from mspn_jax.errors import DataError, SkeletonError
from mspn_jax.skeletons import Skeleton
from mspn_jax.storage import files
from mspn_jax.storage.new_folder import new_folder

ALL = "all"  # the split that holds everything
_TIGHT = 0.5  # pixels: a box that is the keypoints' extent, which tools round
_SAME = 0.5  # pixels between a picture's side and what the export says of it


@dataclasses.dataclass(frozen=True)
class Written:
    """What a new folder holds."""

    skeleton: Skeleton
    num_pictures: int
    num_instances: int
    labelled: dict[str, float]  # keypoint name -> the share of instances in which it is labelled
    num_grown: int  # boxes that are keypoints' extents, and so were enlarged
    num_linked: int  # pictures that are hard links to the export's


def write(
    dataset: Dataset, output: pathlib.Path, *, box_margin: float = 0.1, copy: bool = False
) -> Written:
    """Writes `annotations/person_keypoints_all.json`, `images/` and `config.py`.

    The folder appears complete or not at all.

    Args:
      output: absolute; does not exist, or is an empty folder.
      box_margin: what is added on each side to a box that is the keypoints' extent, over its longer
        side.
      copy: copy pictures instead of linking them.

    Raises:
      DataError: a picture cannot be decoded, has another size than the export says, or shares its
        name with another one; or the annotations do not fit the layout.
      SkeletonError: the keypoints' names do not make a skeleton.
      StorageError: the folder cannot be written.
    """
    skeleton = _skeleton(dataset)
    _name_apart(dataset.pictures)
    sizes = (p.data.stat().st_size for p in dataset.pictures if isinstance(p.data, pathlib.Path))
    with new_folder(output, max(sum(sizes) if copy else 0, 1 << 16)) as partial:
        assert isinstance(partial, pathlib.Path)
        num_linked = 0
        for picture in tqdm(dataset.pictures, desc="pictures", disable=None):
            num_linked += _place(picture, partial / "images" / picture.name, copy)
            width, height = _measure(picture, partial / "images" / picture.name)
            picture.size_wh = (width, height)
            picture.to_pixels(width, height)
        content, num_grown = _content(dataset, skeleton, box_margin)
        file = partial / "annotations" / f"person_keypoints_{ALL}.json"
        read, findings = validator.examine(content, output / "annotations" / file.name, skeleton)
        findings.raise_error(output / "annotations" / file.name)
        for finding in findings:
            if finding.level == WARNING:
                dataset.left_out.add(finding.what, f"{finding.of} {finding.ids[0]}", finding.count)
        people = read.people()
        file.parent.mkdir()
        files.write_json(file, content)
        aspects = people.boxes_xywh[:, 2] / people.boxes_xywh[:, 3]
        text = config_text(skeleton, aspects, dataset.tool)
        files.write_text(partial / "config.py", text)
    count = max(len(people.ids), 1)
    shares = (people.visibility > 0).sum(0) / count
    return Written(
        skeleton,
        len(dataset.pictures),
        len(people.ids),
        dict(zip(skeleton.keypoint_names, shares.tolist())),
        num_grown,
        num_linked,
    )


def _skeleton(dataset: Dataset) -> Skeleton:
    names = dataset.keypoint_names
    limbs = [(names.index(a), names.index(b)) for a, b in dataset.limbs]
    try:
        return categories.new_skeleton(dataset.category, names, limbs)
    except SkeletonError as error:
        raise SkeletonError(
            f"{error}. If it was never labelled, --keypoint_names lists all keypoints"
        ) from None


def _name_apart(pictures: list[LabelledPicture]) -> None:
    """Puts every picture below its subset's folder, if two have one name."""
    for picture in pictures:
        parts = pathlib.PurePosixPath(picture.name.replace("\\", "/")).parts
        if not parts or ".." in parts or parts[0] == "/" or "\0" in picture.name:
            raise DataError(f"{picture.source}: {picture.name[:200]!r} is not a picture's name")
        parts = parts[1:] if parts[0] == "images" and len(parts) > 1 else parts
        picture.name = "/".join(parts)
    if len({picture.name for picture in pictures}) < len(pictures):
        for picture in pictures:
            picture.name = f"{picture.subset}/{picture.name}".lstrip("/")
    first: dict[str, LabelledPicture] = {}
    for picture in pictures:
        other = first.setdefault(picture.name, picture)
        if other is not picture:
            raise DataError(
                f"{picture.source}: picture {picture.name} is annotated in {other.source}, too;"
                " rename one, or delete one of the two"
            )


def _place(picture: LabelledPicture, path: pathlib.Path, copy: bool) -> bool:
    """Puts a picture's file into the folder. Returns whether it is a link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(picture.data, bytes):
        path.write_bytes(picture.data)
        return False
    with files.named(picture.data):
        if not copy:
            try:
                os.link(picture.data.resolve(), path)
                return True
            except OSError:  # another file system, or one without links
                pass
        shutil.copyfile(picture.data, path)
    return False


def _measure(picture: LabelledPicture, path: pathlib.Path) -> tuple[int, int]:
    """The width and height of a picture, as training decodes it."""
    inside = f"{picture.source}: the picture in it"
    place = picture.data if isinstance(picture.data, pathlib.Path) else inside
    try:
        height, width = decode_picture(path.read_bytes()).shape[:2]
    except DataError as error:
        raise DataError(f"{place}: {error}") from None
    said = picture.size_wh
    if said and max(abs(said[0] - width), abs(said[1] - height)) > _SAME:
        is_turned = max(abs(said[0] - height), abs(said[1] - width)) <= _SAME
        remedy = (
            "the tool ignored its EXIF rotation: rotate its pixels and label it again"
            if is_turned
            else "give the picture that was annotated"
        )
        raise DataError(
            f"{picture.source}: picture {place} has {width} x {height} pixels, and the export says"
            f" {said[0]:g} x {said[1]:g}: {remedy}"
        )
    return width, height


def _content(dataset: Dataset, skeleton: Skeleton, box_margin: float) -> tuple[dict[str, Any], int]:
    """COCO's json, and how many boxes were enlarged."""
    images: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    num_grown = 0
    for picture in sorted(dataset.pictures, key=lambda picture: picture.name):
        assert picture.size_wh is not None
        width, height = map(int, picture.size_wh)
        image: dict[str, Any] = {"id": len(images) + 1, "file_name": picture.name}
        image |= {"width": width, "height": height}
        images.append(image | ({"subset": picture.subset} if picture.subset else {}))
        for instance in picture.instances:
            box, is_grown = instance.box_xywh, False
            if dataset.clip_boxes:
                box, is_grown = _box(instance, (width, height), box_margin)
            num_grown += is_grown
            if box is None:
                what = "instances without a box and with fewer than two keypoints, left out"
                dataset.left_out.add(what, picture.source)
                continue
            row = _annotation(instance, box, is_grown, skeleton)
            rows.append({"id": len(rows) + 1, "image_id": len(images), "category_id": 1} | row)
    info: dict[str, Any] = {"description": f"{dataset.tool}, imported by mspn import"}
    if not dataset.clip_boxes:
        info["clip_boxes"] = False
    category = categories.entry(1, dataset.category, skeleton)
    return {
        "info": info,
        "images": images,
        "annotations": rows,
        "categories": [category],
    }, num_grown


def _annotation(instance: Instance, box: Box, is_grown: bool, skeleton: Skeleton) -> dict[str, Any]:
    triples = [instance.keypoints.get(name, (0.0, 0.0, 0)) for name in skeleton.keypoint_names]
    area = None if is_grown else instance.area
    head = {"head_size": instance.head_size} if instance.head_size else {}
    return head | {
        "bbox": list(box),
        "area": area if area else max(box[2], 0.0) * max(box[3], 0.0),
        "iscrowd": int(instance.is_crowd),
        "num_keypoints": len(instance.keypoints),
        "keypoints": [value for triple in triples for value in triple],
    }


def _box(instance: Instance, picture_wh: tuple[int, int], margin: float) -> tuple[Box | None, bool]:
    """An instance's box, and whether it is the enlarged extent of its keypoints.

    People reach beyond their joints, so the extent is enlarged, within the picture.
    """
    box = instance.box_xywh
    if len(instance.keypoints) < 2:
        return box, False
    (left, right), (top, bottom) = (
        (min(values), max(values)) for values in list(zip(*instance.keypoints.values()))[:2]
    )
    if box is not None:
        sides = (box[0] - left, box[1] - top, box[0] + box[2] - right, box[1] + box[3] - bottom)
        if max(map(abs, sides)) > _TIGHT:
            return box, False
    more = margin * max(right - left, bottom - top)
    left, top = max(left - more, 0.0), max(top - more, 0.0)
    right, bottom = min(right + more, picture_wh[0]), min(bottom + more, picture_wh[1])
    return (left, top, right - left, bottom - top), True
