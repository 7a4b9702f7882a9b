"""Invalid and unusual detection files: each is read, or is an error with file, index and remedy."""

import json
from typing import Any

import mutations
import numpy as np
import pytest

from mspn_jax.data.detections import read_detections
from mspn_jax.errors import DataError

INF = float("inf")


def detection(**changes: Any) -> dict[str, Any]:
    return {"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.5} | changes


BAD_DETECTIONS = {
    "an object": ({}, "not detections: COCO's results are a list"),
    "a number": ([3], "entry at index 0: 3 is not a json object"),
    "a string category": (
        [detection(), detection(category_id="cat")],
        'entry at index 1: category_id is "cat"',
    ),
    "no category": ([{"image_id": 1}], "entry at index 0: category_id is missing"),
    "no bbox": ([{"image_id": 1, "category_id": 1, "score": 1}], "index 0: bbox is missing"),
    "a fractional id": ([detection(image_id=1.7)], "entry at index 0: image_id is 1.7; expected"),
    "an infinite id": ([detection(image_id=INF)], "index 0: image_id is Infinity; expected"),
    "a rounded float": (
        [detection(image_id=2.0**53 + 2)],
        "image_id is 9007199254740994.0; expected",
    ),
    "an id of 10**30": ([detection(image_id=10**30)], "entry at index 0: image_id is 1000"),
    "an id near another": (
        [detection(image_id=2**60 + 1)],
        f"1 pictures that are not in the split ({2**60 + 1})",
    ),
    "a bbox of text": ([detection(bbox="1234")], 'entry at index 0: bbox is "1234"; expected'),
    "a bbox of 3": ([detection(bbox=[1, 2, 3])], "entry at index 0: bbox is [1, 2, 3]; expected"),
    "a score of text": ([detection(score="1")], 'entry at index 0: score is "1"'),
    "a score of a list": ([detection(score=[1])], "entry at index 0: score is [1]"),
    "another split": ([detection(image_id=9)], "boxes on 1 pictures that are not in the split (9)"),
    "another category": ([detection(category_id=3)], "no box of category 1 in it"),
    "a score of 10**400": ([detection(score=10**400)], "no usable box of category 1 in it"),
    "a bbox of 10**400": ([detection(bbox=[10**400, 1, 2, 3])], "no usable box of category 1"),
}


@pytest.mark.parametrize("case", BAD_DETECTIONS)
def test_bad_detections_are_one_line(case, tmp_path):
    content, message = BAD_DETECTIONS[case]
    path = tmp_path / "detections.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError) as error:
        read_detections(path, np.array([1, 2, 2**60]))
    assert str(error.value).startswith(f"{path}: ") and message in str(error.value)
    assert "\n" not in str(error.value)


def test_large_ids_are_not_rounded(tmp_path):
    path = tmp_path / "detections.json"
    ids = [2**60, 2**60 + 1, 2**53 + 1, 2**53]
    given = [*ids[:3], 2.0**53]
    path.write_text(json.dumps([detection(image_id=i) for i in given]))
    assert read_detections(path, np.array(ids)).image_ids.tolist() == ids


@pytest.mark.parametrize("seed", range(2))
def test_mutated_detections_are_read_or_refused(seed, tmp_path):
    path = tmp_path / "detections.json"
    counts = {"read": 0, "refused": 0}
    for number in range(100):
        content = [detection(image_id=1 + i % 2) for i in range(3)]
        path.write_text(json.dumps(mutations.mutated(content, [seed, number])))
        try:
            found = read_detections(path, np.array([1, 2]))
            assert np.isfinite(found.boxes_xywh).all() and np.isfinite(found.scores).all()
            counts["read"] += 1
        except DataError as error:
            assert "\n" not in str(error)
            counts["refused"] += 1
    assert min(counts.values()) > 5
