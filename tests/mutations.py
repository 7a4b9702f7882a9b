"""A small valid COCO json, mutations of it, and properties that hold for each."""

import copy
import math
import pathlib
import random
from typing import Any

import numpy as np
import pytest

from mspn_jax.data import check
from mspn_jax.data.annotations import Annotations
from mspn_jax.data.validator import read_annotations
from mspn_jax.errors import DataError
from mspn_jax.evaluation import scoring
from mspn_jax.skeletons import COCO

VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    2,
    3,
    -1,
    0.0,
    0.5,
    1.0,
    -0.5,
    1e300,
    -1e300,
    2**31,
    2**53 + 1,
    2**63,
    10**30,
    -(10**30),
    10**400,
    math.nan,
    math.inf,
    -math.inf,
    "",
    "0",
    "1",
    "a",
    "\ud800",
    [],
    [1],
    [[]],
    [None],
    {},
    {"id": 1},
    1.7,
    100_000,
    100_001,
    1e-300,
]


def sound_content() -> dict[str, Any]:
    """Two pictures of 200 x 100, four people with labelled keypoints."""
    annotations = []
    for number in (11, 12, 13, 14):
        x, y = 20 + 5 * (number % 2), 10 + 3 * (number % 3)
        steps = np.stack([x + np.arange(17) * 2.0, y + np.arange(17) * 8.0, np.full(17, 2)], 1)
        annotations.append(
            {
                "id": number,
                "image_id": 1 + number % 2,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [x - 5, y - 5, 50, 150],
                "area": 5000.0,
                "num_keypoints": 17,
                "keypoints": steps.ravel().tolist(),
            }
        )
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 200, "width": 100} for i in (1, 2)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO.keypoint_names)}],
    }


def mutated(content: Any, seed: list[int]) -> Any:
    """One to three places replaced, removed, repeated, or exchanged with another place."""
    rng = random.Random(str(seed))
    content = copy.deepcopy(content)
    for _ in range(rng.randint(1, 3)):
        parent, key = rng.choice(list(_places(content)))
        kind = rng.choice(["replace", "replace", "replace", "remove", "repeat", "move"])
        if kind == "replace":
            parent[key] = copy.deepcopy(rng.choice(VALUES))
        elif kind == "remove":
            del parent[key]
        elif kind == "repeat" and isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
        elif kind == "move":
            other, other_key = rng.choice(list(_places(content)))
            parent[key] = copy.deepcopy(other[other_key])
        if not content:
            break
    return content


def _places(value: Any):
    """(container, key) of every value inside. Of a long list only the ends count."""
    if isinstance(value, dict):
        keys: list[Any] = list(value)
    elif isinstance(value, list):
        keys = list(range(min(6, len(value))))
    else:
        return
    for key in keys:
        yield value, key
        yield from _places(value[key])


def perfect_results(annotations: Annotations) -> list[dict[str, Any]]:
    """Everyone who counts, found exactly."""
    people = annotations.people()
    ones = np.ones((*people.visibility.shape, 1))
    triples = np.concatenate([people.keypoints_image_xy, ones], -1)
    return [
        {
            "image_id": int(people.image_ids[image]),
            "category_id": annotations.category_id,
            "keypoints": triples[row].ravel().tolist(),
            "score": 1.0,
            "bbox": people.boxes_xywh[row].tolist(),
        }
        for row, image in enumerate(people.image_rows)
    ]


def outcome(content: Any, root: pathlib.Path) -> str:
    """Checks all that must hold for the split `val` of `root`; returns "read" or "refused".

    A refusal is one line, and the check lists it. What is read has an AP of 1 for perfect results,
    and noisy results have the AP of a json with only the people that count.
    """
    try:
        annotations = read_annotations(root=root, split="val", skeleton=COCO)
    except DataError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
        try:
            inspection = check.inspect(
                root=root, split="val", skeleton=COCO, padding=1.25, crop_hw=(256, 192)
            )
        except DataError as same:
            assert str(same) == str(error)
        else:
            assert inspection.num_errors
        return "refused"
    pictures = annotations.pictures()
    assert sum(len(p.annotation_ids) for p in pictures) == annotations.is_person.sum()
    assert all(np.isfinite(p.keypoints_image_xy).all() for p in pictures)
    if not annotations.is_person.any():
        return "read"
    perfect = perfect_results(annotations)
    metrics, _ = scoring.coco_metrics(annotations, perfect, COCO)
    assert metrics["AP"] == pytest.approx(1)
    rng = np.random.default_rng(0)
    for result in perfect:
        shaken = np.reshape(result["keypoints"], (17, 3)) + rng.normal(0, 12, (17, 1)) * (1, 1, 0)
        result["keypoints"] = shaken.ravel().tolist()
        result["score"] = rng.random()
    ours, _ = scoring.coco_metrics(annotations, perfect, COCO)
    theirs, _ = scoring.coco_metrics(annotations.people(), perfect, COCO)
    assert ours == pytest.approx(theirs)
    return "read"
