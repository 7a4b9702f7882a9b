"""Label Studio's JSON and JSON-MIN. Positions are percentages of the picture's sides."""

import dataclasses
import math
import pathlib
from collections.abc import Iterator
from typing import Any

from mspn_jax.annotation_tools import parsing
from mspn_jax.annotation_tools.finding import PictureIndex
from mspn_jax.annotation_tools.grouping import Point, group
from mspn_jax.annotation_tools.labelled import Box, Dataset, LabelledPicture, LeftOut
from mspn_jax.data.coco import load_json
from mspn_jax.data.pictures import PICTURE_ENDINGS

_HIDDEN = {"hidden", "occluded", "invisible", "not visible"}  # choices of a region that say so
_DRAWN = "keypointlabels", "rectanglelabels", "labels"
_BESIDE = {"choices", "relation", "textarea", "rating", "taxonomy", "number"}  # no shapes


def is_format(content: Any) -> bool:
    """Whether a json's content is Label Studio's: tasks, or JSON-MIN's rows."""
    is_list = isinstance(content, list) and all(isinstance(row, dict) for row in content)
    return is_list and any(_is_task(row) for row in content)


def _is_task(row: dict[str, Any]) -> bool:
    has_result = "annotations" in row or "completions" in row
    return (isinstance(row.get("data"), dict) and has_result) or _is_min(row)


def _is_min(row: dict[str, Any]) -> bool:
    return "data" not in row and any(_marks(value) for value in row.values())


def _marks(value: Any) -> list[dict[str, Any]]:
    """The keypoints and rectangles in a column of JSON-MIN."""
    return [
        mark
        for mark in (value if isinstance(value, list) else [])
        if isinstance(mark, dict) and {"keypointlabels", "rectanglelabels"} & mark.keys()
    ]


def read(files: list[pathlib.Path], index: PictureIndex, category: str) -> Dataset:
    """Reads exports. Keypoints are grouped by their parent, by relations, or by rectangles."""
    dataset = Dataset("Label Studio", category, (), [])
    for file in files:
        for number, row in enumerate(load_json(file)):
            task = f"{file}: task {row.get('id', number)}"
            for reference, regions in _tasks(row, task, dataset.left_out):
                picture = _picture(regions, reference, task, index, category, dataset)
                if picture is not None:
                    dataset.pictures.append(picture)
    return dataset


def _tasks(
    row: dict[str, Any], task: str, left_out: LeftOut
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A picture's reference and its regions, if anybody annotated it."""
    if _is_min(row):
        yield _reference(row, task), [mark for value in row.values() for mark in _marks(value)]
        return
    key = "completions" if "completions" in row else "annotations"
    given = parsing.items(row.get(key), f"{task}: {key}")
    given = [parsing.mapping(each, f"{task}: {key}") for each in given]
    done = [each for each in given if not each.get("was_cancelled")]
    if not done:
        left_out.add("pictures that nobody annotated", task)
        return
    what = "further annotations of pictures annotated twice; the first is taken"
    left_out.add(what, task, len(done) - 1)
    regions = parsing.items(done[0].get("result"), f"{task}: result")
    yield (
        _reference(parsing.mapping(row.get("data"), f"{task}: data"), task),
        [parsing.mapping(region, f"{task}: result") for region in regions],
    )


def _reference(data: dict[str, Any], task: str) -> str:
    """What a task calls its picture."""
    for key in ("image", "img", "picture"):
        if isinstance(data.get(key), str):
            return parsing.text(data[key], f"{task}: {key}")
    texts = [value for value in data.values() if isinstance(value, str)]
    endings = tuple(PICTURE_ENDINGS)
    found = [value for value in texts if value.partition("?")[0].lower().endswith(endings)]
    found += [value for value in texts if "/local-files/" in value]
    return parsing.text(found[0] if found else None, f"{task}: its picture")


@dataclasses.dataclass
class _Marks:
    """What is marked in a picture: rectangles of the category, ids of others, keypoints."""

    category: str
    left_out: LeftOut
    boxes: dict[str, Box] = dataclasses.field(default_factory=dict)
    labels: dict[str, None] = dataclasses.field(default_factory=dict)
    others: set[str] = dataclasses.field(default_factory=set)
    points: list[Point] = dataclasses.field(default_factory=list)
    size_wh: tuple[float, float] | None = None

    def add(
        self, region: dict[str, Any], region_id: str, owner: str | None, visibility: int, where: str
    ) -> None:
        """Adds a region's rectangle or keypoint."""
        value = parsing.mapping(region["value"], where) if "value" in region else region
        kind = next((key for key in _DRAWN if key in value), None)
        if kind is None or "x" not in value:
            type_ = str(region.get("type"))
            if type_ not in _BESIDE:
                self.left_out.add(f"regions of type {type_[:40]}, left out", where)
            return
        label = parsing.items(value[kind], where)
        if not label:
            self.left_out.add("regions without a label, left out", where)
            return
        name = parsing.text(label[0], where)
        width, height = (
            parsing.number(region.get(f"original_{side}"), f"{where}: original_{side}", low=1)
            for side in ("width", "height")
        )
        self.size_wh = width, height
        if kind == "keypointlabels" or (kind == "labels" and "height" not in value):
            x, y = (parsing.number(value.get(axis), f"{where}: {axis}") for axis in "xy")
            self.points.append(Point(name, (x / 100 * width, y / 100 * height, visibility), owner))
        elif self.category in ("", name):
            self.boxes[region_id] = _box(value, self.size_wh, where)
            self.labels[name] = None
        else:
            self.others.add(region_id)

    def owned_points(self, task: str) -> list[Point]:
        """The keypoints but for those of another category's rectangles."""
        kept = []
        for point in self.points:
            if point.owner in self.others:
                what = "keypoints of another category, left out"
                self.left_out.add(what, f"{task}: {point.name}")
                continue
            if point.owner not in self.boxes:
                point.owner = None  # its parent is a region that was deleted, or a folder
            kept.append(point)
        return kept


def _picture(
    regions: list[dict[str, Any]],
    reference: str,
    task: str,
    index: PictureIndex,
    category: str,
    dataset: Dataset,
) -> LabelledPicture | None:
    """A task's picture; None if it is left out."""
    if any(region.get("image_rotation") for region in regions):
        dataset.left_out.add("pictures that were rotated in Label Studio, left out", task)
        return None
    marks = _Marks(category, dataset.left_out)
    owners = _related(regions)
    hidden = {
        str(region.get("id"))
        for region in regions
        if region.get("type") == "choices" and _HIDDEN & {c.lower() for c in _choices(region)}
    }
    named = {str(region.get("id")) for region in regions if _is_named(region)}
    for number, region in enumerate(regions):
        region_id = str(region.get("id", f"number {number}"))
        if region_id in named and not _is_named(region):
            continue  # its shape, or a choice, which another result of this id has beside the label
        where = f"{task}: region {region_id}"
        parent = region.get("parentID")
        owner = str(parent) if parent else owners.get(region_id)
        visibility = 1 if region_id in hidden else 2
        marks.add(region, region_id, owner, visibility, where)
    dataset.labels |= marks.labels
    kept = marks.owned_points(task)
    path, name = index.find(reference, task)
    instances = group(kept, marks.boxes, task, dataset.left_out)
    return LabelledPicture(name, path, instances, marks.size_wh, source=task)


def _is_named(region: dict[str, Any]) -> bool:
    value = region.get("value")
    return isinstance(value, dict) and any(key in value for key in _DRAWN)


def _choices(region: dict[str, Any]) -> list[str]:
    value = region.get("value")
    choices = value.get("choices") if isinstance(value, dict) else None
    return [each for each in choices if isinstance(each, str)] if isinstance(choices, list) else []


def _related(regions: list[dict[str, Any]]) -> dict[str, str]:
    """Region -> rectangle, by relations in either direction."""
    rectangles = {
        str(region.get("id"))
        for region in regions
        if str(region.get("type", "")).startswith("rectangle")
    }
    owners = {}
    for region in regions:
        if region.get("type") == "relation":
            ends = str(region.get("from_id")), str(region.get("to_id"))
            for one, other in (ends, ends[::-1]):
                if other in rectangles and one not in rectangles:
                    owners[one] = other
    return owners


def _box(value: dict[str, Any], size_wh: tuple[float, float], where: str) -> Box:
    """A rectangle in pixels; of a rotated one the upright rectangle around it."""
    x, y, width, height = (
        parsing.number(value.get(key), f"{where}: {key}") / 100 * size_wh[key in ("y", "height")]
        for key in ("x", "y", "width", "height")
    )
    angle = math.radians(parsing.number(value.get("rotation") or 0, f"{where}: rotation"))
    if not angle:
        return x, y, width, height
    cos, sin = math.cos(angle), math.sin(angle)  # about its first corner, clockwise
    corners = [(a * cos - b * sin, a * sin + b * cos) for a in (0, width) for b in (0, height)]
    (left, right), (top, bottom) = ((min(side), max(side)) for side in zip(*corners))
    return x + left, y + top, right - left, bottom - top
