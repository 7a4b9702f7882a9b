"""MPII: what is imported, whose boxes are whole, and PCKh as MPII computes it."""

import json
import math
import pathlib
import shutil

import cv2
import mpii_files
import numpy as np
import pytest
import scipy.io
from imported import imported

from mspn_jax.annotation_tools import folder, mpii, sources, splitting
from mspn_jax.data import check, evaluation_set, person_boxes, records
from mspn_jax.data.validator import read_annotations
from mspn_jax.errors import DataError
from mspn_jax.evaluation import distances
from mspn_jax.skeletons import MPII

JOINTS = ("head_top", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> tuple[pathlib.Path, dict[str, list[mpii_files.Person]]]:
    root = tmp_path_factory.mktemp("mpii")
    return root, mpii_files.write(root)


@pytest.fixture(scope="module")
def data(source, tmp_path_factory) -> pathlib.Path:
    """What mspn import and mspn split make of it."""
    output = tmp_path_factory.mktemp("data") / "mpii"
    folder.write(sources.read([source[0]]), output)
    splitting.split(output, source="all", names=("train", "val"), share=0, by="subset")
    return output


@pytest.fixture
def changed(source, tmp_path) -> tuple[pathlib.Path, list[mpii_files.Person]]:
    """valid.json and its .mat alone, to be changed; pictures are found by name."""
    (tmp_path / "annot").mkdir()
    shutil.copytree(source[0] / "images", tmp_path / "images")
    for name in ("valid.json", "gt_valid.mat"):
        (tmp_path / "annot" / name).write_bytes((source[0] / "annot" / name).read_bytes())
    return tmp_path / "annot" / "valid.json", source[1]["valid"]


def box_of(person: mpii_files.Person) -> np.ndarray:
    """Left, top, right, bottom in pixels from 0: 200 * scale around the center, moved down."""
    center = np.array(person.center) + (0, 15 * person.scale) - 1
    return np.concatenate([center - 100 * person.scale, center + 100 * person.scale])


def test_the_skeleton_is_mpiis():
    mirrored = [5, 4, 3, 2, 1, 0, 6, 7, 8, 9, 15, 14, 13, 12, 11, 10]
    assert [*MPII.flip_permutation] == mirrored
    assert np.flatnonzero(MPII.is_upper_body).tolist() == [7, 8, 9, 10, 11, 12, 13, 14, 15]
    limbs = sorted(tuple(sorted(limb)) for limb in MPII.limbs)
    assert " ".join(f"{a}-{b}" for a, b in limbs) == (
        "0-1 1-2 2-6 3-4 3-6 4-5 6-7 7-8 8-9 8-12 8-13 10-11 11-12 13-14 14-15"
    )
    leg, arm = (0.089, 0.083, 0.107), (0.062, 0.072, 0.179)
    assert MPII.oks_sigmas == (*leg, *leg[::-1], *4 * (0.026,), *arm, *arm[::-1])


def test_everyone_is_imported(source, data, tmp_path):
    _, splits = source
    for split, name in (("train", "train"), ("val", "valid")):
        read = read_annotations(root=data, split=split, skeleton=MPII)
        persons = sorted(splits[name], key=lambda person: person.image)  # stable
        assert [read.file_names[row] for row in read.image_rows] == [p.image for p in persons]
        assert read.is_person.all() and not read.clip_boxes
        for row, person in enumerate(persons):
            np.testing.assert_array_equal(read.visibility[row], 2 * person.is_visible)
            xy = read.keypoints_image_xy[row][person.is_visible]
            np.testing.assert_allclose(xy, person.joints[person.is_visible] - 1, atol=1e-9)
            box = read.boxes_xywh[row]
            np.testing.assert_allclose([*box[:2], *(box[:2] + box[2:])], box_of(person), atol=1e-9)
            assert read.areas[row] == pytest.approx((200 * person.scale) ** 2)
            head = 0.6 * math.dist(*person.head) if split == "val" else 0
            assert read.head_sizes[row] == pytest.approx(head, abs=1e-9)
    _, skeleton, left_out = imported(tmp_path, source[0])
    assert skeleton.oks_sigmas == MPII.oks_sigmas and skeleton.upper_body == MPII.upper_body
    assert skeleton.limbs == MPII.limbs
    count, everyone = len(splits["train"]), len(splits["train"]) + len(splits["valid"])
    assert left_out.counts == {
        "people without joints, as in MPII's test split, left out": 3,
        "people of trainval, left out: the other files have them": everyone,
        "people of train without a head's size, which PCKh needs": count,
    }


def test_one_file_is_enough_and_a_second_import_is_the_same(source, changed, tmp_path):
    json_file, persons = changed
    read, _, left_out = imported(tmp_path, json_file)
    assert not left_out.counts and len(read.ids) == len(persons)
    (tmp_path / "again").mkdir()
    again, _, _ = imported(tmp_path / "again", tmp_path / "imported")
    assert not again.clip_boxes
    for name in ("boxes_xywh", "keypoints_image_xy", "head_sizes", "areas", "visibility"):
        np.testing.assert_array_equal(getattr(again, name), getattr(read, name))


FAULTS = {
    "is of 1 people, and valid.json of": lambda path, persons: mpii_files.write_mat(
        path, persons[:1]
    ),
    "its joints are not those of valid.json": lambda path, persons: mpii_files.write_mat(
        path, persons[::-1]
    ),
    "not a whole .mat": lambda path, persons: path.write_bytes(path.read_bytes()[:300]),
    "has no 'headboxes_src'": lambda path, persons: scipy.io.savemat(path, {"a": 1}),
}


@pytest.mark.parametrize("message", FAULTS)
def test_a_wrong_mat_is_one_clear_line(message, changed):
    json_file, persons = changed
    FAULTS[message](json_file.with_name("gt_valid.mat"), persons)
    with pytest.raises(DataError, match=f"gt_valid.mat: {message}"):
        sources.read([json_file])


def test_a_mat_that_ends_its_reader_is_one_clear_line(changed, monkeypatch):
    """Some damaged files are a segmentation fault of scipy's."""
    monkeypatch.setattr(mpii, "_READ", "import os; os.abort()")
    with pytest.raises(DataError, match=r"gt_valid.mat: not a whole .mat \(its reader broke off\)"):
        sources.read([changed[0]])


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("joints", [[1, 2]], "person 1: joints: has 1 values; expected 16"),
        ("joints", None, "person 1: joints: has 0 values; expected 16"),
        (
            "joints_vis",
            [2] * 16,
            "person 1: joints_vis of right_ankle: 2 where a number from 0 to 1",
        ),
        ("center", [1, "2"], "person 1: center: '2' where a number"),
        ("scale", -1, "person 1: scale: -1 where a number from 0 to"),
        ("scale", 10**400, "person 1: scale: a huge number where a number from 0 to"),
        ("scale", float("nan"), "person 1: scale: nan where a number from 0 to"),
        ("image", "a\nb", r"person 1: image: 'a\\nb' where a line of text"),
        ("image", "nowhere.jpg", "person 1: there is no picture 'nowhere.jpg'"),
    ],
)
def test_a_wrong_person_is_one_clear_line(key, value, message, changed):
    json_file, _ = changed
    rows = json.loads(json_file.read_text())
    rows[1][key] = value
    json_file.write_text(json.dumps(rows))
    with pytest.raises(DataError, match=message):
        sources.read([json_file])


# ----------------------------------------------------------------------------------- whole boxes


def all_boxes(root: pathlib.Path) -> list[np.ndarray]:
    """The (N, 4) corners of the split val that training, evaluation and prediction cut around."""
    given = dict(root=root, split="val", skeleton=MPII)
    training = records.open_records(**given, only_with_people=True)
    evaluated = evaluation_set.open_split(**given)
    file = root / "annotations" / "person_keypoints_val.json"
    predicted = person_boxes.read_person_boxes(file).by_picture
    boxes = np.concatenate([predicted[name] for name in sorted(predicted)])[:, :4]
    boxes[:, 2:] += boxes[:, :2]
    return [training.people.boxes_xyxy, evaluated.boxes.boxes_xyxy, boxes]


def test_boxes_stay_whole_wherever_crops_are_cut(source, data, tmp_path, caplog):
    persons = sorted(source[1]["valid"], key=lambda person: person.image)
    expected = np.array([box_of(person) for person in persons])
    limits = np.array([0, 0, 159, 119])
    beyond = np.concatenate([expected[:, :2] < 0, expected[:, 2:] > limits[2:]], 1)
    assert (beyond.mean(0) > 0.1).all(), "drawn people must reach beyond every side"
    for boxes in all_boxes(data):
        np.testing.assert_allclose(boxes, expected, atol=1e-4)
    assert "beyond their picture" not in caplog.text
    assert "clip" not in caplog.text

    clipped = tmp_path / "clipped"
    for path in (data / "annotations").glob("*val.json"):
        content = json.loads(path.read_text())
        assert content["info"].pop("clip_boxes") is False
        (clipped / "annotations").mkdir(parents=True)
        (clipped / "annotations" / path.name).write_text(json.dumps(content))
    (clipped / "images").symlink_to(data / "images")
    inside = np.clip(expected, np.tile(limits[:2], 2), np.tile(limits[2:], 2))
    for boxes in all_boxes(clipped):
        np.testing.assert_allclose(boxes, inside, atol=1e-4)
    assert "boxes that reach beyond their picture" in caplog.text


def test_mspn_check_looks_at_whole_boxes(data):
    found = check.inspect(root=data, split="val", skeleton=MPII, padding=1.25, crop_hw=(256, 256))
    assert not found.num_errors
    assert not [f for f in found.findings if "greater than the box's" in f.what]


def test_clip_boxes_must_be_true_or_false(data, tmp_path):
    content = json.loads((data / "annotations" / "person_keypoints_val.json").read_text())
    content["info"]["clip_boxes"] = "no"
    path = tmp_path / "annotations" / "person_keypoints_val.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    message = r"""clip_boxes is "no"; expected true or false, in 'info'"""
    with pytest.raises(DataError, match=message):
        read_annotations(root=tmp_path, split="val", skeleton=MPII)
    with pytest.raises(DataError, match=message):
        person_boxes.read_person_boxes(path)


@pytest.mark.parametrize("crop_hw", [(256, 256), (384, 288), (256, 192)])
def test_a_crop_is_the_persons_square_enlarged_by_a_quarter(crop_hw, tmp_path):
    """Each pixel by hand, from MPII's center and scale, on a picture of slow waves."""
    y, x = np.mgrid[:240, :320]
    waves = [127 + 100 * np.sin(x / 31 + k) * np.cos(y / 29 - k) for k in range(3)]
    image = np.stack(waves, -1).round().astype(np.uint8)
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), image[..., ::-1])
    joints, visible = np.full((16, 2), 100.0), np.ones(16, bool)
    persons = [
        mpii_files.Person("a.png", [130.4, 99.7], 1.13, joints, visible, np.eye(2)),
        mpii_files.Person("a.png", [290.0, 60.5], 0.71, joints, visible, np.eye(2)),
    ]
    path = tmp_path / "valid.json"
    path.write_text(json.dumps([person.to_json() for person in persons]))
    read, skeleton, _ = imported(tmp_path, path)
    dataset = evaluation_set.open_split(root=read.file.parents[1], split="all", skeleton=skeleton)
    (batch,) = evaluation_set.batches(
        dataset.records, dataset.boxes, crop_hw=crop_hw, batch_size=2, padding=1.25
    )
    for person, crop in zip(persons, batch.crops):
        left, top, right, bottom = box_of(person)
        side = 1.25 * (right - left)
        height, width = side, side
        if crop_hw[1] < crop_hw[0]:  # the picture's region must be narrower than high
            height = side * crop_hw[0] / crop_hw[1]
        columns = (left + right) / 2 + (np.arange(crop_hw[1]) / crop_hw[1] - 0.5) * width
        rows = (top + bottom) / 2 + (np.arange(crop_hw[0]) / crop_hw[0] - 0.5) * height
        inside = np.outer(*((at >= 0) & (at <= n - 1) for at, n in ((rows, 240), (columns, 320))))
        outside = np.outer((rows <= -1) | (rows >= 240), np.ones(crop_hw[1], bool))
        outside |= (columns <= -1) | (columns >= 320)
        assert inside.any() and outside.any()
        assert (crop[outside] == 0).all()
        for k in range(3):
            exact = 127 + 100 * np.sin(columns / 31 + k) * np.cos(rows[:, None] / 29 - k)
            off = np.abs(crop[..., k] - exact)[inside]
            assert off.max() < 2 and off.mean() < 0.5  # a pixel more or less is 3


# ------------------------------------------------------------------------------------------ PCKh


def mpiis_own(mat: pathlib.Path, found: np.ndarray, threshold: float) -> dict[str, float]:
    """MPII's evaluation of (N, 16, 2) joints in its pixels: each joint's share within a threshold
    of 0.6 of the diagonal of the head's box; the mean is weighted with the labels of each joint,
    without pelvis and thorax."""
    truth = scipy.io.loadmat(mat)
    near, counts = np.zeros(16), np.zeros(16)
    for n in range(len(found)):
        (x0, y0), (x1, y1) = truth["headboxes_src"][..., n]
        size = 0.6 * math.hypot(x1 - x0, y1 - y0)
        for k in range(16):
            if truth["jnt_missing"][k, n]:
                continue
            dx, dy = found[n, k] - truth["pos_gt_src"][k, :, n]
            counts[k] += 1
            near[k] += math.hypot(dx, dy) / size <= threshold
    share = near / counts
    counts[[6, 7]] = 0
    sides = {
        joint: [k for k in range(16) if MPII.keypoint_names[k].endswith(joint)] for joint in JOINTS
    }
    each = {joint: sum(share[k] for k in ks) / len(ks) for joint, ks in sides.items()}
    return {"": sum(share * counts / counts.sum())} | each


@pytest.mark.parametrize("threshold", [0.5, 0.1])
@pytest.mark.parametrize("seed", range(3))
def test_pckh_is_mpiis_own(source, data, threshold, seed):
    root, splits = source
    rng = np.random.default_rng(seed)
    found = np.stack([person.joints for person in splits["valid"]])
    sizes = np.array([math.dist(*person.head) for person in splits["valid"]])
    found = found + rng.normal(0, 0.6 * threshold * sizes[:, None, None] / 1.5, found.shape)
    expected = mpiis_own(root / "annot" / "gt_valid.mat", found, threshold)
    assert 0.1 < min(expected.values()) < max(expected.values()) < 1
    annotations = read_annotations(root=data, split="val", skeleton=MPII)
    order = sorted(range(len(found)), key=lambda n: splits["valid"][n].image)
    boxes = annotations.boxes_xyxy
    image_ids = annotations.image_ids[annotations.image_rows].tolist()
    results = [
        {
            "image_id": image_ids[row],
            "bbox": [*boxes[row, :2], *(boxes[row, 2:] - boxes[row, :2])],
            "keypoints": np.column_stack([found[n] - 1, np.ones(16)]).ravel().tolist(),
        }
        for row, n in enumerate(order)
    ]
    names = {joint: f"PCKh@{threshold}{joint and '/'}{joint}" for joint in expected}
    metrics = distances.distance_metrics([*names.values()], annotations, results, MPII)
    for joint, value in expected.items():
        assert metrics[names[joint]] == pytest.approx(value, abs=1e-9), joint


def test_pckh_without_the_mat_is_refused(changed, tmp_path):
    json_file, _ = changed
    json_file.with_name("gt_valid.mat").unlink()
    read, _, left_out = imported(tmp_path, json_file)
    (what,) = left_out.counts
    assert what == "people of valid without a head's size, which PCKh needs"
    with pytest.raises(DataError, match="no head_size, which PCKh is measured in"):
        distances.check(["PCKh@0.5"], read, MPII)
