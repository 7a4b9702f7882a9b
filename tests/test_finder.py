"""One call from a picture to people: every kind of source, detected and given boxes."""

import functools
import http.server
import os
import pathlib
import threading

import cv2
import numpy as np
import pytest
from test_pictures import write_video
from test_predictor import DESCRIPTION, VARIABLES, some_picture

import mspn_jax
from commands import HERE
from mspn_jax import finder
from mspn_jax.data.pictures import find_sources, frames
from mspn_jax.errors import DataError
from mspn_jax.finder import PeopleFinder, find_people
from mspn_jax.people import People
from mspn_jax.predictor import Predictor
from mspn_jax.weights import checkpoints

BOXES = [[10.0, 10.0, 30.0, 40.0], [50.0, 5.0, 30.0, 60.0]]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(DESCRIPTION, VARIABLES, flip_test=False)


def detect(image):
    """A detector whose boxes depend on the picture."""
    boxes = np.array(BOXES) * [1, 1, image[0, 0, 0] / 255 + 0.5, 1]
    return boxes, np.array([0.9, 0.5], np.float32)


@pytest.fixture
def folder(tmp_path):
    for name in ("1.png", "2.png", ".hidden.png"):
        cv2.imwrite(str(tmp_path / name), some_picture()[..., ::-1])
    (tmp_path / "3.jpg").write_bytes(b"\xff\xd8 but no more")
    return tmp_path


def test_one_picture_is_people_whatever_holds_it(predictor, folder):
    image = some_picture()
    options = dict(model=predictor, detector=detect, min_score=0.0)
    expected_xy, expected_scores = predictor(image, detect(image)[0])
    given = [image, str(folder / "1.png"), folder / "2.png"]
    for source in given:
        people = find_people(source, **options)
        assert isinstance(people, People) and people.frame_index is None
        np.testing.assert_allclose(people.keypoints_image_xy, expected_xy, atol=1e-3)
        np.testing.assert_allclose(people.keypoint_scores, expected_scores, atol=1e-5)
        np.testing.assert_array_equal(people.image_rgb, image)
        np.testing.assert_allclose(people.box_scores, [0.9, 0.5])
    assert people.file_name == "2.png"
    pil = pytest.importorskip("PIL.Image")
    people = find_people(pil.open(folder / "1.png"), **options)
    np.testing.assert_allclose(people.keypoints_image_xy, expected_xy, atol=1e-3)


def test_several_are_an_iterator(predictor, folder, caplog):
    options = dict(model=predictor, boxes=BOXES)
    assert [p.file_name for p in find_people(folder, **options)] == ["1.png", "2.png"]
    assert "3.jpg: truncated or damaged JPEG" in caplog.text
    listed = find_people([folder / "1.png", folder / "2.png"], **options)
    assert [len(people) for people in listed] == [2, 2]
    arrays = find_people((some_picture() for _ in range(5)), **options, max_frames=3)
    assert [people.frame_index for people in arrays] == [0, 1, 2]
    write_video(folder / "walk.avi", 9)
    video = list(find_people(folder / "walk.avi", **options, max_frames=7))
    assert [people.frame_index for people in video] == list(range(7))
    np.testing.assert_allclose([people.time_s for people in video], np.arange(7) / 10, atol=1e-6)


def test_an_address_of_a_picture_and_of_a_video(predictor, folder):
    write_video(folder / "walk.avi", 3)
    (folder / "unnamed").write_bytes((folder / "1.png").read_bytes())

    class Handler(http.server.SimpleHTTPRequestHandler):
        def guess_type(self, path):
            return "image/png" if path.endswith("unnamed") else super().guess_type(path)

        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        for name in ("1.png?size=big", "unnamed"):
            people = find_people(f"{address}/{name}", model=predictor, boxes=BOXES)
            assert len(people) == 2 and people.file_name == name.partition("?")[0]
        video = list(find_people(f"{address}/walk.avi", model=predictor, boxes=BOXES))
        assert len(video) == 3 and video[0].file_name == "walk.avi"
        with pytest.raises(DataError, match=r"none.png: the server answers 404"):
            find_people(f"{address}/none.png", model=predictor, boxes=BOXES)
        server.shutdown()


def test_boxes_are_given_in_every_form(predictor, folder):
    (folder / "boxes.json").write_text('{"1.png": [[1, 2, 30, 40, 0.25]]}')
    find = functools.partial(find_people, folder / "1.png", model=predictor)
    for boxes in (np.array([[1, 2, 30, 40, 0.25]]), folder / "boxes.json"):
        people = find(boxes=boxes)
        assert people.boxes_xywh.tolist() == [[1, 2, 30, 40]] and people.box_scores == [0.25]
    assert find(boxes={"1.png": np.array(BOXES)}).boxes_xywh.tolist() == BOXES
    assert find(detector=None).boxes_xywh.tolist() == [[0, 0, 120, 90]]
    assert len(find(boxes=[])) == 0 and len(find(boxes=np.zeros((0, 4)))) == 0
    assert len(find(boxes=[[500, 0, 10, 10]])) == 0  # beside the picture


def test_hopeless_people_are_left_out_if_a_detector_found_them(predictor):
    everyone = PeopleFinder(predictor, detect, min_score=0.0)(some_picture())
    least, most = sorted(everyone.confidences)
    assert least < most
    between = PeopleFinder(predictor, detect, min_score=(least + most) / 2)
    assert between(some_picture()).confidences.tolist() == [most]
    assert len(between(some_picture(), BOXES)) == 2


def test_a_second_call_does_not_load_again(folder, monkeypatch):
    checkpoints.save_variables(folder / "checkpoint", DESCRIPTION, VARIABLES)
    loads = []
    monkeypatch.setattr(finder, "load_detector", lambda name, **_: loads.append(name) or detect)
    load = Predictor.load
    monkeypatch.setattr(
        Predictor, "load", lambda name, *a, **k: loads.append(name) or load(name, *a, **k)
    )
    for _ in range(2):
        mspn_jax.find_people(folder / "1.png", model=folder / "checkpoint")
    assert loads == [str(folder / "checkpoint"), "yolox_s"]


@pytest.mark.parametrize("together", [1, 4])
def test_a_stream_reads_ahead(predictor, folder, together):
    read = []

    def watched():
        for frame in frames(find_sources([str(folder / "walk.avi")]), lambda *_: None):
            read.append(frame.index)
            yield frame

    write_video(folder / "walk.avi", 12)
    stream = PeopleFinder(predictor, None).stream(watched(), together=together)
    assert next(stream).frame_index == 0 and read == list(range(2 * together))


def test_what_is_no_source_is_said(predictor, tmp_path):
    with pytest.raises(DataError, match=r"nowhere.jpg: no such file"):
        find_people(tmp_path / "nowhere.jpg", model=predictor, boxes=BOXES)
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8 but no more")
    with pytest.raises(DataError, match=r"a.jpg: truncated or damaged JPEG"):
        find_people(tmp_path / "a.jpg", model=predictor, boxes=BOXES)
    with pytest.raises(TypeError, match="image 1 is a int, not an array"):
        list(find_people(iter([some_picture(), 3]), model=predictor, boxes=BOXES))


def test_a_real_detector_finds_people_in_real_pictures(predictor, coco_sample):
    place = HERE.parent / "shared" / "detector" / "yolox_nano.onnx"
    path = pathlib.Path(os.environ.get("MSPN_YOLOX_ONNX", place))
    if not path.is_file():
        pytest.skip(f"no {path}: set MSPN_YOLOX_ONNX to run this test")
    folder = coco_sample / "val2017"
    pictures = [str(path) for path in sorted(folder.glob("*.jpg"))[:8]]
    found = list(find_people(pictures, model=predictor, detector=path, min_score=0.0))
    assert [people.file_name for people in found] == [os.path.basename(p) for p in pictures]
    assert sum(map(len, found)) >= 8
    for people in found:
        assert (people.box_scores >= 0.3).all() and people.draw().shape == people.image_rgb.shape
