"""The published YOLOX nano: its AP, and the same boxes in every layout."""

import contextlib
import io

import cv2
import numpy as np
import pytest

from mspn_jax.data import coco
from mspn_jax.detector import Detector, letterbox

pytest.importorskip("onnx")

import detector_files as files


@pytest.fixture(scope="module")
def sample(coco_sample):
    """Image id -> picture, and COCO's people on them."""
    truth = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "person"}]}
    pictures = {}
    for split in ("train2017", "val2017"):
        content = coco.load_json(coco.annotation_file(coco_sample, split))
        truth["images"] += content["images"]
        truth["annotations"] += content["annotations"]
        for entry in content["images"]:
            pictures[entry["id"]] = coco_sample / split / entry["file_name"]
    return truth, pictures


def read(path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)


def box_ap(truth: dict, results: list[dict]) -> float:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        people = COCO()
        people.dataset = truth
        people.createIndex()
        metric = COCOeval(people, people.loadRes(results), "bbox")
        metric.evaluate(), metric.accumulate(), metric.summarize()
    return metric.stats[0]


@pytest.mark.slow
def test_ap_of_a_real_file(yolox_nano, sample):
    truth, pictures = sample
    detector = Detector(yolox_nano, min_score=0.01, nms_threshold=0.65)
    strict = Detector(yolox_nano, min_score=0.3, nms_threshold=0.45)
    outputs = {}
    detector._session.run, run = lambda pixels: outputs["last"], detector._session.run
    strict._session.run = detector._session.run
    results = {"loose": [], "strict": []}
    for image_id, path in pictures.items():
        image = read(path)
        outputs["last"] = run(letterbox(image, detector.input_hw)[0])
        for name, each in (("loose", detector), ("strict", strict)):
            results[name] += [
                {"image_id": image_id, "category_id": 1, "bbox": box, "score": score}
                for box, score in zip(*(x.tolist() for x in each(image)))
            ]
    assert len(pictures) == 453
    assert box_ap(truth, results["loose"]) == pytest.approx(0.411, abs=1e-3)
    assert box_ap(truth, results["strict"]) == pytest.approx(0.362, abs=1e-3)


@pytest.mark.parametrize("layout", ["decoded", "nms"])
def test_a_real_file_finds_the_same_in_every_layout(yolox_nano, sample, layout, tmp_path):
    extended = files.Extended(yolox_nano)
    if layout == "decoded":
        extended.decode()
    else:
        extended.suppress(min_score=0.05, nms_threshold=0.45)
    expected_of = Detector(yolox_nano, min_score=0.05)
    found_by = Detector(extended.save(tmp_path / "m.onnx"), min_score=0.05)
    assert (expected_of.layout, found_by.layout) == ("raw", layout)
    num_boxes = 0
    for path in list(sample[1].values())[::22]:
        image = read(path)
        expected_xywh, expected_scores = expected_of(image)
        boxes_xywh, scores = found_by(image)
        np.testing.assert_allclose(scores, expected_scores, atol=1e-6)
        np.testing.assert_allclose(boxes_xywh, expected_xywh, atol=1e-3)
        num_boxes += len(boxes_xywh)
    assert num_boxes > 100
