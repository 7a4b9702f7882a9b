"""Reading and checking COCO's json: one line per fault."""

import json
import logging

import numpy as np
import pytest
from coco_files import SPLIT, edit, first_person, read

from mspn_jax.data import coco
from mspn_jax.errors import DataError


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
        split: sum(len(p.annotation_ids) for p in read(coco_sample, split=split))
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
    assert f"annotation {ids[0]}: the box has no area inside its picture. Neither trained on" in (
        caplog.text
    )


def test_what_is_not_there_is_named(drawn_copy, tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no such folder.*COCO's layout"):
        read(tmp_path / "nowhere")
    with pytest.raises(DataError, match="splits found there: train2017"):
        read(drawn_copy, split="test2017")
    coco.annotation_file(drawn_copy, SPLIT).write_text('{"images": [')
    with pytest.raises(DataError, match="not json"):
        read(drawn_copy)


def test_missing_drawn_data_are_answered_with_what_draws_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, module in (("synthetic", "people"), ("animals", "animals")):
        with pytest.raises(DataError, match=f"python -m mspn_jax.synthetic.{module}` draws"):
            coco.annotation_file(f"data/{name}", "train2017")
    with pytest.raises(DataError, match="COCO 2017 is 19 GB"):
        coco.annotation_file("data/coco", "train2017")
