"""One call from a picture to people: every kind of source, detected and given boxes."""

import functools
import http.server
import itertools
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
from mspn_jax import one_call
from mspn_jax.data.pictures import Frame, Source, find_sources, frames
from mspn_jax.errors import DataError
from mspn_jax.finder import PeopleFinder
from mspn_jax.one_call import find_people
from mspn_jax.people import People
from mspn_jax.predictor import Predictor
from mspn_jax.skeletons import COCO
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
    monkeypatch.setattr(one_call, "load_detector", lambda name, **_: loads.append(name) or detect)
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


class Walking(Predictor):
    """A detector and a network that see two people walk. A frame's first pixel is its number."""

    skeleton = COCO

    def __init__(self):
        self.detected = []

    def _corners(self, image):
        return np.array([[10.0 + 2 * image[0, 0, 0], 20], [200.0 - 2 * image[0, 0, 0], 20]])

    def detect(self, image):
        self.detected.append(int(image[0, 0, 0]))
        return np.column_stack([self._corners(image), [[40, 100]] * 2])[::-1], np.full(2, 0.9)

    def __call__(self, image, boxes_xywh):
        shape = np.random.default_rng(0).uniform((5, 5), (35, 95), (17, 2))
        corners = self._corners(image)
        nearest = np.abs(boxes_xywh[:, None, 0] - corners[:, 0]).argmin(1)
        scores = np.full((len(boxes_xywh), 17), 1.2, np.float32)
        return (corners[nearest][:, None] + shape).astype(np.float32), scores

    def stream(self, pictures, together=1):
        return (self(*pair) for pair in pictures)


class Fading(Walking):
    """The second person can hardly be seen in frames 2 and 3."""

    def __call__(self, image, boxes_xywh):
        xy, scores = super().__call__(image, boxes_xywh)
        if image[0, 0, 0] in (2, 3):
            scores[1:] = 0.6
        return xy, scores


def walk(numbers, name="walk.mp4", indices=True):
    for i, number in enumerate(numbers):
        image = np.full((150, 260, 3), number, np.uint8)
        yield Frame(Source("", name), image, i if indices else None, 0.04 * i if indices else None)


def test_tracked_people_have_ids_video_by_video():
    walking = Walking()
    finder = PeopleFinder(walking, walking.detect)
    assert [people.ids for people in finder.stream(walk(range(3)))] == [None] * 3
    both = itertools.chain(walk(range(5)), walk(range(5), "other.mp4"), walk([0], "1.jpg", False))
    *videos, picture = finder.stream(both, track=True)
    assert [people.ids.tolist() for people in videos] == [[1, 2]] * 10 and picture.ids is None
    assert [entry["id"] for entry in videos[0].to_json()] == [1, 2]


@pytest.mark.parametrize("detect_every", [1, 3, 100])
def test_between_detections_boxes_follow_the_keypoints(detect_every):
    walking = Walking()
    finder = PeopleFinder(walking, walking.detect)
    frames = itertools.chain(walk(range(8)), walk(range(20, 22), "other.mp4"))
    found = list(finder.stream(frames, track=True, detect_every=detect_every))
    assert walking.detected == [*range(0, 8, detect_every), *range(20, 22, detect_every)]
    for people in found:
        assert people.ids.tolist() == [1, 2]
        assert (np.diff(people.boxes_xywh[:, 0]) < 0).all()  # as the detector's order
    if detect_every == 100:  # 1.2 pixels ahead of the keypoints, less than their margin of 9
        left = found[7].keypoints_image_xy[..., 0].min(1) - found[7].boxes_xywh[:, 0]
        assert ((left > 6) & (left < 12)).all()


def test_people_who_fade_between_detections_are_left_out():
    walking = Walking()
    finder = PeopleFinder(Fading(), walking.detect, min_score=0.3)
    found = list(finder.stream(walk(range(8)), detect_every=4))
    assert [len(people) for people in found] == [2, 2, 1, 1, 2, 2, 2, 2]
    assert [people.ids.tolist() for people in found[4:]] == [[1, 2]] * 4


def test_smoothing_calms_keypoints_and_gives_ids():
    walking = Walking()
    finder = PeopleFinder(walking, walking.detect)
    rough = [people.keypoints_image_xy for people in finder.stream(walk([5, 6, 5, 6, 5, 6]))]
    calm = list(finder.stream(walk([5, 6, 5, 6, 5, 6]), smooth=True))
    assert calm[0].ids.tolist() == [1, 2]
    moves = [
        np.abs(np.diff([xy[0, 0, 0] for xy in each])).mean()
        for each in (rough, [people.keypoints_image_xy for people in calm])
    ]
    assert 0 < moves[1] < 0.8 * moves[0]


def test_arrays_are_a_video_of_25_frames_a_second():
    walking = Walking()
    images = [frame.image for frame in walk(range(3))]
    found = list(find_people(images, model=walking, detector=walking.detect, track=True))
    assert [people.ids.tolist() for people in found] == [[1, 2]] * 3


def test_detection_now_and_then_needs_a_detector():
    finder = PeopleFinder(Walking(), None)
    with pytest.raises(ValueError, match="detect_every is 0"):
        finder.stream([], detect_every=0)
    with pytest.raises(ValueError, match="detect_every needs a detector"):
        finder.stream([], detect_every=2)
    with pytest.raises(ValueError, match="detect_every needs a detector"):
        PeopleFinder(Walking(), Walking().detect).stream([], [[0, 0, 1, 1]], detect_every=2)
