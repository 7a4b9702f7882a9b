"""COCO's json of CVAT, Roboflow and COCO itself, and of Label Studio where it is complete."""

import collections
import pathlib
from typing import Any

from mspn_jax.annotation_tools import parsing
from mspn_jax.annotation_tools.finding import PictureIndex
from mspn_jax.annotation_tools.labelled import Dataset, Instance, LabelledPicture
from mspn_jax.data import categories, validator
from mspn_jax.data.coco import load_json
from mspn_jax.data.schema import WARNING
from mspn_jax.errors import DataError
from mspn_jax.skeletons import Skeleton


def is_format(content: Any) -> bool:
    """Whether a json's content is COCO's."""
    return isinstance(content, dict) and isinstance(content.get("images"), list)


def read(
    files: list[pathlib.Path], index: PictureIndex, category: str, names: tuple[str, ...]
) -> Dataset:
    """Reads the jsons of one export, each of them a subset."""
    dataset = _read(files[0], index, category, names)
    for file in files[1:]:
        dataset.add(_read(file, index, category, names), file, files[0])
    return dataset


def _read(
    file: pathlib.Path, index: PictureIndex, category: str, names: tuple[str, ...]
) -> Dataset:
    content = load_json(file)
    if _is_label_studios(content):
        _check_label_studio(content, file)
    content, skeleton = _one_category(content, file, category, names)
    read, findings = validator.examine(content, file, skeleton)
    if [f for f in findings.errors if "no annotation has a labelled keypoint" not in f.what]:
        findings.raise_error(file)
    keypoint_names = skeleton.keypoint_names
    subset = file.stem.removeprefix("person_keypoints_").removeprefix("instances_")
    if subset == file.stem:  # Roboflow's train/_annotations.coco.json
        subset = file.parent.name
    pictures = []
    for (height, width), name in zip(read.image_hw.tolist(), read.file_names):
        path, _ = index.find(f"{subset}/{name}", str(file))
        pictures.append(LabelledPicture(name, path, [], (width, height), subset, f"{file}: {name}"))
    dataset = Dataset(
        "COCO's json",
        skeleton.name,
        keypoint_names,
        pictures,
        tuple((keypoint_names[a], keypoint_names[b]) for a, b in skeleton.limbs),
        clip_boxes=read.clip_boxes,
    )
    kinds = [read.keypoints_image_xy, read.visibility, read.boxes_xywh, read.areas, read.is_crowd]
    kinds.append(read.head_sizes)
    for row, (xy, visibility, box, area, is_crowd, head) in enumerate(
        zip(*(kind.tolist() for kind in kinds))
    ):
        labelled = {n: (x, y, int(v)) for n, (x, y), v in zip(keypoint_names, xy, visibility) if v}
        instance = Instance(labelled, tuple(box), area, is_crowd, head or None)
        pictures[read.image_rows[row]].instances.append(instance)
    for finding in findings:
        if finding.level == WARNING and "area is missing" not in finding.what:
            ids = ", ".join(map(str, finding.ids[:1]))
            dataset.left_out.add(finding.what, f"{file}: {finding.of} {ids}", finding.count)
    return dataset


def _one_category(
    content: Any, file: pathlib.Path, category: str, names: tuple[str, ...]
) -> tuple[dict[str, Any], Skeleton]:
    """The content with one category, and its skeleton. Those with equal keypoints become one."""
    rows = parsing.items(parsing.mapping(content, str(file)).get("categories"), f"{file}")
    rows = [parsing.mapping(row, f"{file}: a category") for row in rows]
    found = [row for row in rows if category in ("", row.get("name"))]
    if category and not found:
        there = ", ".join(str(row.get("name")) for row in rows) or "none"
        raise DataError(f"{file}: no category {category!r}; there are: {there}")
    named = [row for row in found if row.get("keypoints")]
    if not named and names:
        named = [row | {"keypoints": list(names)} for row in found[:1]]
    annotated = parsing.items(content.get("annotations"), f"{file}: annotations")
    used = {_whole(row.get("category_id")) for row in annotated if isinstance(row, dict)}
    named = [row for row in named if _whole(row.get("id")) in used] or named
    if len({str(row["keypoints"]) for row in named}) > 1:
        there = ", ".join(str(row.get("name")) for row in named)
        raise DataError(
            f"{file}: its categories have different keypoints; --category names one of: {there}"
        )
    if not named:
        raise DataError(
            f"{file}: no category lists keypoints, so this is an export of boxes or outlines:"
            " export keypoints (in CVAT: COCO Keypoints 1.0), or give --keypoint_names"
        )
    skeleton = categories.described(content | {"categories": named[:1]}, file)
    ids = {_whole(row.get("id")) for row in named} - {None}
    annotated = [
        row | {"category_id": named[0].get("id")}
        if isinstance(row, dict) and _whole(row.get("category_id")) in ids
        else row
        for row in annotated
    ]
    others = [row for row in rows if _whole(row.get("id")) not in ids]
    return content | {"categories": [*named[:1], *others], "annotations": annotated}, skeleton


def _whole(value: Any) -> int | None:
    is_whole = type(value) is int or (type(value) is float and value.is_integer())
    return int(value) if is_whole else None


def _is_label_studios(content: Any) -> bool:
    info = content.get("info") if isinstance(content, dict) else None
    return isinstance(info, dict) and info.get("contributor") == "Label Studio"


def _check_label_studio(content: dict[str, Any], file: pathlib.Path) -> None:
    """Raises DataError where keypoints of several instances were put into one."""
    boxes = collections.Counter(
        str(row.get("image_id"))
        for row in parsing.items(content.get("annotations"), f"{file}: annotations")
        if isinstance(row, dict) and not row.get("keypoints")
    )
    several = [image for image, count in boxes.items() if count > 1]
    if several:
        raise DataError(
            f"{file}: Label Studio's COCO export puts the keypoints of all instances of a picture"
            f" into one, and {len(several):,} of its pictures have several boxes; export JSON there"
            " instead, and import that"
        )
