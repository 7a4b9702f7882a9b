"""What a split's annotations contain, and what in them is wrong or looks wrong.

The errors and warnings are those of reading for training (`validator.examine`). Here all of them
are listed, and people are looked at more closely.
"""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Num

from mspn_jax import geometry
from mspn_jax.data.annotations import Annotations
from mspn_jax.data.coco import annotation_file, load_json, missing_files, picture_folder
from mspn_jax.data.schema import ERROR, LEVELS, NOTE, SUSPECT, Finding
from mspn_jax.data.validator import examine
from mspn_jax.skeletons import Skeleton

PLAIN = 0.6  # from here on a part of the body is plainly seen from the front; 1 at most


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What a split contains."""

    file: pathlib.Path
    counts: dict[str, int]  # {"pictures", "people", ...: how many}
    # Name -> how many are (not labelled, hidden, visible), over people with labelled keypoints
    keypoints: dict[str, tuple[int, int, int]]
    findings: list[Finding]  # errors first

    @property
    def num_errors(self) -> int:
        return sum(finding.count for finding in self.findings if finding.level == ERROR)


def inspect(
    *,
    root: str | os.PathLike,
    split: str,
    skeleton: Skeleton,
    padding: float,
    crop_hw: tuple[int, int],
) -> Inspection:
    """Examines a split's json. `padding` is the size of the crop region over the box's."""
    file = annotation_file(root, split)
    content = load_json(file)
    annotations, findings = examine(content, file, skeleton)
    rows = content.get("annotations")
    num_rows = len(rows) if isinstance(rows, list) else 0
    del content, rows
    people = annotations.people()
    if not len(people.ids) and not findings.errors:
        findings.add(ERROR, "", "there is nobody in it to learn from", [""])
    names = [name for name in annotations.file_names if name]
    folder = picture_folder(root, split)
    missing = missing_files(folder, names)
    what = f"there is no such file in {folder}"
    findings.add(ERROR, "picture", what, missing, "Unpack the split's pictures there")
    for finding in _doubts(people, skeleton, padding, crop_hw):
        findings.add(*finding)
    is_labelled = (annotations.visibility > 0).any(1) & ~annotations.is_crowd
    visibility = annotations.visibility[is_labelled]
    columns = [(visibility == v).sum(0).tolist() for v in (0, 1, 2)]
    return Inspection(
        file=file,
        counts={
            "pictures": len(annotations.image_ids),
            "annotations": num_rows,
            "people": int((~annotations.is_crowd).sum()),
            "crowds": int(annotations.is_crowd.sum()),
            "people with labelled keypoints": int(is_labelled.sum()),
            "pictures with labelled people": len(np.unique(annotations.image_rows[is_labelled])),
        },
        keypoints=dict(zip(skeleton.keypoint_names, zip(*columns))) if len(visibility) else {},
        findings=sorted(findings, key=lambda finding: LEVELS.index(finding.level)),
    )


def _doubts(
    people: Annotations, skeleton: Skeleton, padding: float, crop_hw: tuple[int, int]
) -> Iterator[tuple[str, str, str, list[int | str]]]:
    """(level, of, what, ids) of what looks wrong about labelled people."""
    xy, is_labelled = people.keypoints_image_xy, people.visibility > 0
    image_hw = people.image_hw[people.image_rows]
    boxes_xyxy = people.boxes_xyxy
    center_xy, size_wh = geometry.crop_regions(boxes_xyxy, padding, crop_hw)
    box_areas = people.boxes_xywh[:, 2:].prod(1)

    def any_outside(
        low: Num[np.ndarray, "N 2"], high: Num[np.ndarray, "N 2"]
    ) -> Bool[np.ndarray, "N"]:
        outside = (xy < low[:, None]) | (xy > high[:, None])
        return np.asarray((outside.any(-1) & is_labelled).any(1))

    doubts = {
        (NOTE, "keypoints outside the box"): any_outside(boxes_xyxy[:, :2], boxes_xyxy[:, 2:]),
        (SUSPECT, "keypoints outside the crop, where no heatmap reaches"): any_outside(
            center_xy - size_wh / 2, center_xy + size_wh / 2
        ),
        # Some tools give positions by the corners of pixels, not by their centers.
        (SUSPECT, "keypoints outside the picture"): any_outside(
            np.full_like(center_xy, -0.5), image_hw[:, ::-1]
        ),
        (NOTE, "the area is the box's: estimated, not segmented"): (
            np.abs(people.areas - box_areas) <= 1e-6 * box_areas
        ),
        (SUSPECT, "the area is greater than the box's"): people.areas > 1.01 * box_areas,
        (NOTE, "a single labelled keypoint"): is_labelled.sum(1) == 1,
        (SUSPECT, "a labelled keypoint at (0, 0)"): ((xy == 0).all(-1) & is_labelled).any(1),
        **{
            (SUSPECT, what): applies
            for what, applies in _exchanged_sides(skeleton, xy, is_labelled).items()
        },
    }
    for (level, what), applies in doubts.items():
        yield level, "annotation", what, people.ids[applies].tolist()
    for what, pairs in _duplicates(people).items():
        yield SUSPECT, "annotations", what, pairs


def _exchanged_sides(
    skeleton: Skeleton, xy: Float[np.ndarray, "N K 2"], is_labelled: Bool[np.ndarray, "N K"]
) -> dict[str, Bool[np.ndarray, "N"]]:
    """Whose left and right look exchanged, whichever way up they are.

    Seen from the front, left eye, right eye, nose turn one way in the picture, and so do left
    shoulder, right shoulder and hips. Keypoints are found by COCO's names.
    """
    column = {name: k for k, name in enumerate(skeleton.keypoint_names)}

    def turn(a: str, b: str, *between: str) -> Float[np.ndarray, "N"]:
        """1 seen from the front, -1 from the back, 0 in profile or where not labelled."""
        names = (a, b, *between)
        if not {*names} <= column.keys():
            return np.zeros(len(xy))
        columns = [column[name] for name in names]
        at = xy[:, columns]
        across = at[:, 0] - at[:, 1]
        down = at[:, 2:].mean(1) - at[:, :2].mean(1)
        cross = across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]
        turns = 2 * cross / np.maximum((across**2 + down**2).sum(1), 1e-9)
        return np.where(is_labelled[:, columns].all(1), turns, 0.0)

    face = turn("left_eye", "right_eye", "nose")
    shoulders = turn("left_shoulder", "right_shoulder", "left_hip", "right_hip")
    hips = -turn("left_hip", "right_hip", "left_shoulder", "right_shoulder")
    return {
        "the eyes are exchanged, left for right, as the nose shows": face < -PLAIN,
        "face to the front and trunk to the back: a look over the shoulder, or left and right of"
        " the trunk are exchanged": (face > PLAIN) & (np.maximum(shoulders, hips) < -PLAIN),
        "shoulders and hips disagree on left and right": (shoulders * hips < 0)
        & (np.minimum(np.abs(shoulders), np.abs(hips)) > PLAIN),
    }


def _duplicates(people: Annotations) -> dict[str, list[int | str]]:
    """Pairs of people in one picture, as "id = id"."""
    seen_xy = people.keypoints_image_xy * (people.visibility > 0)[..., None]
    kinds = {
        "the same box": people.boxes_xywh,
        "the same keypoints": np.concatenate([seen_xy, people.visibility[..., None]], -1),
    }
    found: dict[str, list[int | str]] = collections.defaultdict(list)
    for what, columns in kinds.items():
        first: dict[tuple, int] = {}
        for row, image in enumerate(people.image_rows.tolist()):
            other = first.setdefault((image, columns[row].tobytes()), row)
            if other != row:
                found[what].append(f"{people.ids[other]} = {people.ids[row]}")
    return found
