"""Drawn people: COCO's layout, correct annotations, left and right, enough variety."""

import contextlib
import io
import json

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO as CocoFile
from pycocotools.cocoeval import COCOeval

from mspn_jax.skeletons import COCO
from mspn_jax.synthetic import bodies, coco_files, human, people
from mspn_jax.synthetic.bodies import Body
from mspn_jax.synthetic.canvas import Canvas

PICTURES = {"train2017": 60, "val2017": 60}
HEIGHT, WIDTH = 240, 320


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("synthetic")
    people.write_dataset(root, PICTURES)
    return root


@pytest.fixture(scope="module")
def coco(root) -> dict[str, CocoFile]:
    with contextlib.redirect_stdout(io.StringIO()):
        return {
            split: CocoFile(root / "annotations" / f"person_keypoints_{split}.json")
            for split in PICTURES
        }


@pytest.fixture(scope="module")
def annotations(coco) -> list[dict]:
    return [annotation for split in PICTURES for annotation in coco[split].anns.values()]


def keypoints_of(annotations) -> np.ndarray:
    return np.array([a["keypoints"] for a in annotations], float).reshape(-1, 17, 3)


def files_of(root) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def upright_person(seed: int, **changes) -> Body:
    """A standing person in the middle of a picture, with changes to the pose."""
    rng = np.random.default_rng(seed)
    arms, legs = np.radians([[0, 40, 0, 0]] * 2), np.radians([[0, 8, 0]] * 2)
    pose = human.Pose(arms, legs, lean=0.0, head=(0.0, 0.0), view=0.0, pitch=0.0, roll=0.0)
    person = human.sample_person(rng, pose._replace(**changes), stature=150.0)
    return person._replace(origin_xy=np.array([WIDTH / 2, HEIGHT / 2]))


# --- the data set -----------------------------------------------------------------------------


def test_same_arguments_same_bytes(root, tmp_path):
    people.write_dataset(tmp_path, PICTURES)
    assert files_of(tmp_path) == files_of(root)


def test_other_seed_other_pictures(root, tmp_path):
    people.write_dataset(tmp_path, {"train2017": 1}, seed=1)
    (name,) = (name for name in files_of(tmp_path) if name.endswith("jpg"))
    assert files_of(tmp_path)[name] != files_of(root)[name]


def test_longer_set_begins_with_the_shorter(root, tmp_path):
    people.write_dataset(tmp_path, {"train2017": 5})
    shorter, longer = files_of(tmp_path), files_of(root)
    annotation_file = "annotations/person_keypoints_train2017.json"
    short_json, long_json = (json.loads(f.pop(annotation_file)) for f in (shorter, longer))
    assert len(shorter) == 5 and shorter.items() <= longer.items()
    assert short_json["images"] == long_json["images"][:5]
    count = len(short_json["annotations"])
    assert count and short_json["annotations"] == long_json["annotations"][:count]


def test_splits_share_neither_people_nor_ids(coco):
    boxes, ids = (
        [{key(a) for a in coco[split].anns.values()} for split in PICTURES]
        for key in (lambda a: (*a["bbox"], a["area"]), lambda a: a["image_id"])
    )
    assert not boxes[0] & boxes[1]
    assert not ids[0] & ids[1]


def test_complete_set_is_left_alone(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    people.write_dataset(root, PICTURES)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_an_interrupted_run_can_be_repeated(root, tmp_path):
    drawn = []

    def stop_at_third(*args):
        drawn.append(args)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return people.draw_picture(*args)

    with pytest.raises(KeyboardInterrupt):
        coco_files.write(tmp_path, PICTURES, people.PEOPLE._replace(draw_picture=stop_at_third))
    assert not list(tmp_path.rglob("*.json")) and not (tmp_path / "train2017").exists()
    people.write_dataset(tmp_path, PICTURES)
    assert files_of(tmp_path) == files_of(root)


@pytest.mark.parametrize(
    "foreign",
    ["annotations/person_keypoints_val2017.json", "val2017/000000000139.jpg"],
)
def test_foreign_files_are_refused_before_anything_is_written(tmp_path, foreign):
    path = tmp_path / foreign
    path.parent.mkdir()
    path.write_text('{"info": {"description": "COCO 2017 Dataset"}}')
    before = files_of(tmp_path)
    with pytest.raises(FileExistsError, match="val2017"):
        people.write_dataset(tmp_path, PICTURES)
    assert files_of(tmp_path) == before


@pytest.mark.parametrize(
    "arguments", [{"seed": 1}, {"picture_hw": (120, 160)}, {"pictures": {"val2017": 2}}]
)
def test_other_arguments_are_refused(root, arguments):
    before = files_of(root)
    with pytest.raises(FileExistsError, match="already holds"):
        people.write_dataset(root, **{"pictures": PICTURES} | arguments)
    assert files_of(root) == before


# --- annotations ------------------------------------------------------------------------------


def test_layout_is_cocos(root, coco):
    for split, count in PICTURES.items():
        images = coco[split].loadImgs(coco[split].getImgIds())
        assert len(images) == count
        for image in images:
            assert image["file_name"] == f"{image['id']:012d}.jpg"
            pixels = cv2.imread(str(root / split / image["file_name"]))
            assert pixels.shape == (image["height"], image["width"], 3) == (HEIGHT, WIDTH, 3)
        (category,) = coco[split].loadCats(coco[split].getCatIds())
        assert category["id"] == 1 and category["keypoints"] == list(COCO.keypoint_names)
        # COCO's skeleton counts keypoints from 1.
        assert [(a - 1, b - 1) for a, b in category["skeleton"]] == list(COCO.limbs)
        assert {a["image_id"] for a in coco[split].anns.values()} <= set(coco[split].imgs)


def test_boxes_lie_inside_and_hold_the_area(annotations):
    for annotation in annotations:
        x, y, w, h = annotation["bbox"]
        assert x >= 0 and y >= 0 and x + w <= WIDTH and y + h <= HEIGHT
        assert 0 < annotation["area"] <= w * h


def test_keypoints_lie_inside_the_picture_and_the_box(annotations):
    for annotation, keypoints in zip(annotations, keypoints_of(annotations), strict=True):
        labelled = keypoints[:, 2] > 0
        xy = keypoints[labelled, :2]
        assert (xy >= 0).all() and (xy <= (WIDTH - 1, HEIGHT - 1)).all()
        x, y, w, h = annotation["bbox"]
        assert (xy >= (x - 1, y - 1)).all() and (xy <= (x + w, y + h)).all()
        assert (keypoints[~labelled] == 0).all()
        assert annotation["num_keypoints"] == labelled.sum()


def test_everything_that_coco_has_is_met(annotations):
    people = [a for a in annotations if not a["iscrowd"]]
    visibility = keypoints_of(people)[..., 2]
    assert set(np.unique(visibility)) == {0, 1, 2}
    assert 0.03 < (visibility == 1).mean() < 0.25
    assert 1.5 < len(people) / sum(PICTURES.values()) < 2.5
    assert 0 < len(annotations) - len(people) < 0.1 * len(people)
    assert 0 < sum(a["num_keypoints"] == 0 for a in people) < 0.1 * len(people)
    assert ((visibility == 2).sum(axis=1) < 4).mean() < 0.1
    heights = np.array([a["bbox"][3] for a in people])
    assert heights.min() < 80 and heights.max() > 200


# --- the visual truth -------------------------------------------------------------------------


def draw_alone(person: Body) -> Canvas:
    canvas = Canvas(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    bodies.draw_body(canvas, 0, person)
    return canvas


def test_blobs_are_drawn_where_their_centers_are():
    for center_xy in ((100.0, 80.0), (100.3, 80.7), (99.5, 80.5)):
        canvas = Canvas(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        canvas.add_part(0, ())
        ends_xy = center_xy + np.array([[-30, -20], [30, 20]])
        canvas.fill(ends_xy, np.array([6.0, 6.0]), np.full(3, 200.0), edge=1.0)
        for mask in (canvas.image[..., 0], canvas.top):
            y, x = np.indices(mask.shape)
            middle = [(axis * mask).sum() / mask.sum() for axis in (x, y)]
            np.testing.assert_allclose(middle, center_xy, atol=0.15)
        # The ends are round, and as far beyond the centers as their radius.
        x = np.flatnonzero(canvas.top.any(axis=0))
        np.testing.assert_allclose(x[[0, -1]], ends_xy[:, 0] + [-6, 6], atol=1.1)


def test_seen_keypoints_lie_on_the_person(monkeypatch):
    background = np.array([255, 0, 255])

    def flat(rng, picture_hw):
        return Canvas(np.full((*picture_hw, 3), background, np.uint8))

    monkeypatch.setattr(people, "draw_background", flat)
    monkeypatch.setattr(people, "expose", lambda rng, image: image)
    for seed in range(20):
        image, annotations = people.draw_picture(np.random.default_rng(seed), (HEIGHT, WIDTH))
        is_person = (image != background).any(axis=-1)
        for keypoints in keypoints_of(annotations):
            x, y = np.rint(keypoints[keypoints[:, 2] == 2, :2]).astype(int).T
            assert is_person[y, x].all()


def test_what_stands_in_front_hides_a_keypoint():
    person = upright_person(0)
    canvas = draw_alone(person)
    wrist, elbow = person.xy(["left_wrist", "left_elbow"])
    assert canvas.is_shown(0, "left_wrist", wrist)
    assert not canvas.is_shown(1, "left_wrist", wrist)
    canvas.add_part(1, ("left_wrist",))
    canvas.fill(wrist[None], np.array([8.0]), np.zeros(3), edge=1.0)
    assert not canvas.is_shown(0, "left_wrist", wrist)
    assert canvas.is_shown(0, "left_elbow", elbow)


@pytest.mark.parametrize(("view", "near", "far"), [(90, "right", "left"), (-90, "left", "right")])
def test_in_profile_the_near_side_hides_the_far_one(view, near, far):
    for seed in range(5):
        person = upright_person(seed, view=np.radians(view), arms=np.zeros((2, 4)))
        canvas = draw_alone(person)
        for joint in ("shoulder", "elbow", "wrist"):
            near_xy, far_xy = person.xy([f"{near}_{joint}", f"{far}_{joint}"])
            assert canvas.is_shown(0, f"{near}_{joint}", near_xy)
            assert not canvas.is_shown(0, f"{far}_{joint}", far_xy)
        assert f"{far}_eye" in person.turned_away and f"{near}_eye" not in person.turned_away
        # The face looks the way the body does: a quarter turn takes forward to the right.
        assert np.sign(person.xy(["nose"]) - person.xy(["head"]))[0, 0] == np.sign(view)


@pytest.mark.parametrize(("view", "sign"), [(0, 1), (180, -1)])
def test_left_is_on_the_right_of_the_picture_from_the_front_only(view, sign):
    for seed in range(5):
        person = upright_person(seed, view=np.radians(view))
        for joint in ("shoulder", "elbow", "hip", "knee", "ankle", "ear"):
            left, right = person.xy([f"left_{joint}", f"right_{joint}"])
            assert sign * (left[0] - right[0]) > 3


def test_only_the_front_shows_a_face():
    for seed in range(5):
        front, back = (upright_person(seed, view=view) for view in (0.0, np.pi))
        assert not front.turned_away
        assert back.turned_away == human.FACE_LIMITS.keys() - {"left_ear", "right_ear"}
        for person, darkness in ((front, True), (back, False)):
            image = draw_alone(person).image.astype(int)
            for x, y in np.rint(person.xy(["left_eye", "right_eye"])).astype(int):
                near = image[y - 4 : y + 5, x - 4 : x + 5].sum(axis=-1)
                has_eye = image[y, x].sum() < 150 and near.max() > 550
                assert has_eye == darkness


def test_a_leaning_person_bows_and_a_bent_knee_goes_back():
    right_profile = {"view": np.radians(90), "legs": np.radians([[0, 0, 60]] * 2)}
    person = upright_person(0, lean=np.radians(45), **right_profile)
    (nose, hip, knee, ankle) = person.xy(["nose", "right_hip", "right_knee", "right_ankle"])
    assert nose[0] > hip[0] + 20 and nose[1] < hip[1]
    assert knee[1] > hip[1] + 20 and ankle[0] < knee[0] - 10


# --- variety ----------------------------------------------------------------------------------


def average_precision(truth: CocoFile, keypoints_of_person) -> float:
    results = [
        {"category_id": 1, "score": 1.0}
        | {"image_id": a["image_id"], "keypoints": np.ravel(keypoints_of_person(a)).tolist()}
        for a in truth.anns.values()
        if a["num_keypoints"]
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(results), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


def test_the_mean_pose_of_the_box_is_no_answer(coco):
    train = [a for a in coco["train2017"].anns.values() if a["num_keypoints"]]
    keypoints = keypoints_of(train)
    boxes = np.array([a["bbox"] for a in train])
    in_box = (keypoints[..., :2] - boxes[:, None, :2]) / boxes[:, None, 2:]
    labelled = keypoints[..., 2:] > 0
    mean_pose = (in_box * labelled).sum(axis=0) / labelled.sum(axis=0)

    def mean_pose_in_box(annotation):
        x, y, w, h = annotation["bbox"]
        return np.concatenate([mean_pose * (w, h) + (x, y), np.ones((17, 1))], axis=1)

    assert average_precision(coco["val2017"], lambda a: a["keypoints"]) > 0.99
    assert average_precision(coco["val2017"], mean_pose_in_box) < 0.2
