"""MPII Human Pose as HRNet and mmpose keep it: a json of people, and a .mat with their heads.

Source: HRNet and mmpose 1.3.2 for the conventions, MPII's own evaluation for the size of a head.
"""

import io
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
from jaxtyping import Float

from mspn_jax.annotation_tools import parsing
from mspn_jax.annotation_tools.finding import PictureIndex
from mspn_jax.annotation_tools.labelled import Box, Dataset, Instance, LabelledPicture
from mspn_jax.data.coco import load_json
from mspn_jax.errors import DataError
from mspn_jax.skeletons import MPII

SCALE_PX = 200  # a person's scale is their height over so many pixels
LOWER = 15  # pixels at scale 1 by which the box moves down, so that it holds the feet
FIRST_PIXEL = 1  # MPII counts from 1
HEAD_BIAS = 0.6  # of the diagonal of a head's box, in MPII's evaluation
_OF_HEADS = ("headboxes_src", "pos_gt_src", "jnt_missing")
_READ = """
import io, sys
import numpy, scipy.io
_, path, *names = sys.argv
found = scipy.io.loadmat(path, variable_names=names)
file = io.BytesIO()
numpy.savez(file, **{name: numpy.asarray(found[name], float) for name in names if name in found})
sys.stdout.buffer.write(file.getvalue())
"""
_SAME_PX = 2.0  # the largest median distance between the joints of the two files


def is_format(content: Any) -> bool:
    """Whether a json's content is MPII's: a list of people with a center and a scale."""
    return (
        isinstance(content, list)
        and len(content) > 0
        and all(
            isinstance(row, dict) and {"image", "center", "scale"} <= row.keys() for row in content
        )
    )


def read(files: list[pathlib.Path], index: PictureIndex) -> Dataset:
    """Reads the jsons of one folder, each of them a subset.

    A person's box is the square of 200 times their scale. It may reach beyond the picture, and
    stays as it is. Heads are in the .mat beside a json: gt_valid.mat for valid.json.
    """
    limbs = tuple((MPII.keypoint_names[a], MPII.keypoint_names[b]) for a, b in MPII.limbs)
    dataset = Dataset("MPII", "person", MPII.keypoint_names, [], limbs, clip_boxes=False)
    subsets = {file: file.stem.removeprefix("mpii_") for file in files}
    for file, subset in subsets.items():
        rows = load_json(file)
        if not any("joints" in row for row in rows):
            what = "people without joints, as in MPII's test split, left out"
            dataset.left_out.add(what, str(file), len(rows))
        elif subset == "trainval" and "train" in subsets.values():
            what = "people of trainval, left out: the other files have them"
            dataset.left_out.add(what, str(file), len(rows))
        else:
            dataset.pictures += _pictures(file, rows, subset, index, dataset)
    return dataset


def _pictures(
    file: pathlib.Path,
    rows: list[dict[str, Any]],
    subset: str,
    index: PictureIndex,
    dataset: Dataset,
) -> list[LabelledPicture]:
    people = [_person(row, f"{file}: person {number}") for number, row in enumerate(rows)]
    head_sizes = _head_sizes(file, subset, people)
    if head_sizes is None:
        what = f"people of {subset} without a head's size, which PCKh needs"
        dataset.left_out.add(what, f"{file}: no gt_{subset}.mat beside it", len(rows))
    pictures: dict[str, LabelledPicture] = {}
    for number, (row, person) in enumerate(zip(rows, people)):
        where = f"{file}: person {number}"
        name = parsing.text(row["image"], f"{where}: image")
        if name not in pictures:
            path, _ = index.find(name, where)
            pictures[name] = LabelledPicture(name, path, [], None, subset, f"{file}: {name}")
        if head_sizes is not None:
            person.head_size = float(head_sizes[number])
        pictures[name].instances.append(person)
    return list(pictures.values())


def _person(row: dict[str, Any], where: str) -> Instance:
    """Keypoints and the box, in pixels from 0."""
    center, num_joints = f"{where}: center", MPII.num_keypoints
    x, y = (parsing.number(value, center) for value in parsing.items(row["center"], center, 2))
    scale = parsing.number(row["scale"], f"{where}: scale", 0, 1000)
    side = SCALE_PX * scale
    x, y = x - FIRST_PIXEL, y + LOWER * scale - FIRST_PIXEL
    box: Box = (x - side / 2, y - side / 2, side, side)
    joints = parsing.items(row.get("joints"), f"{where}: joints", num_joints)
    visible = parsing.items(row.get("joints_vis"), f"{where}: joints_vis", num_joints)
    keypoints = {}
    for name, joint, is_visible in zip(MPII.keypoint_names, joints, visible):
        if parsing.number(is_visible, f"{where}: joints_vis of {name}", 0, 1):
            place = f"{where}: joint {name}"
            at = [parsing.number(v, place) - FIRST_PIXEL for v in parsing.items(joint, place, 2)]
            keypoints[name] = (at[0], at[1], 2)
    return Instance(keypoints, box)


def _head_sizes(
    file: pathlib.Path, subset: str, people: list[Instance]
) -> Float[np.ndarray, "N"] | None:
    """MPII's measure of each person's head, in pixels; None: there is no .mat."""
    names = (f"gt_{subset}.mat", f"mpii_gt_{subset}.mat", f"{subset}.mat")
    paths = [path for name in names if (path := file.with_name(name)).is_file()]
    if not paths:
        return None
    content = _read_mat(paths[0])
    try:
        corners, joints, missing = (content[name] for name in _OF_HEADS)
    except KeyError as error:
        raise DataError(f"{paths[0]}: has no {error}, as MPII's ground truth does") from None
    count, num_keypoints = len(people), MPII.num_keypoints
    shapes = (2, 2, count), (num_keypoints, 2, count), (num_keypoints, count)
    if (corners.shape, joints.shape, missing.shape) != shapes:
        raise DataError(
            f"{paths[0]}: is of {corners.shape[-1]} people, and {file.name} of {count}: give the"
            " .mat of this json"
        )
    off = [
        abs(value - FIRST_PIXEL - at)
        for n, person in enumerate(people)
        for k, name in enumerate(MPII.keypoint_names)
        if name in person.keypoints and not missing[k, n]
        for value, at in zip(joints[k, :, n], person.keypoints[name])
    ]
    if off and not np.median(off) <= _SAME_PX:  # true for NaN
        raise DataError(
            f"{paths[0]}: its joints are not those of {file.name}, person by person: give the"
            " .mat of this json"
        )
    return HEAD_BIAS * np.linalg.norm(corners[1] - corners[0], axis=0)


def _read_mat(path: pathlib.Path) -> dict[str, Float[np.ndarray, "..."]]:
    """What a .mat holds of `_OF_HEADS`.

    scipy reads it in a process of its own: a damaged file can end that, as by a segmentation fault.
    """
    command = [sys.executable, "-P", "-c", _READ, str(path), *_OF_HEADS]
    done = subprocess.run(command, capture_output=True)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        reason = said[-1] if done.returncode == 1 and said else "its reader broke off"
        raise DataError(f"{path}: not a whole .mat ({reason:.200})")
    with np.load(io.BytesIO(done.stdout)) as arrays:
        return dict(arrays)
