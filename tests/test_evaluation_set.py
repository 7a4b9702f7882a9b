"""Boxes to evaluate, annotated or detected."""

import dataclasses
import json
import logging
import pathlib
import re
import shutil

import mutations
import numpy as np
import pytest
from coco_files import SPLIT, edit, read

from mspn_jax.commands import configured, training_data
from mspn_jax.configs import quickstart
from mspn_jax.data import coco, evaluation_set, records, validator
from mspn_jax.data.detections import read_detections
from mspn_jax.errors import DataError
from mspn_jax.evaluation import scoring
from mspn_jax.evaluation.estimation import estimate_boxes
from mspn_jax.skeletons import COCO


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
        found = read_detections(path, np.array([1, 2, 3]))
    np.testing.assert_array_equal(found.image_ids, [1, 2, 3])
    np.testing.assert_array_equal(found.scores, [0.5, 0.25, 0.5])
    assert "1 boxes are left out" in caplog.text


@pytest.mark.parametrize(
    "content, message",
    [
        ({"images": []}, "not detections"),
        ([box(7), box(8), box(1)], "boxes on 2 pictures that are not in the split (7, 8)"),
        ([box(category_id=3)], "no box of category 1 in it; there are boxes of category 3 (1)"),
        ([], "boxes of category none"),
        ([box(score=float("nan"))], "no usable box of category 1"),
    ],
)
def test_wrong_detection_files_are_refused(detections, content, message):
    with pytest.raises(DataError, match=re.escape(message)):
        read_detections(detections(content), np.array([1, 2]))


def test_annotated_boxes_are_clipped_and_sorted_by_picture(drawn):
    dataset = evaluation_set.open_split(root=drawn, split=SPLIT, skeleton=COCO)
    boxes = dataset.boxes
    assert dataset.has_annotations and (np.diff(boxes.record_indices) >= 0).all()
    assert (boxes.boxes_xyxy >= 0).all() and (boxes.boxes_xyxy[:, 2] <= 319).all()
    assert (boxes.scores == 1).all()
    np.testing.assert_array_equal(dataset.records.image_ids[boxes.record_indices], boxes.image_ids)


def test_detected_boxes_are_not_clipped(drawn, detections):
    image_ids = [p.image_id for p in read(drawn)]
    path = detections([box(image_ids[4], bbox=[-5, -6, 10, 500]), box(image_ids[2])])
    dataset = evaluation_set.open_split(root=drawn, split=SPLIT, skeleton=COCO, detections=path)
    np.testing.assert_array_equal(dataset.boxes.image_ids, [image_ids[2], image_ids[4]])
    np.testing.assert_array_equal(dataset.boxes.boxes_xyxy[1], [-5, -6, 5, 494])


def test_corners_of_detected_boxes_are_the_references(drawn, detections):
    """The reference rounds x, y, width and height to float32, and adds in float32."""
    bbox = [407.7, 172.7, 26.2, 10.6]
    x, y, w, h = map(np.float32, bbox)
    path = detections([box(read(drawn)[0].image_id, bbox=bbox)])
    dataset = evaluation_set.open_split(root=drawn, split=SPLIT, skeleton=COCO, detections=path)
    np.testing.assert_array_equal(dataset.boxes.boxes_xyxy, [[x, y, x + w, y + h]])
    assert x + w != np.float32(bbox[0] + bbox[2])


def test_a_split_without_annotations_needs_detections(drawn_copy, detections):
    path = coco.annotation_file(drawn_copy, SPLIT)
    content = json.loads(path.read_text())
    info = drawn_copy / "annotations" / "image_info_train2017.json"
    info.write_text(json.dumps({"images": content["images"]}))
    path.unlink()
    with pytest.raises(DataError, match="a detector's are needed"):
        evaluation_set.open_split(root=drawn_copy, split=SPLIT, skeleton=COCO)
    found = detections([box(content["images"][0]["id"])])
    dataset = evaluation_set.open_split(
        root=drawn_copy, split=SPLIT, skeleton=COCO, detections=found
    )
    assert not dataset.has_annotations and len(dataset.boxes) == 1


def test_a_split_of_nobody_is_refused_before_records_are_made(drawn_copy):
    edit(drawn_copy, lambda content: content.update(annotations=[]))
    with pytest.raises(DataError, match="nobody in it to learn from"):
        records.open_records(root=drawn_copy, split=SPLIT, skeleton=COCO, only_with_people=True)
    with pytest.raises(DataError, match="has no annotated boxes"):
        evaluation_set.open_split(root=drawn_copy, split=SPLIT, skeleton=COCO)


def test_records_of_other_keypoints_are_other_records(drawn_copy):
    opened = records.open_records(root=drawn_copy, split=SPLIT, skeleton=COCO)
    names = (COCO.keypoint_names[1], COCO.keypoint_names[0], *COCO.keypoint_names[2:])
    with pytest.raises(DataError, match="in another order: keypoint 0 is nose here"):
        records.open_records(
            root=drawn_copy, split=SPLIT, skeleton=dataclasses.replace(COCO, keypoint_names=names)
        )
    assert len(opened.source)


def test_the_json_is_parsed_once_for_a_split(drawn_copy, monkeypatch):
    parsed = []
    load = validator.load_json
    monkeypatch.setattr(validator, "load_json", lambda path: parsed.append(path) or load(path))
    dataset = evaluation_set.open_split(root=drawn_copy, split=SPLIT, skeleton=COCO)
    results = mutations.perfect_results(dataset.annotations)
    coco.annotation_file(drawn_copy, SPLIT).unlink()  # nothing reads it later
    metrics, _ = scoring.coco_metrics(dataset.annotations, results, COCO)
    assert metrics["AP"] == pytest.approx(1) and len(parsed) == 1


def test_a_training_parses_each_json_once(drawn_copy, monkeypatch):
    """Also where jsons describe the skeletons, and records are made, of several data sets."""
    other = drawn_copy.parent / "other"
    shutil.copytree(drawn_copy, other)
    files = [coco.annotation_file(root, SPLIT) for root in (drawn_copy, other)]
    files[1].write_text(files[1].read_text() + "\n")  # records are named after the json
    config = quickstart.get_config()
    config.skeleton, config.data.root, config.data.train_split = "", str(drawn_copy), SPLIT
    config.data.also = (f"{other}:{SPLIT}:1",)
    parsed, load = [], json.load
    monkeypatch.setattr(json, "load", lambda file: parsed.append(file.name) or load(file))
    with coco.parsed_once():
        training = training_data.open_training(config, configured.skeleton_of(config))
        assert not coco._kept  # a large one takes gigabytes
    of_ours = [name for name in parsed if name in map(str, files)]
    assert sorted(of_ours) == sorted(map(str, files)) and len(training.shares) == 2


def test_detections_of_the_first_people_are_those_on_their_pictures(drawn, detections):
    image_ids = [p.image_id for p in read(drawn)]
    (first,) = read(drawn, first_people=1)
    path = detections([box(i) for i in image_ids])
    dataset = evaluation_set.open_split(
        root=drawn, split=SPLIT, skeleton=COCO, first_people=1, detections=path
    )
    assert dataset.boxes.image_ids.tolist() == [first.image_id]
    assert len(dataset.annotations.ids) == 1
    path = detections([box(i) for i in image_ids if i != first.image_id])
    with pytest.raises(DataError, match="no box on the pictures of the first 1 people"):
        evaluation_set.open_split(
            root=drawn, split=SPLIT, skeleton=COCO, first_people=1, detections=path
        )


def test_a_process_without_boxes_has_no_keypoints(drawn):
    dataset = evaluation_set.open_split(root=drawn, split=SPLIT, skeleton=COCO)
    keypoints, scores = estimate_boxes(
        lambda *_: pytest.fail("there is no batch"),
        {},
        dataset.records,
        dataset.boxes[:0],
        crop_hw=(64, 64),
        batch_size=2,
        padding=1.25,
    )
    assert keypoints.shape == (0, 17, 2) and scores.shape == (0, 17)
