"""Exports of annotation tools are read exactly."""

import copy
import json
import zipfile

import cv2
import numpy as np
import pytest
import tool_exports as tools
from imported import SHOTS, changed, check_same, imported
from tool_exports import NAMES, Shot

from mspn_jax.annotation_tools import folder, settings, splitting
from mspn_jax.annotation_tools.grouping import Point, group
from mspn_jax.annotation_tools.labelled import LabelledPicture, LeftOut
from mspn_jax.commands import ranges
from mspn_jax.data.validator import read_annotations
from mspn_jax.errors import DataError
from mspn_jax.skeletons import COCO
from mspn_jax.synthetic.animals import QUADRUPED


def test_cvat(tmp_path):
    read, skeleton, left_out = imported(tmp_path, tools.cvat(tmp_path / "task", SHOTS))
    check_same(read, skeleton, SHOTS, boxes=False)
    assert skeleton.limbs == QUADRUPED.limbs and skeleton.keypoint_names == NAMES
    assert skeleton.name == "quadruped" and not left_out.counts
    (category,) = json.loads(read.file.read_text())["categories"]
    assert category["skeleton"] == [[a + 1, b + 1] for a, b in QUADRUPED.limbs]  # from 1
    # CVAT's boxes are keypoints' extents: each side moves by 0.1 of the longer one.
    for box, xyv in zip(read.boxes_xywh, [xyv for shot in SHOTS for xyv in shot.triples]):
        x, y, w, h = tools.extent(xyv)
        more = 0.1 * max(w, h)
        corners = [x - more, y - more, x + w + more, y + h + more]
        corners = np.clip(corners, 0, [160, 120, 160, 120])
        np.testing.assert_allclose([*box[:2], *(box[:2] + box[2:])], corners, atol=1e-6)
        assert box[2] * box[3] > w * h
    np.testing.assert_allclose(read.areas, read.boxes_xywh[:, 2:].prod(1))


def test_a_zip_of_cvat_with_subsets_and_equal_names(tmp_path):
    tools.cvat(tmp_path / "task", SHOTS[:4], "train")
    others = [Shot(a.name, b.jpeg, b.size, b.triples, b.boxes) for a, b in zip(SHOTS, SHOTS[4:8])]
    tools.cvat(tmp_path / "task", others, "val")
    with zipfile.ZipFile(tmp_path / "task.zip", "w") as file:
        for path in sorted((tmp_path / "task").rglob("*")):
            file.write(path, path.relative_to(tmp_path / "task"))
    read, skeleton, _ = imported(tmp_path, tmp_path / "task.zip")
    shots = {f"train/{shot.name}": shot for shot in SHOTS[:4]}
    shots |= {f"val/{shot.name}": shot for shot in others}
    names = {id(shot): name for name, shot in shots.items()}
    check_same(read, skeleton, list(shots.values()), boxes=False, name=lambda s: names[id(s)])
    root = tmp_path / "imported"
    splitting.split(root, source="all", names=("train", "val"), share=0.2, by="subset")
    for subset, mine in (("train", SHOTS[:4]), ("val", others)):
        part = read_annotations(root=root, split=subset, skeleton=skeleton)
        check_same(part, skeleton, mine, boxes=False, name=lambda s: names[id(s)])


def test_coco_with_boxes_and_outlines_keeps_them(tmp_path):
    root = tools.cvat(tmp_path / "task", SHOTS[:3])
    path = root / "annotations" / "person_keypoints_default.json"
    content = json.loads(path.read_text())
    boxes = [box for shot in SHOTS[:3] for box in shot.boxes]
    for row, box in zip(content["annotations"], boxes):
        row |= {"bbox": box, "area": 321.5, "segmentation": [[1, 2, 3, 4, 5, 6]]}
    path.write_text(json.dumps(content))
    read, skeleton, _ = imported(tmp_path, path)  # the file alone is enough
    check_same(read, skeleton, SHOTS[:3], boxes=True)
    assert set(read.areas.tolist()) == {321.5}


@pytest.mark.parametrize("parents", [True, False])
@pytest.mark.parametrize("local", [True, False])
def test_label_studio(tmp_path, parents, local):
    shots = SHOTS if parents else apart(tools.drawn(20))
    root = tools.label_studio(tmp_path / "ls", shots, parents=parents, local=local)
    read, skeleton, left_out = imported(tmp_path, root)
    check_same(read, skeleton, shots, boxes=True, name=lambda shot: f"media/0a1b2c3d-{shot.name}")
    assert not left_out.counts


def test_label_studio_with_pictures_under_their_own_names(tmp_path):
    """The JSON alone is downloaded, and the pictures are where they were uploaded from."""
    tools.label_studio(tmp_path / "ls", SHOTS)
    tools.put(tmp_path / "photos", SHOTS)
    file = (tmp_path / "ls" / "project-1.json").rename(tmp_path / "mine.json")
    (tmp_path / "ls").rename(tmp_path / ".hidden")
    read, skeleton, _ = imported(tmp_path, file, pictures=[tmp_path / "photos"])
    check_same(read, skeleton, SHOTS, boxes=True)


def apart(shots: list[Shot]) -> list[Shot]:
    """Pictures without boxes that overlap, each with all keypoints within its box."""
    kept = []
    for shot in shots:
        boxes = []
        for xyv, (x, y, w, h) in zip(shot.triples, shot.boxes):
            xy = xyv[xyv[:, 2] > 0, :2]
            low, high = np.minimum(xy.min(0), (x, y)), np.maximum(xy.max(0), (x + w, y + h))
            boxes.append([*low.tolist(), *(high - low).tolist()])
        overlap = any(
            a[0] <= b[0] + b[2]
            and b[0] <= a[0] + a[2]
            and a[1] <= b[1] + b[3]
            and b[1] <= a[1] + a[3]
            for i, a in enumerate(boxes)
            for b in boxes[:i]
        )
        if not overlap:
            kept.append(Shot(shot.name, shot.jpeg, shot.size, shot.triples, boxes))
    assert len(kept) > 3 and any(len(shot.boxes) > 1 for shot in kept)
    return kept


def test_label_studio_min(tmp_path):
    shots = apart(tools.drawn(20))
    read, skeleton, _ = imported(tmp_path, tools.label_studio_min(tmp_path / "ls", shots))
    media = lambda shot: f"media/0a1b2c3d-{shot.name}"  # noqa: E731
    check_same(read, skeleton, shots, boxes=True, hidden=False, name=media)


def test_label_studio_tasks_without_annotations_are_left_out(tmp_path):
    root = tools.label_studio_min(tmp_path / "min", SHOTS[:3])
    changed(root / "project-1.json", lambda c: [c[1].pop(key) for key in ("box", "kp")])
    read, _, left_out = imported(tmp_path, root)
    assert len(read.file_names) == 2
    assert left_out.counts["pictures that nobody annotated"] == 1
    root = tools.label_studio(tmp_path / "json", SHOTS[:3])
    changed(root / "project-1.json", lambda c: c[1].pop("annotations"))
    read, _, left_out = imported(tmp_path / "second", root)
    assert len(read.file_names) == 2
    assert left_out.counts == {"pictures that nobody annotated": 1}


def test_label_studio_shapes_beside_their_labels(tmp_path):
    """With Labels, a region has two results of one id: its shape, and its shape with the label."""
    root = tools.label_studio(tmp_path / "ls", SHOTS[:3])

    def separate(content):
        for task in content:
            result = task["annotations"][0]["result"]
            for region in [r for r in result if r["type"] != "choices"]:
                kind = region["type"]
                labels = region["value"].pop(kind)
                shape = region | {"type": kind.removesuffix("labels"), "value": region["value"]}
                region |= {"type": "labels", "value": region["value"] | {"labels": labels}}
                result.insert(0, shape)

    changed(root / "project-1.json", separate)
    read, skeleton, left_out = imported(tmp_path, root)
    media = lambda shot: f"media/0a1b2c3d-{shot.name}"  # noqa: E731
    check_same(read, skeleton, SHOTS[:3], boxes=True, name=media)
    assert not left_out.counts


def test_relations_group_keypoints(tmp_path):
    root = tools.label_studio(tmp_path / "ls", SHOTS)

    def relate(content):
        for task in content:
            result = task["annotations"][0]["result"]
            for number, region in enumerate(list(result)):
                owner = region.pop("parentID", None)
                ends = (region["id"], owner) if number % 2 else (owner, region["id"])
                if owner:
                    relation = {"type": "relation", "from_id": ends[0], "to_id": ends[1]}
                    result.append(relation | {"direction": "right"})

    changed(root / "project-1.json", relate)
    read, skeleton, left_out = imported(tmp_path, root)
    media = lambda shot: f"media/0a1b2c3d-{shot.name}"  # noqa: E731
    check_same(read, skeleton, SHOTS, boxes=True, name=media)
    assert not left_out.counts


def test_a_rotated_rectangle_of_label_studio_becomes_the_upright_one_around_it(tmp_path):
    root = tools.label_studio(tmp_path / "ls", SHOTS[:1])
    path = root / "project-1.json"
    content = json.loads(path.read_text())
    (width, height) = SHOTS[0].size
    region = content[0]["annotations"][0]["result"][0]
    region["value"] |= {"x": 50, "y": 25, "width": 25, "height": 25, "rotation": 90}
    path.write_text(json.dumps(content))
    read, _, _ = imported(tmp_path, root)
    # Turned clockwise about its first corner it lies to the left of it.
    expected = [0.5 * width - 0.25 * height, 0.25 * height, 0.25 * height, 0.25 * width]
    np.testing.assert_allclose(read.boxes_xywh[0], expected, atol=1e-9)


@pytest.mark.parametrize("embedded", [True, False])
def test_labelme(tmp_path, embedded):
    root = tools.labelme(tmp_path / "in", SHOTS, embedded=embedded)
    read, skeleton, left_out = imported(tmp_path, root)
    check_same(read, skeleton, SHOTS, boxes=True)
    assert skeleton.name == "quadruped" and not left_out.counts


@pytest.mark.parametrize("dims", [2, 3])
def test_yolo_pose(tmp_path, dims):
    root = tools.yolo(tmp_path / "farm", {"train": SHOTS[:6], "val": SHOTS[6:]}, dims=dims)
    for export in (root, root / "data.yaml"):
        read, skeleton, _ = imported(tmp_path / export.name, export)
        check_same(read, skeleton, SHOTS, boxes=True, hidden=dims == 3)


def test_yolo_pose_without_names_has_the_pairs_of_flip_idx(tmp_path):
    root = tools.yolo(tmp_path / "farm", {"train": SHOTS[:3], "val": []}, kpt_names=None)
    _, skeleton, left_out = imported(tmp_path, root)
    np.testing.assert_array_equal(skeleton.flip_permutation, QUADRUPED.flip_permutation)
    names = ["keypoint_0", "keypoint_1", "keypoint_2", "keypoint_3_left", "keypoint_4_left"]
    assert [*skeleton.keypoint_names[:5]] == names
    assert left_out.counts == {
        "pairs of flip_idx named by the first of them with _left and _right": 4
    }


def test_yolo_pose_with_cocos_pairs_is_cocos(tmp_path):
    root = tmp_path / "farm"
    tools.yolo(root, {"train": SHOTS[:1], "val": []})
    (root / "labels" / "train" / "shot_000.txt").write_text("0 .5 .5 .4 .8 " + "0.5 0.5 2 " * 17)
    content = {"train": "images/train", "kpt_shape": [17, 3]}
    content["flip_idx"] = COCO.flip_permutation.tolist()
    (root / "data.yaml").write_text(json.dumps(content))
    _, skeleton, _ = imported(tmp_path, root)
    assert skeleton.keypoint_names == COCO.keypoint_names
    assert skeleton.oks_sigmas == COCO.oks_sigmas


def test_deeplabcut(tmp_path):
    root = tools.deeplabcut(tmp_path / "project", {"one": SHOTS[:4], "two": SHOTS[4:]})
    read, skeleton, _ = imported(tmp_path, root)
    video = {shot.name: "one" if k < 4 else "two" for k, shot in enumerate(SHOTS)}
    name = lambda shot: f"{video[shot.name]}/{shot.name}"  # noqa: E731
    check_same(read, skeleton, SHOTS, boxes=False, hidden=False, name=name)
    assert skeleton.limbs == QUADRUPED.limbs


def test_pictures_are_linked_or_copied(tmp_path):
    root = tools.cvat(tmp_path / "task", SHOTS[:2])
    original = root / "images" / "default" / SHOTS[0].name
    for is_copied in (False, True):
        output = tmp_path / str(is_copied)
        imported(output, root, copy=is_copied)
        new = output / "imported" / "images" / SHOTS[0].name
        assert new.read_bytes() == SHOTS[0].jpeg
        assert new.samefile(original) != is_copied


def test_what_is_left_out_is_counted(tmp_path):
    root = tools.label_studio(tmp_path / "ls", SHOTS[:3])
    path = root / "project-1.json"
    content = json.loads(path.read_text())
    result = content[0]["annotations"][0]["result"]
    far = copy.deepcopy(next(r for r in result if r["type"] == "keypointlabels"))
    del far["parentID"]
    far["value"] |= {"x": 99.9, "y": 0.1}
    result.append(far)
    result.append(result[0] | {"id": "b", "type": "brushlabels", "value": {"rle": [1]}})
    again = content[1]["annotations"][0]
    content[1]["annotations"].append(again)
    content[2]["annotations"][0]["was_cancelled"] = True
    path.write_text(json.dumps(content))
    read, _, left_out = imported(tmp_path, root)
    assert left_out.counts == {
        "keypoints outside every box, left out: draw the box around them": 1,
        "regions of type brushlabels, left out": 1,
        "further annotations of pictures annotated twice; the first is taken": 1,
        "pictures that nobody annotated": 1,
    }
    assert len(read.file_names) == 2
    assert any("task 1: " in line and line.startswith("1 keypoints") for line in left_out.lines())


def test_keypoints_within_two_boxes_go_to_the_one_that_lacks_them():
    left_out = LeftOut()
    boxes = {"large": (0.0, 0.0, 100.0, 100.0), "small": (20.0, 20.0, 30.0, 30.0)}
    points = [
        Point("nose", (30.0, 30.0, 2)),
        Point("nose", (90.0, 90.0, 2)),
        Point("tail", (30.0, 40.0, 2)),
        Point("tail", (40.0, 40.0, 2), "small"),
    ]
    large, small = group(points, boxes, "here", left_out)
    assert large.keypoints == {"nose": (90.0, 90.0, 2), "tail": (30.0, 40.0, 2)}
    assert small.keypoints == {"nose": (30.0, 30.0, 2), "tail": (40.0, 40.0, 2)}
    assert not left_out.counts


@pytest.mark.parametrize("count", [0, 1, 200, 100_000])
def test_the_schedule_fits_the_number_of_instances(count, tmp_path):
    for aspect, crop_hw in ((0.4, (256, 192)), (1.0, (256, 256)), (2.5, (192, 256))):
        text = settings.config_text(QUADRUPED, np.full(count, aspect), "a tool")
        names: dict = {"__file__": str(tmp_path / "config.py")}
        exec(text, names)
        config = names["get_config"]()
        ranges.check(config)
        assert config.data.root == str(tmp_path) and config.skeleton == ""
        assert config.crop_hw == (crop_hw if count else (256, 256))
        steps = config.num_epochs * max(np.ceil(0.8 * count / config.batch_size), 1)
        assert f"{int(steps):,} steps" in text
        assert config.optimizer.schedule == "cosine"  # it fits any number of steps
        assert config.eval.every_epochs * 5 <= config.num_epochs


def test_the_picture_that_is_turned_by_exif_is_measured_as_it_is_seen(tmp_path):
    """Every reader compares with the decoded picture, to which EXIF is applied."""
    tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    body = b"Exif\x00\x00" + tiff
    plain = cv2.imencode(".jpg", np.zeros((20, 30, 3), np.uint8))[1].tobytes()
    marked = plain[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + plain[2:]
    path = tmp_path / "a.jpg"
    path.write_bytes(marked)
    assert folder._measure(LabelledPicture("a.jpg", path, [], (20, 30)), path) == (20, 30)
    with pytest.raises(DataError, match="the tool ignored its EXIF rotation"):
        folder._measure(LabelledPicture("a.jpg", path, [], (30, 20)), path)
