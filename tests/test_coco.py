"""Reading and checking COCO's json, and the records made of it: one clear line for each fault."""

import dataclasses
import json
import logging
import multiprocessing
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from mspn_jax.data import coco, evaluation_set, records, synthetic
from mspn_jax.data.coco import DataError
from mspn_jax.data.detections import read_detections
from mspn_jax.skeletons import COCO

SPLIT = "train2017"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("drawn")
    synthetic.write_dataset(root, {SPLIT: 12})
    return root


@pytest.fixture
def root(drawn, tmp_path) -> pathlib.Path:
    """A copy to do harm to."""
    shutil.copytree(drawn, tmp_path / "data")
    return tmp_path / "data"


def edit(root: pathlib.Path, change) -> None:
    path = coco.annotation_file(root, SPLIT)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def first_person(content) -> dict:
    return next(a for a in content["annotations"] if a["num_keypoints"] and not a["iscrowd"])


def read(root, **arguments):
    return coco.read_pictures(root, SPLIT, COCO, **arguments)


# ------------------------------------------------------------------------------------ reading


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
def test_damaged_annotations_are_refused_by_file_and_id(root, message):
    edit(root, FAULTS[message])
    with pytest.raises(DataError, match=message) as error:
        read(root)
    assert "person_keypoints_train2017.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_id_of_the_damaged_annotation_is_named(root):
    ids = []

    def change(content):
        ids.append(first_person(content)["id"])
        first_person(content)["keypoints"] = [0.0] * 9

    edit(root, change)
    with pytest.raises(DataError, match=f"annotation {ids[0]} has 9 keypoint numbers"):
        read(root)


@pytest.mark.parametrize("box", [[5, 5, 0, 9], [5, 5, -3, 9], [-50, 5, 20, 20], [999, 5, 20, 20]])
def test_people_without_an_area_inside_the_picture_are_left_out_and_named(root, caplog, box):
    ids = []

    def change(content):
        ids.append(first_person(content)["id"])
        first_person(content)["bbox"] = box

    before = sum(len(p.annotation_ids) for p in read(root))
    edit(root, change)
    with caplog.at_level(logging.WARNING, "mspn_jax"):
        after = sum(len(p.annotation_ids) for p in read(root))
    assert after == before - 1
    assert f"left out 1 people whose box has no area inside their picture: annotation {ids[0]}" in (
        caplog.text
    )


def test_what_is_not_there_is_named(root, tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no such folder.*COCO's layout"):
        coco.read_pictures(tmp_path / "nowhere", SPLIT, COCO)
    with pytest.raises(DataError, match="splits found there: train2017"):
        coco.read_pictures(root, "test2017", COCO)
    coco.annotation_file(root, SPLIT).write_text('{"images": [')
    with pytest.raises(DataError, match="not json"):
        read(root)


# --------------------------------------------------------------------------------- detections


@pytest.fixture
def detections(tmp_path):
    def write(content) -> pathlib.Path:
        path = tmp_path / "detections.json"
        path.write_text(json.dumps(content))
        return path

    return write


def box(image_id=1, **fields):
    row = {"image_id": image_id, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.5}
    return row | fields


def test_only_people_with_an_area_are_taken(detections, caplog):
    path = detections(
        [box(), box(category_id=3), box(2, score=0.25), box(bbox=[1, 1, 0, 5]), box(3)]
    )
    with caplog.at_level(logging.WARNING, "mspn_jax"):
        found = read_detections(path, [1, 2, 3])
    np.testing.assert_array_equal(found.image_ids, [1, 2, 3])
    np.testing.assert_array_equal(found.scores, [0.5, 0.25, 0.5])
    assert "left out 1 boxes" in caplog.text


@pytest.mark.parametrize(
    "content, message",
    [
        ({"images": []}, "not detections"),
        ([box(7), box(8), box(1)], r"boxes on 2 pictures that the split has not \(7, 8\)"),
        ([box(), {"image_id": 1, "category_id": 1}], "entry 1 is not a detection"),
        ([box(category_id=3)], "no box of category 1 in it; there are boxes of category 3"),
        ([], "boxes of category none"),
        ([box(bbox=[1, 2, 3])], "entry 0 is not a detection"),
    ],
)
def test_wrong_detection_files_are_refused(detections, content, message):
    with pytest.raises(DataError, match=message):
        read_detections(detections(content), [1, 2])


# ------------------------------------------------------------------------------------ records


def test_records_hold_the_pictures_and_people_and_are_made_once(root, monkeypatch):
    opened = records.open_records(root, SPLIT, COCO)
    pictures = read(root)
    assert opened.image_ids.tolist() == [p.image_id for p in pictures]
    for i, picture in enumerate(pictures):
        record = opened.source[i]
        assert record["image"] == (root / SPLIT / picture.file_name).read_bytes()
        assert record["image_id"] == picture.image_id
        np.testing.assert_array_equal(record["boxes_xywh"], picture.boxes_xywh)
        np.testing.assert_array_equal(record["keypoints_image_xy"], picture.keypoints_image_xy)
        np.testing.assert_array_equal(record["visibility"], picture.visibility)
        assert opened.num_people[i] == len(picture.annotation_ids)
    monkeypatch.setattr(records, "read_pictures", lambda *a: pytest.fail("made again"))
    records.open_records(root, SPLIT, COCO)


def test_another_json_makes_other_records(root):
    before = records.open_records(root, SPLIT, COCO)
    edit(root, lambda content: content["annotations"].remove(first_person(content)))
    after = records.open_records(root, SPLIT, COCO)
    assert after.num_people.sum() == before.num_people.sum() - 1


def test_pictures_without_people_are_left_out_of_training_alone(root):
    edit(root, lambda c: c["images"].append(c["images"][0] | {"id": 77}))
    everything = records.open_records(root, SPLIT, COCO)
    training = records.open_records(root, SPLIT, COCO, only_with_people=True)
    assert 77 in everything.image_ids and 77 not in training.image_ids


def test_missing_pictures_are_named_before_anything_is_written(root):
    gone = sorted((root / SPLIT).iterdir())[3]
    gone.unlink()
    with pytest.raises(DataError, match=rf"1 of 12 pictures are missing \({gone.name}\)"):
        records.open_records(root, SPLIT, COCO)
    assert not list((root / "records").glob("coco_person_keypoints/*/*"))
    shutil.rmtree(root / SPLIT)
    with pytest.raises(DataError, match="no such folder of pictures"):
        records.open_records(root, SPLIT, COCO)


@pytest.mark.parametrize(
    "harm, reason",
    [
        (lambda data: data[: len(data) // 2], "truncated or damaged JPEG"),
        (lambda data: b"", "empty file"),
        (lambda data: b"<html>not found</html>", "not a picture"),
    ],
)
def test_unreadable_pictures_are_skipped_in_training_and_refused_in_evaluation(
    root, caplog, harm, reason
):
    victim = next(p for p in read(root) if len(p.annotation_ids))
    path = root / SPLIT / victim.file_name
    path.write_bytes(harm(path.read_bytes()))
    with caplog.at_level(logging.WARNING, "mspn_jax"):
        training = records.open_records(root, SPLIT, COCO, only_with_people=True)
    assert victim.image_id not in training.image_ids
    assert f"1 pictures cannot be read: {path}: {reason}" in caplog.text
    with pytest.raises(DataError, match=rf"1 pictures cannot be read.*{victim.file_name}"):
        evaluation_set.open_split(root, SPLIT, COCO)


def test_a_picture_of_another_size_than_the_json_says_is_named(root, caplog):
    edit(root, lambda content: content["images"][0].update(width=321))
    with caplog.at_level(logging.WARNING, "mspn_jax"):
        records.open_records(root, SPLIT, COCO)
    assert "1 pictures have another size than the json says" in caplog.text


def test_a_png_named_jpg_is_read(root):
    import cv2

    path = sorted((root / SPLIT).iterdir())[0]
    image = records.decode_picture(path.read_bytes())
    path.write_bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())
    opened = records.open_records(root, SPLIT, COCO)
    np.testing.assert_array_equal(records.decode_picture(opened.source[0]["image"]), image)


def test_a_root_that_cannot_be_written_keeps_its_records_in_the_users_cache(
    root, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (root / "records").write_text("in the way")  # also root's own processes are kept out by this
    opened = records.open_records(root, SPLIT, COCO)
    assert len(opened.image_ids) == 12
    assert (tmp_path / "cache" / "mspn_jax" / "records").is_dir()


def test_no_place_for_records_is_one_clear_line(root, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(DataError, match="no place to write records"):
        records.open_records(root, SPLIT, COCO, records_dir=blocked / "here")


def test_no_room_for_records_is_said_before(root, monkeypatch):
    usage = shutil.disk_usage(root)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DataError, match="GB free but records take"):
        records.open_records(root, SPLIT, COCO)


def _open(root: str) -> int:
    return int(records.open_records(root, SPLIT, COCO).num_people.sum())


def test_two_processes_at_once_make_one_set_of_records(root):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        counts = pool.map(_open, [str(root)] * 2)
    assert counts[0] == counts[1] > 0
    assert len(list((root / "records").glob("coco_person_keypoints/*/*"))) == 1


def test_records_that_were_interrupted_are_made_again(root):
    program = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from mspn_jax.data import records\n"
        "from mspn_jax.skeletons import COCO\n"
        "make = records.CocoPersonKeypoints._generate_examples\n"
        "def stop(self):\n"
        "    for i, example in enumerate(make(self)):\n"
        "        if i == 5: os._exit(9)\n"
        "        yield example\n"
        "records.CocoPersonKeypoints._generate_examples = stop\n"
        "records.open_records(sys.argv[2], 'train2017', COCO)\n"
    )
    here = str(pathlib.Path(__file__).parents[1])
    killed = subprocess.run(
        [sys.executable, "-c", program, here, str(root)], capture_output=True, env=os.environ
    )
    assert killed.returncode == 9
    assert len(records.open_records(root, SPLIT, COCO).image_ids) == 12
    assert len(list((root / "records").glob("coco_person_keypoints/*/*"))) == 1


# ----------------------------------------------------------------------------- evaluation sets


def test_annotated_boxes_are_clipped_and_sorted_by_picture(drawn):
    dataset = evaluation_set.open_split(drawn, SPLIT, COCO)
    boxes = dataset.boxes
    assert dataset.has_annotations and (np.diff(boxes.record_indices) >= 0).all()
    assert (boxes.boxes_xyxy >= 0).all() and (boxes.boxes_xyxy[:, 2] <= 319).all()
    assert (boxes.scores == 1).all()
    np.testing.assert_array_equal(dataset.records.image_ids[boxes.record_indices], boxes.image_ids)


def test_detected_boxes_are_not_clipped(drawn, detections):
    image_ids = [p.image_id for p in read(drawn)]
    path = detections([box(image_ids[4], bbox=[-5, -6, 10, 500]), box(image_ids[2])])
    dataset = evaluation_set.open_split(drawn, SPLIT, COCO, detections=path)
    np.testing.assert_array_equal(dataset.boxes.image_ids, [image_ids[2], image_ids[4]])
    np.testing.assert_array_equal(dataset.boxes.boxes_xyxy[1], [-5, -6, 5, 494])


def test_a_split_without_annotations_needs_detections(root, detections):
    path = coco.annotation_file(root, SPLIT)
    content = json.loads(path.read_text())
    info = root / "annotations" / "image_info_train2017.json"
    info.write_text(json.dumps({"images": content["images"]}))
    path.unlink()
    with pytest.raises(DataError, match="a detector's are needed"):
        evaluation_set.open_split(root, SPLIT, COCO)
    found = detections([box(content["images"][0]["id"])])
    dataset = evaluation_set.open_split(root, SPLIT, COCO, detections=found)
    assert not dataset.has_annotations and len(dataset.boxes) == 1


def test_a_split_of_nobody_is_refused_before_records_are_made(root):
    edit(root, lambda content: content.update(annotations=[]))
    with pytest.raises(DataError, match="nobody in it to learn from"):
        records.open_records(root, SPLIT, COCO, only_with_people=True)
    with pytest.raises(DataError, match="has no annotated boxes"):
        evaluation_set.open_split(root, SPLIT, COCO)


def test_records_of_other_keypoints_are_other_records(root):
    opened = records.open_records(root, SPLIT, COCO)
    names = (COCO.keypoint_names[1], COCO.keypoint_names[0], *COCO.keypoint_names[2:])
    with pytest.raises(DataError, match="in another order: keypoint 0 is nose here"):
        records.open_records(root, SPLIT, dataclasses.replace(COCO, keypoint_names=names))
    assert len(opened.source)
