"""labelme's files: a json beside each picture, with points and rectangles."""

import base64
import binascii
import pathlib
from typing import Any

from mspn_jax.annotation_tools import parsing
from mspn_jax.annotation_tools.finding import PictureIndex
from mspn_jax.annotation_tools.grouping import Point, group
from mspn_jax.annotation_tools.labelled import Box, Dataset, LabelledPicture
from mspn_jax.data.coco import load_json
from mspn_jax.errors import DataError

_HIDDEN = ("hidden", "occluded", "invisible")  # flags of a shape that say so
_OUTLINES = ("rectangle", "polygon", "circle")


def is_format(content: Any) -> bool:
    """Whether a json's content is labelme's."""
    return isinstance(content, dict) and "shapes" in content and "imagePath" in content


def read(files: list[pathlib.Path], index: PictureIndex, category: str) -> Dataset:
    """Reads the json of every picture. `group_id`, or outlines, group keypoints into instances."""
    dataset = Dataset("labelme", category, (), [])
    for file in files:
        content = parsing.mapping(load_json(file), str(file))
        dataset.pictures.append(_picture(file, content, index, category, dataset))
    return dataset


def _picture(
    file: pathlib.Path,
    content: dict[str, Any],
    index: PictureIndex,
    category: str,
    dataset: Dataset,
) -> LabelledPicture:
    boxes: dict[str, Box] = {}
    points: list[Point] = []
    others: set[str] = set()
    shapes = parsing.items(content["shapes"], f"{file}: shapes")
    for number, shape in enumerate(shapes):
        where = f"{file}: shape {number}"
        shape = parsing.mapping(shape, where)
        label = parsing.text(shape.get("label"), f"{where}: label")
        kind, group_id = str(shape.get("shape_type") or "polygon"), shape.get("group_id")
        corners = [_xy(xy, where) for xy in parsing.items(shape.get("points"), where)]
        owner = None if group_id is None else f"group {group_id}"
        if kind == "point" and len(corners) == 1:
            flags = shape.get("flags")
            is_hidden = isinstance(flags, dict) and any(flags.get(word) for word in _HIDDEN)
            points.append(Point(label, (*corners[0], 1 if is_hidden else 2), owner))
        elif kind in _OUTLINES and len(corners) > 1:
            name = owner or f"shape {number}"
            if category not in ("", label):
                others.add(name)
            elif name in boxes:
                raise DataError(
                    f"{where}: {name} has two outlines; give each instance its group_id"
                )
            else:
                boxes[name] = _extent(corners, kind)
                dataset.labels[label] = None
        else:
            dataset.left_out.add(f"shapes of type {kind[:40]}, left out", where)
    mine = [point for point in points if point.owner not in others]
    what = "keypoints of another category, left out"
    dataset.left_out.add(what, str(file), len(points) - len(mine))
    data, name = _find(file, content, index)
    size = [content.get(key) for key in ("imageWidth", "imageHeight")]
    return LabelledPicture(
        name,
        data,
        group(mine, boxes, str(file), dataset.left_out),
        None if None in size else tuple(parsing.number(s, f"{file}: its size", 1) for s in size),  # type: ignore[arg-type]
        source=str(file),
    )


def _xy(value: Any, where: str) -> tuple[float, float]:
    x, y = parsing.items(value, f"{where}: a point", 2)
    return parsing.number(x, f"{where}: x"), parsing.number(y, f"{where}: y")


def _extent(corners: list[tuple[float, float]], kind: str) -> Box:
    if kind == "circle":  # its center, and a point of its edge
        (x, y), (to_x, to_y) = corners[:2]
        radius = ((to_x - x) ** 2 + (to_y - y) ** 2) ** 0.5
        corners = [(x - radius, y - radius), (x + radius, y + radius)]
    (left, right), (top, bottom) = ((min(side), max(side)) for side in zip(*corners))
    return left, top, right - left, bottom - top


def _find(
    file: pathlib.Path, content: dict[str, Any], index: PictureIndex
) -> tuple[pathlib.Path | bytes, str]:
    """The picture beside its json, elsewhere, or within the json; and its name."""
    reference = parsing.text(content["imagePath"], f"{file}: imagePath")
    try:
        return index.find(f"{file.parent.as_posix()}/{reference}", str(file))
    except DataError:
        inside = content.get("imageData")
        if not isinstance(inside, str):
            raise
    try:
        data = base64.b64decode(inside, validate=True)
    except (binascii.Error, ValueError):
        raise DataError(f"{file}: imageData is not base64, and the picture is not there") from None
    ending = ".png" if data.startswith(b"\x89PNG") else ".jpg"
    return data, f"{file.stem}{ending}"
