"""mspn import and mspn split: what tools export comes back exactly, and faults are one line."""

import copy
import json
import pathlib
import re
import zipfile

import cv2
import numpy as np
import pytest
import tool_exports as tools
from tool_exports import NAMES, Shot

from commands import HERE, run
from mspn_jax.annotation_tools import folder, settings, sources, splitting
from mspn_jax.annotation_tools.grouping import Point, group
from mspn_jax.annotation_tools.labelled import LabelledPicture, LeftOut
from mspn_jax.commands import configured, ranges
from mspn_jax.configs import quickstart
from mspn_jax.data.annotations import Annotations, read_annotations
from mspn_jax.errors import DataError, Error
from mspn_jax.skeletons import COCO, Skeleton
from mspn_jax.synthetic.animals import QUADRUPED

SHOTS = tools.drawn(9)


def imported(
    root: pathlib.Path, *exports: pathlib.Path, copy: bool = False, box_margin: float = 0.1, **given
) -> tuple[Annotations, Skeleton, LeftOut]:
    """What training reads of an export after `mspn import`."""
    output = root / "imported"
    with sources.unpacked(list(map(str, exports))) as places:
        dataset = sources.read(places, **given)
        folder.write(dataset, output, box_margin=box_margin, copy=copy)
    config = quickstart.get_config()
    config.skeleton, config.data.root, config.data.train_split = "", str(output), folder.ALL
    skeleton = configured.skeleton_of(config)
    assert not (output / "skeleton.json").exists()  # it would repeat the json
    read = read_annotations(root=output, split=folder.ALL, skeleton=skeleton)
    return read, skeleton, dataset.left_out


def check_same(
    read: Annotations,
    skeleton: Skeleton,
    shots: list[Shot],
    *,
    boxes: bool,
    hidden: bool = True,
    name=lambda shot: shot.name,
) -> None:
    """Every keypoint within 1e-6 of a pixel, with its name, picture and visibility."""
    order = [skeleton.keypoint_names.index(n) for n in NAMES]
    assert set(skeleton.keypoint_names) == set(NAMES)
    mirrored = [NAMES[k] for k in QUADRUPED.flip_permutation]
    flips = skeleton.flip_permutation[order]
    assert [skeleton.keypoint_names[k] for k in flips] == mirrored
    by_name = {picture.file_name: picture for picture in read.pictures()}
    assert by_name.keys() == {name(shot) for shot in shots}
    for shot in shots:
        picture = by_name[name(shot)]
        assert picture.image_hw == shot.size[::-1]
        assert (read.file.parents[1] / "images" / name(shot)).read_bytes() == shot.jpeg
        assert len(picture.boxes_xywh) == len(shot.triples)
        rows = read.image_rows == read.file_names.index(name(shot))
        for n, (xyv, box) in enumerate(zip(shot.triples, shot.boxes)):
            found = read.keypoints_image_xy[rows][n, order]
            visibility = read.visibility[rows][n, order]
            expected = xyv[:, 2] if hidden else 2 * (xyv[:, 2] > 0)
            np.testing.assert_array_equal(visibility, expected)
            is_labelled = xyv[:, 2] > 0
            np.testing.assert_allclose(found[is_labelled], xyv[is_labelled, :2], atol=1e-6)
            if boxes:
                np.testing.assert_allclose(read.boxes_xywh[rows][n], box, atol=1e-6)


# ------------------------------------------------------------------------------------ round trips


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
    assert skeleton.keypoint_names[:5] == (
        *("keypoint_0", "keypoint_1", "keypoint_2"), "keypoint_3_left", "keypoint_4_left",
    )  # fmt: skip
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


# ----------------------------------------------------------------------------------------- faults


def changed(path: pathlib.Path, change) -> pathlib.Path:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path.parent


def of_cvat(change):
    def make(root):
        tools.cvat(root, SHOTS[:3])
        path = root / "annotations" / "person_keypoints_default.json"
        changed(path, change)
        return root

    return make


def of_label_studio(change, **given):
    def make(root):
        tools.label_studio(root, SHOTS[:3], **given)
        return changed(root / "project-1.json", change)

    return make


def result_of(content):
    return content[0]["annotations"][0]["result"]


def repeat_a_keypoint(content):
    result = result_of(content)
    result.append(next(r for r in result if r["type"] == "keypointlabels") | {"id": "again"})


def without_boxes(content):
    for task in content:
        result = task["annotations"][0]["result"]
        result[:] = [r for r in result if r["type"] == "keypointlabels"]
        for r in result:
            del r["parentID"]


def no_pictures(root):
    tools.cvat(root, SHOTS[:3])
    for path in root.rglob("*.jpg"):
        path.unlink()
    return root


def picture_missing(root):
    tools.cvat(root, SHOTS[:3])
    (root / "images" / "default" / SHOTS[1].name).unlink()
    return root


def other_size(root):
    tools.labelme(root, SHOTS[:3])
    return changed(root / "shot_001.json", lambda c: c.update(imageWidth=999))


def turned(root):
    tools.labelme(root, SHOTS[:3])
    return changed(root / "shot_001.json", lambda c: c.update(imageWidth=120, imageHeight=160))


def damaged_picture(root):
    tools.labelme(root, SHOTS[:3])
    (root / "shot_001.jpg").write_bytes(SHOTS[1].jpeg[:300])
    return root


def twice(root):
    tools.labelme(root, SHOTS[:3])
    (root / "again.json").write_text((root / "shot_001.json").read_text())
    return root


def short_row(root):
    tools.yolo(root, {"train": SHOTS[:3], "val": []})
    path = root / "labels" / "train" / "shot_001.txt"
    path.write_text(path.read_text().rsplit(" ", 1)[0])
    return root


def yolo_with(**changes):
    return lambda root: tools.yolo(root, {"train": SHOTS[:3], "val": []}, **changes)


def merged_coco(root):
    """Label Studio's COCO export of a picture with two boxes."""

    def change(content):
        content["info"]["contributor"] = "Label Studio"
        for n in range(2):
            content["annotations"].append({"id": 90 + n, "image_id": 1, "category_id": 0})

    return of_cvat(change)(root)


def nothing(root):
    root.mkdir()
    (root / "notes.json").write_text("{}")
    return root


def boxes_alone(content):
    del content["categories"][0]["keypoints"]


def other_category(content):
    content["categories"].append({"id": 2, "name": "bird", "keypoints": ["beak"]})
    row = content["annotations"][0]
    content["annotations"].append(row | {"id": 77, "category_id": 2, "keypoints": [1, 1, 2]})


FAULTS = {
    "no pictures": (no_pictures, "there are no pictures in .*--pictures names their folder"),
    "picture missing": (picture_missing, "default.json: there is no picture '.*shot_001.jpg' in"),
    "other size": (
        other_size,
        "shot_001.json: picture .*shot_001.jpg has 160 x 120 pixels, and the export says 999 x 120:"
        " give the picture that was annotated",
    ),
    "turned": (turned, "the export says 120 x 160: the tool ignored its EXIF rotation"),
    "damaged picture": (damaged_picture, "shot_001.jpg: truncated or damaged JPEG"),
    "one picture twice": (twice, "shot_001.json: picture .* is annotated in .*again.json, too"),
    "a keypoint twice": (
        of_label_studio(repeat_a_keypoint),
        "project-1.json: task 1: an instance has 'withers' twice; delete one$",
    ),
    "several without boxes": (
        of_label_studio(without_boxes),
        "task 2: an instance has '.*' twice; delete one, or draw a box around each instance",
    ),
    "short row": (short_row, "shot_001.txt, line [12]: has 37 numbers; needed are 38: class, box"),
    "no pair": (yolo_with(flip_idx=[1, 2, 0, *range(3, 11)]), "exchange them in pairs"),
    "contradiction": (
        yolo_with(flip_idx=[*range(11)]),
        "flip_idx makes left_front_knee the mirror image of left_front_knee, and the name says"
        " right_front_knee",
    ),
    "wrong path": (yolo_with(train="elsewhere"), "data.yaml: there is no 'elsewhere', neither in"),
    "shape": (yolo_with(kpt_shape=[11]), "kpt_shape must be"),
    "instances merged": (merged_coco, "Label Studio's COCO export puts .* export JSON there"),
    "no export": (nothing, "not an export that is known; needed are COCO's json"),
    "boxes alone": (of_cvat(boxes_alone), "no category lists keypoints, .*COCO Keypoints 1.0"),
    "categories": (of_cvat(other_category), "--category names one of: quadruped, bird"),
    "one side": (
        of_cvat(lambda c: c["categories"][0]["keypoints"].__setitem__(3, "left_ear")),
        "lacks .*right_ear",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_and_leaves_nothing(fault, tmp_path):
    make, message = FAULTS[fault]
    with pytest.raises(Error, match=message) as caught:
        imported(tmp_path, make(tmp_path / "export"))
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"export"}


def test_an_unknown_label_is_named_where_the_names_are_given(tmp_path):
    root = tools.labelme(tmp_path / "in", SHOTS[:2])
    read, skeleton, _ = imported(tmp_path, root, keypoint_names=NAMES)
    check_same(read, skeleton, SHOTS[:2], boxes=True)
    assert skeleton.keypoint_names == NAMES
    with pytest.raises(DataError, match=r"shot_00.\.json: keypoint 'nose' is none of withers, "):
        imported(tmp_path / "b", root, keypoint_names=NAMES[1:])


def test_one_of_several_categories_is_chosen(tmp_path):
    root = of_cvat(other_category)(tmp_path / "task")
    read, skeleton, _ = imported(tmp_path, root, category="quadruped")
    check_same(read, skeleton, SHOTS[:3], boxes=False)
    with pytest.raises(DataError, match="no category 'fish'; there are: quadruped, bird"):
        imported(tmp_path / "b", root, category="fish")


CVATS = "person_keypoints_default.json"
EXPORTS = {
    "cvat": lambda root: tools.cvat(root, SHOTS[:2]) / "annotations" / CVATS,
    "label_studio": lambda root: tools.label_studio(root, SHOTS[:2]) / "project-1.json",
    "label_studio_min": lambda root: tools.label_studio_min(root, SHOTS[:2]) / "project-1.json",
    "labelme": lambda root: tools.labelme(root, SHOTS[:2]) / "shot_000.json",
    "yolo_yaml": lambda root: tools.yolo(root, {"train": SHOTS[:2], "val": []}) / "data.yaml",
    "yolo_row": lambda root: tools.yolo(root, {"train": SHOTS[:2], "val": []})
    / "labels" / "train" / "shot_000.txt",
    "deeplabcut": lambda root: tools.deeplabcut(root, {"v": SHOTS[:2]})
    / "labeled-data" / "v" / "CollectedData_me.csv",
}  # fmt: skip
STRANGE = [None, True, "", "x", "../../x", -1, 1e300, float("nan"), [], [[]], {}, {"a": 1}, 2**70]


def leaves(content, path=()):
    """The paths of all values of a json."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in pairs:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from leaves(value, (*path, key))


@pytest.mark.parametrize("kind", EXPORTS)
def test_damaged_exports_are_read_or_refused_in_one_line(kind, tmp_path):
    """Cut files, and json with values of other types: an error of ours, or a data set."""
    root = tmp_path / "export"
    path = EXPORTS[kind](root)
    data = path.read_bytes()
    rng = np.random.default_rng(5)
    variants = [data[: int(cut * len(data))] for cut in (0, 0.1, 0.5, 0.9, 0.999)]
    variants += [data[:k] + bytes(rng.integers(0, 256, 3, np.uint8)) + data[k + 3 :]
                 for k in rng.integers(0, len(data) - 3, 25)]  # fmt: skip
    if path.suffix == ".json":
        content = json.loads(data)
        places = list(leaves(content))
        for _ in range(60):
            mutated = copy.deepcopy(content)
            place = places[rng.integers(len(places))]
            target = mutated
            for key in place[:-1]:
                target = target[key]
            target[place[-1]] = STRANGE[rng.integers(len(STRANGE))]
            variants.append(json.dumps(mutated).encode())
    refused = 0
    for number, variant in enumerate(variants):
        path.write_bytes(variant)
        try:
            imported(tmp_path / str(number), root)
        except Error as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 2000
    assert 0 < refused < len(variants)


# ------------------------------------------------------------------------------------------ splits


@pytest.fixture
def farm(tmp_path) -> pathlib.Path:
    """Ten pictures of four videos."""
    shots = tools.drawn(10)
    videos = {"a": shots[:4], "b": shots[4:7], "c": shots[7:9], "d": shots[9:]}
    imported(tmp_path, tools.deeplabcut(tmp_path / "project", videos))
    return tmp_path / "imported"


def names_of(root: pathlib.Path, split: str) -> set[str]:
    content = json.loads(splitting.annotation_path(root, split).read_text())
    names = {image["file_name"] for image in content["images"]}
    ids = {image["id"] for image in content["images"]}
    assert len(names) == len(content["images"])
    assert {row["image_id"] for row in content["annotations"]} <= ids
    return names


def split(root: pathlib.Path, **given):
    arguments = {"source": "all", "names": ("train", "val"), "share": 0.3} | given
    return splitting.split(root, **arguments)


def test_every_picture_is_in_one_split_and_pictures_stay(farm):
    before = {path: path.stat().st_mtime_ns for path in (farm / "images").rglob("*")}
    pictures, _, instances = split(farm)
    train, val = names_of(farm, "train"), names_of(farm, "val")
    assert not train & val and train | val == names_of(farm, "all")
    assert [len(train), len(val)] == pictures == [7, 3]
    everything = json.loads(splitting.annotation_path(farm, "all").read_text())
    assert sum(instances) == len(everything["annotations"])
    assert before == {path: path.stat().st_mtime_ns for path in (farm / "images").rglob("*")}


@pytest.mark.parametrize("group", ["", "^(.)/", "^[^/]"])
def test_groups_stay_together(farm, group):
    for seed in range(6):
        pictures, groups, _ = split(farm, by="group", group=group, seed=seed, overwrite=True)
        of_train, of_val = ({name[0] for name in names_of(farm, s)} for s in ("train", "val"))
        assert not of_train & of_val and of_train | of_val == set("abcd")
        assert groups == [len(of_train), len(of_val)] and 1 <= pictures[1] <= 5


def test_a_split_follows_from_its_seed_and_is_not_lost(farm):
    def files():
        return [splitting.annotation_path(farm, s).read_bytes() for s in ("train", "val")]

    split(farm, seed=1)
    first = files()
    split(farm, seed=1)  # the same again is no harm
    assert files() == first
    with pytest.raises(DataError, match="is there already, with other pictures"):
        split(farm, seed=2)
    assert files() == first
    split(farm, seed=2, overwrite=True)
    assert files() != first


@pytest.mark.parametrize(
    "given, message",
    [
        ({"by": "group", "group": "(["}, "no regular expression"),
        ({"by": "group", "group": "cow_(.)"}, "does not match picture 'a/shot_000.jpg'"),
        ({"by": "group", "group": "shot()"}, "one group in it, which cannot be split"),
        ({"by": "subset"}, "needed are one for training and val"),
        ({"source": "train"}, "train.json: No such file"),
        ({"names": ("all", "val")}, "is what is split"),
    ],
)
def test_what_cannot_be_split(farm, given, message):
    with pytest.raises(DataError, match=message):
        split(farm, **given)
    assert not splitting.annotation_path(farm, "val").exists()


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


# ---------------------------------------------------------------------------------------- commands


def test_commands_refuse_in_one_line(tmp_path):
    root = tools.cvat(tmp_path / "task", SHOTS[:2])
    for arguments, message in (
        (["import", "--output", tmp_path / "new"], "name what to import"),
        (
            ["import", tmp_path / "nowhere.zip", "--output", tmp_path / "new"],
            "no such file or folder",
        ),
        (["import", root, "--output", root], "exists already; name a new folder"),
        (["import", root], "--output"),
        (["split", tmp_path / "task"], "person_keypoints_all.json: No such file"),
        (["split"], "name one folder"),
        (["split", root, "--train_name=all"], "must be three names"),
    ):
        done = run("mspn_jax", *arguments)
        assert done.returncode == 1, done.stderr
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ") and message in line
    assert {path.name for path in tmp_path.iterdir()} == {"task"}


TINY = (
    "--config.init.checkpoint=", "--config.num_steps=3", "--config.batch_size=4",
    "--config.model.blocks_per_unit=(1,1,1,1)",
    "--config.model.stem_channels=8", "--config.model.unit_channels=16", "--config.crop_hw=(64,96)",
)  # fmt: skip
THREE = re.search(
    r"^## In three commands\n.*?^```sh\n(.*?)^```",
    (HERE / "docs" / "own_data.md").read_text(),
    re.DOTALL | re.MULTILINE,
)


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["cvat", "label_studio"])
def test_from_an_export_to_ap_in_the_three_commands_of_the_page(tool, tmp_path):
    export = getattr(tools, tool)(tmp_path / "export", SHOTS)
    names = {"export.zip": export, "data/mine": tmp_path / "mine", "runs/mine": tmp_path / "run"}
    said = []
    for line in THREE[1].splitlines():
        program, name, *words = line.partition("#")[0].split()
        assert program == "mspn"
        for shown, real in names.items():
            words = [word.replace(shown, str(real)) for word in words]
        done = run("mspn_jax", name, *words, *(TINY if name == "train" else ()))
        assert done.returncode == 0, done.stderr
        said.append(done.stdout + done.stderr)
    imports, splits, trains = said
    assert f"9 pictures, {sum(len(s.triples) for s in SHOTS)} instances of quadruped" in imports
    assert "4 pairs of left and right" in imports
    assert re.search(
        r"train: 7 pictures, \d+ annotations\nval: 2 pictures, \d+ annotations", splits
    )
    assert re.search(r"step 3: AP 0\.\d+, AP50.* PCK@0.1 0\.\d+", trains)
    assert (tmp_path / "run" / "report" / "report.html").is_file()
    assert (tmp_path / "run" / "checkpoints" / "3").is_dir()
