"""Files of person boxes in each supported format."""

import json

import numpy as np
import pytest

from mspn_jax.data.person_boxes import parse_boxes, read_person_boxes
from mspn_jax.errors import DataError

ANNOTATIONS = {
    "images": [
        {"id": 7, "file_name": "000000000007.jpg", "height": 50, "width": 40},
        {"id": 8, "file_name": "000000000008.jpg", "height": 50, "width": 40},
    ],
    "annotations": [
        {"image_id": 7, "category_id": 1, "bbox": [30, 5, 20, 10]},
        {"image_id": 7, "category_id": 3, "bbox": [1, 1, 5, 5]},
        {"image_id": 7, "category_id": 1, "bbox": [1, 1, 5, 5], "iscrowd": 1},
    ],
}
DETECTIONS = [
    {"image_id": 7, "category_id": 1, "bbox": [30, 5, 20, 10], "score": 0.9},
    {"image_id": 7, "category_id": 2, "bbox": [0, 0, 1, 1], "score": 0.9},
    {"image_id": 8, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.2},
]


def boxes_of(content, name: str, tmp_path):
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(content))
    found = read_person_boxes(path).of(name)
    return None if found is None else found.tolist()


@pytest.mark.parametrize(
    "content, name, expected",
    [
        (ANNOTATIONS, "val2017/000000000007.jpg", [[30, 5, 9, 10, 1]]),  # clipped, as evaluated
        (ANNOTATIONS, "000000000008.jpg", []),
        (ANNOTATIONS, "000000000009.jpg", None),
        (DETECTIONS, "000000000007.jpg", [[30, 5, 20, 10, 0.9]]),
        (DETECTIONS, "8.png", [[1, 2, 3, 4, 0.2]]),
        (DETECTIONS, "seven.jpg", None),
        ([row | {"category_id": 5} for row in DETECTIONS], "8.png", [[1, 2, 3, 4, 0.2]]),
        ([{"file_name": "a/b.jpg", "bbox": [1, 2, 3, 4]}], "a/b.jpg", [[1, 2, 3, 4, 1]]),
        (
            {"b.jpg": [[1, 2, 3, 4], [5, 6, 7, 8, 0.5]]},
            "a/b.jpg",
            [[1, 2, 3, 4, 1], [5, 6, 7, 8, 0.5]],
        ),
        ({"a/b.jpg": [[1, 2, 3, 4]], "b.jpg": [[5, 6, 7, 8]]}, "a/b.jpg", [[1, 2, 3, 4, 1]]),
        ([[1, 2, 3, 4]], "anything.jpg", [[1, 2, 3, 4, 1]]),
    ],
)
def test_boxes_are_found_by_picture(content, name, expected, tmp_path):
    found = boxes_of(content, name, tmp_path)
    assert (found is None) == (expected is None)
    if expected:
        np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize(
    "content, message",
    [
        (3, "no file of boxes: expected COCO's"),
        ({"a.jpg": 3}, "no file of boxes"),
        ({"a.jpg": [[1, 2, 3]]}, r"a.jpg: box 0 is \[1, 2, 3\]; expected x, y, width, height"),
        ([[1, 2, 3, 4], [1, 2, 3, "wide"]], r'box 1 is \[1, 2, 3, "wide", 1.0\]'),
        ([["1", "2", "3", "4"]], r'box 0 is \["1", "2"'),
        ([[1, 2, 3, float("nan")]], "box 0 is .1, 2, 3, NaN"),
        (["1234"], 'box 0 is "1234"'),
        ([{"image_id": 3, "score": 1.0}], "entry at index 0: bbox is missing; expected x, y"),
        ([DETECTIONS[0] | {"bbox": "1234"}], 'entry at index 0: bbox is "1234"'),
        ([DETECTIONS[0] | {"image_id": 7.5}], "entry at index 0: image_id is 7.5; expected a"),
        ([DETECTIONS[0] | {"score": "high"}], 'entry at index 0: score is "high"'),
        ([DETECTIONS[0] | {"score": 1.1e9}], "entry at index 0: score is 1100000000.0"),
        ([DETECTIONS[0] | {"file_name": 3}], "entry at index 0: file_name is 3"),
        ([DETECTIONS[0] | {"category_id": "cat"}, DETECTIONS[0]], 'category_id is "cat"'),
        ({"images": ANNOTATIONS["images"]}, "it has no list of 'annotations'"),
        (ANNOTATIONS | {"images": ANNOTATIONS["images"][1:]}, "index 0: its image_id is not the"),
        (ANNOTATIONS | {"images": [{"id": 7}]}, "image 7: file_name is missing"),
        (
            [row | {"category_id": 5 + i} for i, row in enumerate(DETECTIONS)],
            "has boxes of categories 5, 6, 7, and none of COCO's person",
        ),
    ],
)
def test_what_is_no_box_is_named(content, message, tmp_path):
    with pytest.raises(DataError, match=message):
        boxes_of(content, "a.jpg", tmp_path)


def test_boxes_of_another_category_are_not_taken_silently(tmp_path, caplog):
    assert boxes_of([DETECTIONS[0] | {"category_id": 5}], "7.jpg", tmp_path)
    assert "no boxes of COCO's person (1); those of category 5, the only one, are" in caplog.text
    caplog.clear()
    assert boxes_of(DETECTIONS, "7.jpg", tmp_path) and not caplog.text


def test_boxes_of_a_command_line():
    assert parse_boxes(["1,2,3,4", "5,6,7,8,0.5"], "--box").tolist() == [
        [1, 2, 3, 4, 1],
        [5, 6, 7, 8, 0.5],
    ]
    for text in ("1,2,3", "1,2,3,wide", "", "nan,1,2,3"):
        with pytest.raises(DataError, match=r"^--box: box 0 is "):
            parse_boxes([text], "--box")
