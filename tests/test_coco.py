"""Reading and checking COCO's json: one clear line for each fault."""

import json
import logging

import numpy as np
import pytest
from coco_files import SPLIT, edit, first_person, read

from mspn_jax.data import coco
from mspn_jax.errors import DataError
from mspn_jax.skeletons import COCO


def test_people_with_labelled_keypoints_are_read_in_order(drawn):
    content = json.loads(coco.annotation_file(drawn, SPLIT).read_text())
    expected = [a for a in content["annotations"] if a["num_keypoints"] and not a["iscrowd"]]
    pictures = read(drawn)
    assert [p.image_id for p in pictures] == [i["id"] for i in content["images"]]
    ids = np.concatenate([p.annotation_ids for p in pictures])
    assert sorted(ids) == sorted(a["id"] for a in expected)
    by_id = {a["id"]: a for a in expected}
    for picture in pictures:
        for i, annotation_id in enumerate(picture.annotation_ids.tolist()):
            triples = np.array(by_id[annotation_id]["keypoints"]).reshape(-1, 3)
            np.testing.assert_allclose(picture.keypoints_image_xy[i], triples[:, :2], rtol=1e-6)
            np.testing.assert_array_equal(picture.visibility[i], triples[:, 2])
            assert picture.boxes_xywh[i].tolist() == by_id[annotation_id]["bbox"]


def test_the_sample_holds_the_people_it_says(coco_sample):
    counts = {
        split: sum(len(p.annotation_ids) for p in coco.read_pictures(coco_sample, split, COCO))
        for split in ("train2017", "val2017")
    }
    assert counts == {"train2017": 792, "val2017": 459}


def test_the_first_people_of_the_file(drawn):
    pictures = read(drawn, first_people=3)
    everyone = np.concatenate([p.annotation_ids for p in read(drawn)])
    np.testing.assert_array_equal(
        np.concatenate([p.annotation_ids for p in pictures]), everyone[:3]
    )
    assert all(len(p.annotation_ids) for p in pictures)


FAULTS = {
    "not COCO's": lambda c: c.pop("images"),
    "an image needs id": lambda c: c["images"][0].pop("height"),
    "image ids occur twice": lambda c: c["images"].append(c["images"][0]),
    "which 'images' does not list": lambda c: first_person(c).update(image_id=-5),
    "lacks bbox": lambda c: first_person(c).pop("bbox"),
    "has no keypoints: is this the instances json": lambda c: first_person(c).pop("keypoints"),
    "has 48 keypoint numbers": lambda c: first_person(c).update(keypoints=[1.0] * 48),
    "bbox of 3 numbers": lambda c: first_person(c).update(bbox=[1, 2, 3]),
    "not numbers": lambda c: first_person(c).update(bbox=["a", 0, 1, 1]),
    "a NaN or infinite number": lambda c: first_person(c).update(bbox=[float("nan"), 0, 1, 1]),
    "visibility that is not 0, 1 or 2": lambda c: first_person(c)["keypoints"].__setitem__(2, 7),
    "occurs twice": lambda c: c["annotations"].append(first_person(c)),
    "lists no pictures": lambda c: c.update(images=[]),
    "an id that is not a whole number": lambda c: first_person(c).update(id="a"),
    "not an object": lambda c: c["annotations"].insert(0, 3),
    "no annotation has a labelled keypoint": lambda c: [
        a.update(keypoints=[0] * 51) for a in c["annotations"]
    ],
}


@pytest.mark.parametrize("message", FAULTS)
def test_damaged_annotations_are_refused_by_file_and_id(drawn_copy, message):
    edit(drawn_copy, FAULTS[message])
    with pytest.raises(DataError, match=message) as error:
        read(drawn_copy)
    assert "person_keypoints_train2017.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_id_of_the_damaged_annotation_is_named(drawn_copy):
    ids = []

    def change(content):
        ids.append(first_person(content)["id"])
        first_person(content)["keypoints"] = [0.0] * 9

    edit(drawn_copy, change)
    with pytest.raises(DataError, match=f"annotation {ids[0]} has 9 keypoint numbers"):
        read(drawn_copy)


@pytest.mark.parametrize("box", [[5, 5, 0, 9], [5, 5, -3, 9], [-50, 5, 20, 20], [999, 5, 20, 20]])
def test_people_without_an_area_inside_the_picture_are_left_out_and_named(drawn_copy, caplog, box):
    ids = []

    def change(content):
        ids.append(first_person(content)["id"])
        first_person(content)["bbox"] = box

    before = sum(len(p.annotation_ids) for p in read(drawn_copy))
    edit(drawn_copy, change)
    with caplog.at_level(logging.WARNING, "mspn_jax"):
        after = sum(len(p.annotation_ids) for p in read(drawn_copy))
    assert after == before - 1
    assert f"left out 1 people whose box has no area inside their picture: annotation {ids[0]}" in (
        caplog.text
    )


def test_what_is_not_there_is_named(drawn_copy, tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no such folder.*COCO's layout"):
        coco.read_pictures(tmp_path / "nowhere", SPLIT, COCO)
    with pytest.raises(DataError, match="splits found there: train2017"):
        coco.read_pictures(drawn_copy, "test2017", COCO)
    coco.annotation_file(drawn_copy, SPLIT).write_text('{"images": [')
    with pytest.raises(DataError, match="not json"):
        read(drawn_copy)
