"""The check of a data set: each finding on a handmade file, and the findings on real pictures."""

import copy
import json
import pathlib

import numpy as np
import pytest

from mspn_jax.commands.browse import lines
from mspn_jax.data import check
from mspn_jax.data.schema import ERROR, NOTE, SUSPECT, WARNING
from mspn_jax.errors import DataError
from mspn_jax.skeletons import COCO, Skeleton
from mspn_jax.synthetic import people

NAMES = list(COCO.keypoint_names)
# Someone standing in front of the camera in a picture of 100 x 200: their left is on the right.
FRONT_XY = {
    "nose": (50, 30),
    "left_eye": (55, 25),
    "right_eye": (45, 25),
    "left_ear": (60, 27),
    "right_ear": (40, 27),
    "left_shoulder": (70, 60),
    "right_shoulder": (30, 60),
    "left_elbow": (75, 90),
    "right_elbow": (25, 90),
    "left_wrist": (75, 115),
    "right_wrist": (25, 115),
    "left_hip": (65, 115),
    "right_hip": (35, 115),
    "left_knee": (63, 150),
    "right_knee": (37, 150),
    "left_ankle": (62, 185),
    "right_ankle": (38, 185),
}


def person(number: int, points=FRONT_XY, visibility=2, **changes) -> dict:
    return {
        "id": number,
        "image_id": 1,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [20, 10, 60, 185],
        "area": 5000.0,
        "num_keypoints": 17,
        "keypoints": [n for name in NAMES for n in (*map(float, points[name]), visibility)],
        **changes,
    }


def inspected(tmp_path: pathlib.Path, *annotations, skeleton=COCO, **changes) -> check.Inspection:
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 200, "width": 100}],
        "annotations": list(annotations),
        "categories": [{"id": 1, "name": "person", "keypoints": NAMES}],
    } | changes
    (tmp_path / "annotations").mkdir(exist_ok=True)
    (tmp_path / "val").mkdir(exist_ok=True)
    (tmp_path / "val" / "1.jpg").touch()
    (tmp_path / "annotations" / "person_keypoints_val.json").write_text(json.dumps(content))
    return inspect(tmp_path, skeleton=skeleton)


def inspect(root: pathlib.Path, split="val", skeleton=COCO) -> check.Inspection:
    return check.inspect(
        root=root, split=split, skeleton=skeleton, padding=1.25, crop_hw=(256, 192)
    )


def found(inspection) -> dict[str, tuple]:
    return {finding.what: (finding.level, finding.count) for finding in inspection.findings}


def moved(name: str, xy) -> dict:
    return FRONT_XY | {name: xy}


def exchanged(*parts: str) -> dict:
    points = dict(FRONT_XY)
    for part in parts:
        points[f"left_{part}"], points[f"right_{part}"] = (
            points[f"right_{part}"],
            points[f"left_{part}"],
        )
    return points


def turned(points: dict, degrees: float) -> dict:
    """Turned in the picture about its middle."""
    radians = np.deg2rad(degrees)
    rotation = np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
    return {n: rotation @ (np.array(xy) - (50, 100)) + (50, 100) for n, xy in points.items()}


def test_a_sound_file_has_no_findings_and_is_counted(tmp_path):
    hidden = person(2, visibility=1, bbox=[21, 10, 60, 185])
    crowd = {"id": 3, "image_id": 1, "category_id": 1, "iscrowd": 1, "bbox": [0, 0, 9, 9]}
    unlabelled = person(4, visibility=0, num_keypoints=0)
    inspection = inspected(tmp_path, person(1), hidden, crowd, unlabelled)
    assert found(inspection) == {}
    assert inspection.num_errors == 0
    assert inspection.counts == {
        "pictures": 1,
        "annotations": 4,
        "people": 3,
        "crowds": 1,
        "people with labelled keypoints": 2,
        "pictures with labelled people": 1,
    }
    assert inspection.keypoints["left_knee"] == (0, 1, 1)
    assert "nothing looks wrong" in lines(inspection)


EYES = "the eyes are exchanged, left for right, as the nose shows"
TRUNK = "face to the front and trunk to the back"
HALVES = "shoulders and hips disagree on left and right"


@pytest.mark.parametrize(
    "changes, level, what",
    [
        (dict(bbox=[150, 10, 60, 185]), WARNING, "the box has no area inside its picture"),
        (dict(points=moved("left_wrist", (85, 115))), NOTE, "keypoints outside the box"),
        (dict(bbox=[20, 10, 60, 60]), SUSPECT, "keypoints outside the crop"),
        (dict(points=moved("left_wrist", (101, 115))), SUSPECT, "keypoints outside the picture"),
        (dict(area=0), WARNING, "the area is missing or 0"),
        (dict(area=None), WARNING, "the area is missing or 0"),
        (dict(area=60 * 185), NOTE, "the area is the box's"),
        (dict(area=2e4), SUSPECT, "the area is greater than the box's"),
        (dict(num_keypoints=3), SUSPECT, "num_keypoints is not the number"),
        (dict(points=moved("left_ear", (0, 0))), SUSPECT, "a labelled keypoint at (0, 0)"),
        (dict(category_id=2), NOTE, "of category 2, which has no keypoints, and left out"),
        (dict(bbox=[1, 2, 3]), ERROR, "bbox is [1, 2, 3]; expected x, y, width, height"),
        (dict(points=exchanged("eye")), SUSPECT, EYES),
        (dict(points=exchanged("shoulder", "hip", "elbow", "knee")), SUSPECT, TRUNK),
        (dict(points=exchanged("hip")), SUSPECT, HALVES),
    ],
)
def test_what_is_wrong_is_named(tmp_path, changes, level, what):
    sound = [person(n, bbox=[20, 10, 60, 185 + n / 8]) for n in range(2, 14)]
    for one in sound:
        one["keypoints"][0] += one["id"] / 8  # no two are the same
    inspection = inspected(tmp_path, person(1, **changes), *sound)
    (finding,) = [f for f in inspection.findings if f.what.startswith(what)]
    assert (finding.level, finding.of, finding.count) == (level, "annotation", 1)
    assert finding.ids == (1,)
    assert inspection.num_errors == (level == ERROR)
    assert any(
        line.startswith(f"       1  {finding.what}") and line.endswith(": annotation 1")
        for line in lines(inspection)
    )


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_left_and_right_are_judged_whichever_way_up_a_person_is(tmp_path, degrees):
    changes = {"bbox": [0, 0, 99, 199]}
    whole = {name: FRONT_XY[name] for name in FRONT_XY}
    assert not {EYES, HALVES} & set(found(inspected(tmp_path, person(1, turned(whole, degrees)))))
    for parts, what in ((["eye"], EYES), (["shoulder", "hip"], TRUNK), (["hip"], HALVES)):
        points = turned(exchanged(*parts), degrees)
        names = found(inspected(tmp_path, person(1, points, **changes)))
        assert any(name.startswith(what) for name in names)
    from_behind = turned(exchanged("shoulder", "hip", "elbow", "wrist", "knee", "ankle"), degrees)
    for name in ("nose", "left_eye", "right_eye"):
        from_behind[name] = (0, 0)
    back = person(1, from_behind, **changes)
    back["keypoints"][2:9:3] = [0, 0, 0]
    assert "left" not in " ".join(found(inspected(tmp_path, back)))


def test_what_is_not_labelled_has_no_side(tmp_path):
    half_seen = person(1, exchanged("eye"), num_keypoints=16)
    half_seen["keypoints"][3 * NAMES.index("left_eye") + 2] = 0
    assert found(inspected(tmp_path, half_seen)) == {}


@pytest.mark.parametrize(
    "y, is_outside", [(89.5, False), (90.5, True), (-9.5, False), (-10.5, True)]
)
def test_the_crop_that_keypoints_are_held_against(tmp_path, y, is_outside):
    """A box of 60 x 60 around (50, 40), padded to 75 and made 3:4, reaches from y = -10 to 90."""
    points = {name: (x, min(at_y, 85)) for name, (x, at_y) in FRONT_XY.items()}
    points["left_ankle"] = (60, y)
    names = found(inspected(tmp_path, person(1, points, bbox=[20, 10, 60, 60])))
    assert any("outside the crop" in name for name in names) == is_outside


def test_a_single_keypoint_and_duplicates(tmp_path):
    one = person(1, num_keypoints=1)
    one["keypoints"][5::3] = [0] * 16
    same_box = person(2, moved("nose", (51, 31)))
    same_all = person(3, moved("nose", (51, 31)))
    names = found(inspected(tmp_path, one, same_box, same_all))
    assert names["a single labelled keypoint"] == (NOTE, 1)
    assert names["the same box"] == (SUSPECT, 2)
    assert names["the same keypoints"] == (SUSPECT, 1)
    names = found(inspected(tmp_path, one, copy.deepcopy(one)))
    assert names["id occurs more than once"] == (ERROR, 1)


def test_pictures_and_their_files(tmp_path):
    image = {"id": 1, "file_name": "1.jpg", "height": 200, "width": 100}
    images = [image, image, image | {"id": 2, "file_name": "2.jpg"}, {"id": 3}]
    names = found(inspected(tmp_path, person(1), images=images))
    assert list(names.items())[:-1] == [
        ("file_name is missing; expected a path within the split's folder", (ERROR, 1)),
        ("height is missing; expected a whole number of pixels, 1 or more", (ERROR, 1)),
        ("width is missing; expected a whole number of pixels, 1 or more", (ERROR, 1)),
        ("id occurs more than once", (ERROR, 1)),
    ]
    assert names[f"there is no such file in {tmp_path / 'val'}"] == (ERROR, 1)


def test_pictures_in_folders_and_links_that_dangle(tmp_path):
    inspected(tmp_path, person(1))
    (tmp_path / "val" / "sub").mkdir()
    (tmp_path / "val" / "sub" / "a.jpg").touch()
    (tmp_path / "val" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    image = {"id": 1, "file_name": "sub/a.jpg", "height": 200, "width": 100}
    assert found(inspected(tmp_path, person(1), images=[image])) == {}
    images = [image, image | {"id": 2, "file_name": "gone.jpg"}]
    (finding,) = inspected(tmp_path, person(1), images=images).findings
    assert finding.ids == ("gone.jpg",)


def test_another_skeleton(tmp_path):
    dog = {
        "id": 7,
        "image_id": 1,
        "category_id": 3,
        "bbox": [10, 10, 50, 50],
        "area": 900,
        "keypoints": [20, 20, 2, 30, 30, 1],
    }
    skeleton = Skeleton("dog", ("nose", "tail"), (), (0.1, 0.1))
    category = {"id": 3, "name": "dog", "keypoints": ["nose", "tail"]}
    for categories in ([category], [{"id": 3, "name": "dog"}]):
        inspection = inspected(tmp_path, dog, categories=categories, skeleton=skeleton)
        assert found(inspection) == {}
        assert inspection.keypoints == {"nose": (0, 0, 1), "tail": (0, 1, 0)}
    (finding,) = inspected(tmp_path, dog, categories=[category]).findings
    assert finding.level == ERROR and finding.what.startswith("it has 2 keypoints, and skeleton")


def test_only_the_first_few_ids_are_named(tmp_path):
    inspection = inspected(tmp_path, *(person(n, area=-1) for n in range(1, 10)))
    finding = next(f for f in inspection.findings if f.level == ERROR)
    assert (finding.count, finding.ids) == (9, (1, 2, 3, 4, 5))
    assert any(line.endswith("1, 2, 3, 4, 5, ...") for line in lines(inspection))


def test_what_is_not_cocos_at_all_is_one_line(tmp_path):
    with pytest.raises(DataError, match="no list of 'images'"):
        inspected(tmp_path, images=None)


def test_drawn_and_real_people_have_no_errors_and_no_exchanged_eyes(tmp_path, coco_sample):
    people.write_dataset(tmp_path, {"val2017": 40})
    for root in (tmp_path, coco_sample):
        inspection = inspect(root, "val2017")
        assert inspection.num_errors == 0
        assert EYES not in found(inspection)
        assert inspection.counts["people with labelled keypoints"] > 20
