"""predict.py as people type it, on drawn people."""

import csv
import json
import os
import pathlib
import shutil
import subprocess
import sys

import cv2
import detector_files
import numpy as np
import pytest
from test_pictures import write_video
from test_predictor import DESCRIPTION, VARIABLES

import mspn_jax
from commands import error_of
from mspn_jax import drawing
from mspn_jax.crops import decode_picture
from mspn_jax.predictor import Predictor
from mspn_jax.skeletons import COCO
from mspn_jax.synthetic import people
from mspn_jax.weights import checkpoints

HERE = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> pathlib.Path:
    """Drawn people, a video, a damaged picture, and a checkpoint."""
    root = tmp_path_factory.mktemp("predict")
    people.write_dataset(root, {"val2017": 5})
    write_video(root / "walk.avi", 9)
    (root / "val2017" / "damaged.jpg").write_bytes(b"\xff\xd8 but no more")
    checkpoints.save_variables(root / "checkpoint", DESCRIPTION, VARIABLES)
    return root


def predict(
    *arguments: object, cwd: pathlib.Path = HERE, path: str = str(HERE)
) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(HERE / "predict.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        cwd=cwd,
    )


@pytest.mark.slow
def test_a_folder_with_annotated_boxes(root, tmp_path):
    annotations = root / "annotations" / "person_keypoints_val2017.json"
    done = predict(
        "--checkpoint",
        root / "checkpoint",
        "--source",
        root / "val2017",
        "--boxes",
        annotations,
        "--output",
        tmp_path / "out",
    )
    assert done.returncode == 0, done.stderr
    assert "damaged.jpg: truncated or damaged JPEG" in done.stderr
    assert done.stderr.count("not read to the end: 1 of 6") == 1
    assert done.stderr.count("damaged.jpg: truncated") == 1

    content = json.loads(annotations.read_text())
    entries = json.loads((tmp_path / "out" / "keypoints.json").read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    assert len(entries) == len(content["annotations"])
    assert {(e["image_id"], e["file_name"]) for e in entries} <= set(names.items())
    predictor = Predictor.load(root / "checkpoint")
    for entry in entries:  # equal to the predictor's, but for the rounding of the corners
        image = decode_picture((root / "val2017" / entry["file_name"]).read_bytes())
        keypoints_image_xy, keypoint_scores = predictor(image, [entry["bbox"]])
        triples = np.array(entry["keypoints"]).reshape(-1, 3)
        np.testing.assert_allclose(triples[:, :2], keypoints_image_xy[0], atol=0.01)
        np.testing.assert_allclose(triples[:, 2], keypoint_scores[0], atol=1e-4)

    with open(tmp_path / "out" / "keypoints.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, entry in zip(rows, entries, strict=True):
        assert row["file_name"] == entry["file_name"]
        assert float(row["right_ankle_x"]) == pytest.approx(entry["keypoints"][-3], rel=1e-5)
    for name in names.values():
        assert decode_picture((tmp_path / "out" / name).read_bytes()).shape == (240, 320, 3)


@pytest.mark.slow
def test_the_decoding_is_the_predictors(root, tmp_path):
    (picture, *_) = sorted((root / "val2017").glob("0*.jpg"))
    where = ("--model", root / "checkpoint", "--whole_picture", "--output", tmp_path / "out")
    done = predict(picture, *where, "--decoding", "dark")
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads((tmp_path / "out" / "keypoints.json").read_text())
    image = decode_picture(picture.read_bytes())
    found = np.array(entry["keypoints"]).reshape(-1, 3)[:, :2]
    for decoding, is_it in (("dark", True), ("quarter", False)):
        people = mspn_jax.find_people(
            image, model=root / "checkpoint", detector=None, decoding=decoding
        )
        assert np.allclose(found, people.keypoints_image_xy[0], atol=0.01) == is_it
    done = predict(picture, *where, "--decoding", "light")
    assert done.returncode == 1 and "quarter|dark" in done.stderr


@pytest.mark.slow
def test_without_onnx_jax_computes_and_the_extra_is_named(root, tmp_path):
    absent = "raise ModuleNotFoundError('No module named onnx', name='onnx')\n"
    (tmp_path / "onnx.py").write_text(absent)
    (picture, *_) = sorted((root / "val2017").glob("0*.jpg"))
    arguments = [picture, "--model", root / "checkpoint", "--whole_picture", "--nodraw"]
    done = predict(*arguments, "--output", tmp_path / "jax", path=f"{tmp_path}:{HERE}")
    assert done.returncode == 0, done.stderr
    assert "tiny: runs on JAX (cpu)" in done.stderr
    done = predict(*arguments, "--backend", "onnxruntime", path=f"{tmp_path}:{HERE}")
    line = "backend onnxruntime: onnx is not installed: pip install 'mspn-jax[onnx]'"
    assert done.returncode == 1 and f"error: {line}\n" in done.stderr

    pytest.importorskip("onnx")
    done = predict(*arguments, "--output", tmp_path / "onnxruntime")
    assert done.returncode == 0, done.stderr
    assert "tiny: runs on onnxruntime's CPUExecutionProvider" in done.stderr
    mine, other = (
        np.array(json.loads((tmp_path / each / "keypoints.json").read_text())[0]["keypoints"])
        for each in ("onnxruntime", "jax")
    )
    np.testing.assert_allclose(mine, other, atol=0.01)


@pytest.mark.slow
def test_a_video_becomes_a_video(root, tmp_path):
    done = predict(
        "--checkpoint",
        root / "checkpoint",
        "--source",
        root / "walk.avi",
        "--box",
        "5,5,30,40",
        "--box",
        "30,2,30,40",
        "--box",
        "100,0,5,5",
        "--output",
        tmp_path,
        "--stages",
        1,
        "--max_frames",
        7,
        "--bf16",
    )
    assert done.returncode == 0, done.stderr
    assert "left out box 100,0,5,5: it has no area in the picture of 64 x 48" in done.stderr
    entries = json.loads((tmp_path / "keypoints.json").read_text())
    assert [entry["frame"] for entry in entries] == np.repeat(np.arange(7), 2).tolist()
    assert "image_id" not in entries[0]
    assert entries[-1]["time"] == 0.6
    assert done.stderr.count("left out box 100,0,5,5") == 7  # once a frame
    video = cv2.VideoCapture(str(tmp_path / "walk.avi.mp4"))
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == 7 and video.get(cv2.CAP_PROP_FPS) == 10


def test_people_of_a_video_have_ids(root, tmp_path):
    done = predict(
        root / "walk.avi",
        "--model",
        root / "checkpoint",
        "--box=5,5,30,40",
        "--box=34,2,28,44",
        "--smooth",
        "--output",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    entries = json.loads((tmp_path / "keypoints.json").read_text())
    assert {entry["id"] for entry in entries if entry["frame"] == 0} == {1, 2}
    with open(tmp_path / "keypoints.csv", newline="") as file:
        assert [int(row["id"]) for row in csv.DictReader(file)] == [e["id"] for e in entries]


def test_pictures_are_words_and_results_get_a_new_folder(root, tmp_path):
    first, second = sorted((root / "val2017").glob("0*.jpg"))[:2]
    arguments = (
        first,
        "--whole_picture",
        second,
        "--model",
        root / "checkpoint",
        "--nodraw",
        "--show",
    )
    for name in ("predict", "predict2"):
        done = predict(*arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        entries = json.loads((tmp_path / "runs" / name / "keypoints.json").read_text())
        assert [entry["file_name"] for entry in entries] == [first.name, second.name]
        assert entries[0]["bbox"] == [0, 0, 320, 240]
        assert "shown at http://127.0.0.1:" in done.stderr
        assert not list((tmp_path / "runs" / name).glob("*.jpg"))


@pytest.mark.slow
def test_the_detector_looks_for_a_class_and_takes_the_best(root, tmp_path):
    dog, person = 16, 0
    found = detector_files.raw(
        (8, 3, 2, 28, 20, 20, 20, 1.0, {dog: 0.8}),
        (8, 9, 4, 76, 36, 20, 24, 1.0, {dog: 0.9}),
        (16, 3, 1, 50, 30, 30, 40, 1.0, {person: 0.99}),
    )
    detector_files.save(tmp_path / "m.onnx", {"output": found})

    def boxes(*flags):
        given = (root / "walk.avi", "--model", root / "checkpoint", "--min_score=0", "--nodraw")
        output = tmp_path / f"found{len(list(tmp_path.iterdir()))}"
        given += ("--max_frames=1", "--detector", tmp_path / "m.onnx", "--output", output)
        done = predict(*given, *flags)
        assert done.returncode == 0, done.stderr
        entries = json.loads((output / "keypoints.json").read_text())
        return [entry["bbox"] for entry in entries]

    (alone,) = boxes()
    best, other = boxes("--detector_class=dog")
    assert alone not in (best, other)
    assert boxes("--detector_class=16", "--max_people=1") == [best]
    assert boxes("--detector_class=dog", "--detector_layout=decoded") != [best, other]


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--box=1,2,3,4", "--max_people=1"], "--max_people: is of a detector"),
        (["--box=1,2,3,4", "--detector_nms=.5"], "--detector_nms: is of a detector"),
        (["--detector_hw=64"], "--detector_hw 64: give height,width, such as 256,192"),
        (["--whole_picture", "--detector_class=dog"], "--detector_class: is of a detector"),
        (["--detector_class=dgo"], "class_name 'dgo': not one of COCO's 80 classes; did you mean"),
        (["--box=1,2,3,4", "--detector=m.onnx"], "--box and --detector: only one can say"),
        (["--box=1,2,3,4", "--detect_every=2"], "--detect_every: needs a detector, and --box says"),
        (["--boxes={root}/other.json"], "has boxes of 1 pictures (x.jpg), but of none that was"),
        (["--output={root}/val2017"], "could be written over; give another --output"),
        (["--output={root}/walk.avi", "--whole_picture"], "walk.avi: is a file; a folder"),
        (["--checkpoint={root}/dogs", "--whole_picture"], "does not name its keypoints"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(root, tmp_path, arguments, message):
    (root / "other.json").write_text('{"x.jpg": [[1, 2, 3, 4]]}')
    shutil.copytree(root / "checkpoint", root / "dogs", dirs_exist_ok=True)
    description = json.loads((root / "checkpoint" / "model.json").read_text())
    (root / "dogs" / "model.json").write_text(json.dumps(description | {"skeleton": "dog"}))
    before = sorted((root / "val2017").iterdir())
    done = predict(
        "--checkpoint",
        root / "checkpoint",
        "--source",
        root / "val2017",
        "--output",
        tmp_path / "new",
        *(argument.format(root=root) for argument in arguments),
    )
    assert message in error_of(done)
    assert sorted((root / "val2017").iterdir()) == before


def test_limbs_are_coloured_by_side_and_shaded_by_confidence():
    image = np.zeros((300, 300, 3), np.uint8)
    keypoints_image_xy = np.full((1, 17, 2), -50.0)
    keypoint_scores = np.full((1, 17), 0.5)
    joints = [
        COCO.keypoint_names.index(f"{side}_{joint}")
        for side in ("left", "right")
        for joint in ("hip", "knee")
    ]
    keypoints_image_xy[0, joints] = (20, 20), (20, 280), (70, 20), (70, 280)
    keypoint_scores[0, joints[:2]] = 1.2
    keypoint_scores[0, joints[2:]] = (drawing.FAINT_SCORE + drawing.FULL_SCORE) / 2
    annotated = drawing.annotate_people(image, keypoints_image_xy, keypoint_scores, COCO)
    np.testing.assert_allclose(annotated[50, 20], drawing.LEFT_RGB, atol=2)
    opacity = (drawing.FAINTEST + 1) / 2
    np.testing.assert_allclose(annotated[50, 70], np.array(drawing.RIGHT_RGB) * opacity, atol=2)
    assert not annotated[50, 45].any() and not image.any()
    keypoint_scores[0, joints[2:]] = drawing.FAINT_SCORE + 0.001
    faint = drawing.annotate_people(image, keypoints_image_xy, keypoint_scores, COCO)
    assert faint[50, 70].max() > 80
    keypoint_scores[0, joints[2:]] = drawing.FAINT_SCORE
    assert not drawing.annotate_people(image, keypoints_image_xy, keypoint_scores, COCO)[
        50, 70
    ].any()
    white = drawing.annotate_people(image + 255, keypoints_image_xy, keypoint_scores, COCO)
    assert white[50, 10:30].min(0).max() < 100  # a dark outline beside the orange
    far = np.where(np.arange(17)[:, None] % 2, 1e9, -1e9) * np.ones((1, 17, 2))
    drawing.annotate_people(image, far, np.full((1, 17), 1.5), COCO)  # beyond OpenCV's range


def test_each_id_has_one_color_and_each_person_a_labelled_box():
    image = np.zeros((300, 300, 3), np.uint8)
    keypoints_image_xy = np.zeros((2, 17, 2))
    keypoints_image_xy[:] = np.linspace((100, 60), (140, 260), 17)
    keypoints_image_xy[1, :, 0] += 100
    ids = np.array([3, 4 + len(drawing.ID_RGB)])
    annotated = drawing.annotate_people(
        image,
        keypoints_image_xy,
        np.full((2, 17), 1.5),
        COCO,
        boxes_xywh=np.array([[80.0, 40, 80, 240], [180.0, -50, 1e9, 1e9]]),
        labels=["3 0.90", "14 0.80"],
        ids=ids,
    )
    for color, (x, y) in zip((drawing.ID_RGB[3], drawing.ID_RGB[4]), ((100, 60), (200, 60))):
        np.testing.assert_array_equal(annotated[y, x], color)
    np.testing.assert_array_equal(annotated[150, 80], drawing.ID_RGB[3])  # the box's left side
    ground = (annotated[26:38, 80:120] == drawing.ID_RGB[3]).all(2)
    assert 100 < ground.sum() < 470  # a label, with a text on it
