"""The result for one picture: its people one by one, annotated, and in every format."""

import csv
import io
import sys
import types

import numpy as np
import pytest

from mspn_jax.people import People, csv_columns, csv_lines, person_scores
from mspn_jax.skeletons import COCO


def some_people(count: int = 3, **fields) -> People:
    rng = np.random.default_rng(count)
    box_scores = rng.uniform(0.3, 1, count)
    keypoint_scores = rng.uniform(0.5, 1.5, (count, 17)).astype(np.float32)
    return People(
        boxes_xywh=rng.uniform(10, 60, (count, 4)),
        box_scores=box_scores,
        keypoints_image_xy=rng.uniform(0, 90, (count, 17, 2)).astype(np.float32),
        keypoint_scores=keypoint_scores,
        skeleton=COCO,
        person_scores=person_scores(box_scores, keypoint_scores),
        **fields,
    )


def test_one_person_is_people_of_length_one():
    people = some_people(3, ids=np.array([7, 4, 9]), file_name="a.jpg")
    assert len(people) == 3 and [len(person) for person in people] == [1, 1, 1]
    assert people[1].ids == [4] and people[-1].ids == [9] and people[1].file_name == "a.jpg"
    np.testing.assert_array_equal(people[2].keypoints_image_xy[0], people.keypoints_image_xy[2])
    assert people[people.ids > 5].ids.tolist() == [7, 9] and people[:2].ids.tolist() == [7, 4]
    assert len(some_people(0)) == 0 and some_people(0).to_json() == []
    with pytest.raises(IndexError):
        people[3]


def test_confidence_goes_from_nothing_found_to_certain():
    people = some_people(2)
    people.keypoint_scores[0], people.keypoint_scores[1] = 0.5, 1.6
    np.testing.assert_allclose(people.confidences, [0, people.box_scores[1]])


def test_json_has_what_is_known_of_a_picture_and_of_a_frame():
    people = some_people(2, file_name="val/000000000139.jpg")
    entry = people.to_json()[1]
    assert entry["image_id"] == 139 and entry["category_id"] == 1
    assert entry["file_name"] == "val/000000000139.jpg"
    assert entry["bbox"] == people.boxes_xywh[1].tolist()
    assert entry["score"] == people.person_scores[1]
    assert entry["confidence"] == pytest.approx(people.confidences[1], abs=1e-4)
    np.testing.assert_array_equal(
        np.array(entry["keypoints"], np.float32).reshape(17, 3)[:, :2], people.keypoints_image_xy[1]
    )
    assert not {"id", "time", "frame"} & entry.keys()
    ids = np.array([5, 6])
    frame = some_people(2, file_name="12.mp4", frame_index=3, time_s=0.1, ids=ids).to_json()[1]
    assert (frame["frame"], frame["time"], frame["id"]) == (3, 0.1, 6)
    assert "image_id" not in frame


def test_csv_has_the_columns_of_its_header():
    people = some_people(2, file_name="walk.mp4", frame_index=4, time_s=7200.125)
    first, second = csv.DictReader(io.StringIO(people.to_csv(), newline=""))
    assert first["person"] == "0" and second["person"] == "1" and second["frame"] == "4"
    assert second["time"] == "7200.125" and second["id"] == ""
    assert float(second["right_ankle_x"]) == pytest.approx(people.keypoints_image_xy[1, 16, 0])
    assert float(second["box_h"]) == pytest.approx(people.boxes_xywh[1, 3])
    assert float(second["score"]) == pytest.approx(people.person_scores[1])
    assert float(second["confidence"]) == pytest.approx(people.confidences[1])
    assert csv_lines([csv_columns(COCO)]).count(",") == 8 + 3 * 17 + 3 - 1


def test_a_dataframe_needs_pandas(monkeypatch):
    people = some_people(2)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        people.to_dataframe()
    pandas = types.ModuleType("pandas")
    pandas.DataFrame = lambda rows, columns: [dict(zip(columns, row)) for row in rows]
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    table = people.to_dataframe()
    assert table[1]["person"] == 1 and table[1]["id"] is None
    assert table[1]["left_eye_y"] == people.keypoints_image_xy[1, 1, 1]


def test_the_fields_of_supervision_are_arrays_of_its_shapes():
    fields = some_people(3).to_supervision()
    assert {name: array.shape for name, array in fields.items()} == {
        "xy": (3, 17, 2),
        "confidence": (3, 17),
        "class_id": (3,),
    }
    assert fields["confidence"].max() <= 1 and fields["confidence"].min() >= 0


def test_people_are_drawn_on_their_picture_or_on_another():
    image = np.zeros((90, 90, 3), np.uint8)
    people = some_people(1, image_rgb=image)
    people.keypoint_scores[:] = 1.5
    assert people.draw().any() and not image.any()
    other = np.full_like(image, 9)
    assert (people.draw(other) >= 9).any(2).all()
    with pytest.raises(ValueError, match=r"give draw\(\) the image"):
        some_people(1).draw()
