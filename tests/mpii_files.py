"""Drawn people in MPII's form, as HRNet keeps it: annot/*.json, annot/gt_valid.mat, images/."""

import dataclasses
import json
import pathlib
from typing import Any

import cv2
import numpy as np
import scipy.io

from mspn_jax.skeletons import COCO, MPII
from mspn_jax.synthetic import people

# MPII's joints as weights of COCO's.
BETWEEN = {
    "pelvis": {"left_hip": 0.5, "right_hip": 0.5},
    "thorax": {"left_shoulder": 0.5, "right_shoulder": 0.5},
    "upper_neck": {"left_shoulder": 0.3, "right_shoulder": 0.3, "nose": 0.4},
    "head_top": {"left_shoulder": -0.3, "right_shoulder": -0.3, "nose": 1.6},
}


@dataclasses.dataclass
class Person:
    """What the files hold of a person, in MPII's pixels, which count from 1."""

    image: str
    center: list[float]
    scale: float
    joints: np.ndarray  # (16, 2)
    is_visible: np.ndarray  # (16,)
    head: np.ndarray  # (2, 2): two corners

    def to_json(self, with_joints: bool = True) -> dict[str, Any]:
        row = {"image": self.image, "center": self.center, "scale": self.scale}
        joints = np.where(self.is_visible[:, None], self.joints, -1)
        labels = {"joints": joints.tolist(), "joints_vis": self.is_visible.astype(int).tolist()}
        return row | (labels if with_joints else {})


def draw(folder: pathlib.Path, count: int, seed: int) -> list[Person]:
    """Writes pictures, and returns everyone in them whose joints are labelled."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for i in range(count):
        rng = np.random.default_rng((seed, i))
        image, annotations = people.draw_picture(rng, (120, 160))
        name = f"{seed:04d}{i:05d}.jpg"
        cv2.imwrite(str(folder / name), image[..., ::-1])
        for each in annotations:
            triples = np.reshape(each["keypoints"], (-1, 3))
            if (triples[5:, 2] > 0).sum() > 4:
                found.append(_person(name, triples, each["bbox"]))
    return found


def _person(image: str, triples: np.ndarray, box: list[float]) -> Person:
    weights = np.zeros((16, COCO.num_keypoints))
    for k, joint in enumerate(MPII.keypoint_names):
        for name, weight in BETWEEN.get(joint, {joint: 1.0}).items():
            weights[k, COCO.keypoint_names.index(name)] = weight
    is_visible = ((weights != 0) <= (triples[:, 2] > 0)).all(1)
    x, y, w, h = box
    scale = 1.2 * max(h, w) / 200
    center = [x + w / 2 + 1, y + h / 2 + 1 - 15 * scale]  # readers move it down again
    joints = weights @ triples[:, :2] + 1
    head = np.sort(np.stack([joints[8], joints[9]]), 0) + [[-0.1 * h, 0], [0.1 * h, 0.02 * h]]
    return Person(image, center, scale, joints, is_visible, head)


def write(root: pathlib.Path, train: int = 10, valid: int = 6) -> dict[str, list[Person]]:
    """Writes the splits, trainval and test too, and returns train and valid."""
    splits = {
        "train": draw(root / "images", train, seed=1),
        "valid": draw(root / "images", valid, seed=2),
    }
    everyone = {**splits, "trainval": [*splits["train"], *splits["valid"]]}
    (root / "annot").mkdir()
    for name, persons in everyone.items():
        rows = [person.to_json() for person in persons]
        (root / "annot" / f"{name}.json").write_text(json.dumps(rows))
    test = [person.to_json(with_joints=False) for person in splits["train"][:3]]
    (root / "annot" / "test.json").write_text(json.dumps(test))
    write_mat(root / "annot" / "gt_valid.mat", splits["valid"])
    return splits


def write_mat(path: pathlib.Path, persons: list[Person]) -> None:
    """MPII's ground truth: people are the last axis."""
    content = {
        "headboxes_src": np.stack([p.head for p in persons], -1),
        "pos_gt_src": np.stack([p.joints for p in persons], -1),
        "jnt_missing": np.stack([1.0 - p.is_visible for p in persons], -1),
    }
    scipy.io.savemat(path, content)
