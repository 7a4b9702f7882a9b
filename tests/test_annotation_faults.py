"""A fault in an export gives one line of error, and leaves no files."""

import copy
import json
import zipfile

import mpii_files
import numpy as np
import pytest
import tool_exports as tools
from imported import SHOTS, changed, check_same, imported
from tool_exports import NAMES

from mspn_jax.errors import DataError, Error


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


def labelme_with(**changes):
    def make(root):
        tools.labelme(root, SHOTS[:3])
        return changed(root / "shot_001.json", lambda c: c.update(changes))

    return make


def first_shape(**changes):
    def make(root):
        tools.labelme(root, SHOTS[:3])
        return changed(root / "shot_001.json", lambda c: c["shapes"][0].update(changes))

    return make


def first_region(**changes):
    return of_label_studio(lambda content: result_of(content)[0]["value"].update(changes))


def zip_of(name, content="{}"):
    def make(root):
        with zipfile.ZipFile(root.with_suffix(".zip"), "w") as file:
            file.writestr(name, content)
        return root.with_suffix(".zip")

    return make


FAULTS = {
    "width of 401 digits": (labelme_with(imageWidth=10**400), "its size: a huge number where a"),
    "width NaN": (labelme_with(imageWidth=float("nan")), "its size: nan where a number from 1 to"),
    "no picture inside": (
        labelme_with(imagePath="gone.jpg", imageData="aGVsbG8="),
        "shot_001.json: the picture in it: not a picture",
    ),
    "label of two lines": (first_shape(label="no\nse"), r"label: 'no\\nse' where a line of text"),
    "point 1e300": (first_shape(points=[[1e300, 2]]), r"x: 1e\+300 where a number from -100,000"),
    "point of 3": (first_shape(points=[[1, 2, 3]]), "a point: has 3 values; expected 2"),
    "no address": (
        of_label_studio(lambda c: c[0]["data"].update(image="http://[::1/x.jpg")),
        "task 1: there is no picture 'http://",
    ),
    "no task": (of_label_studio(lambda c: c.append(5)), "no known export; expected"),
    "region NaN": (first_region(x=float("nan")), "task 1: region .*: x: nan where a number from"),
    "region of text": (first_region(rotation="1"), "rotation: '1' where a number from -100,000"),
    "long name in a zip": (zip_of(300 * "a"), r"export.zip: cannot be unpacked into .* \(File n"),
    "json in a zip": (zip_of("n.json", "[1"), r"n.json: not json"),
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
    "short row": (short_row, "shot_001.txt, line [12]: has 37 numbers; expected 38: class, box"),
    "no pair": (yolo_with(flip_idx=[1, 2, 0, *range(3, 11)]), "exchange them in pairs"),
    "contradiction": (
        yolo_with(flip_idx=[*range(11)]),
        "flip_idx makes left_front_knee the mirror image of left_front_knee, and the name says"
        " right_front_knee",
    ),
    "wrong path": (yolo_with(train="elsewhere"), "data.yaml: there is no 'elsewhere', neither in"),
    "shape": (yolo_with(kpt_shape=[11]), "kpt_shape must be"),
    "instances merged": (merged_coco, "Label Studio's COCO export puts .* export JSON there"),
    "no export": (nothing, "no known export; expected COCO's json"),
    "boxes alone": (of_cvat(boxes_alone), "no category lists keypoints, .*COCO Keypoints 1.0"),
    "categories": (of_cvat(other_category), "--category names one of: quadruped, bird"),
    "one side": (
        of_cvat(lambda c: c["categories"][0]["keypoints"].__setitem__(3, "left_ear")),
        "lacks .*right_ear",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_and_leaves_nothing(fault, tmp_path):
    make, message = FAULTS[fault]
    with pytest.raises(Error, match=message) as caught:
        imported(tmp_path, make(tmp_path / "export"))
    assert "\n" not in str(caught.value)
    assert {path.stem for path in tmp_path.iterdir()} == {"export"}


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


def mpii(root):
    mpii_files.write(root, train=2, valid=3)
    return root / "annot"


CVATS = "person_keypoints_default.json"
EXPORTS = {
    "cvat": lambda root: tools.cvat(root, SHOTS[:2]) / "annotations" / CVATS,
    "label_studio": lambda root: tools.label_studio(root, SHOTS[:2]) / "project-1.json",
    "label_studio_min": lambda root: tools.label_studio_min(root, SHOTS[:2]) / "project-1.json",
    "labelme": lambda root: tools.labelme(root, SHOTS[:2]) / "shot_000.json",
    "yolo_yaml": lambda root: tools.yolo(root, {"train": SHOTS[:2], "val": []}) / "data.yaml",
    "yolo_row": lambda root: (
        tools.yolo(root, {"train": SHOTS[:2], "val": []}) / "labels/train/shot_000.txt"
    ),
    "deeplabcut": lambda root: (
        tools.deeplabcut(root, {"v": SHOTS[:2]}) / "labeled-data/v/CollectedData_me.csv"
    ),
    "mpii": lambda root: mpii(root) / "valid.json",
}
STRANGE = [None, True, "", "x", "../../x", -1, 1e300, float("nan"), [], [[]], {}, {"a": 1}, 2**70]
STRANGE += [10**400, float("inf"), "a\nb", "http://[::1/a.jpg", [None], 1.5, 10**9]


def leaves(content, path=()):
    """The paths of all values of a json."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in pairs:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from leaves(value, (*path, key))


@pytest.mark.parametrize("kind", EXPORTS)
def test_damaged_exports_are_read_or_refused_in_one_line(kind, tmp_path):
    """Truncated files, and json with values of other types, give a DataError or a data set."""
    root = tmp_path / "export"
    path = EXPORTS[kind](root)
    data = path.read_bytes()
    rng = np.random.default_rng(5)
    variants = [data[: int(cut * len(data))] for cut in (0, 0.1, 0.5, 0.9, 0.999)]
    places = rng.integers(0, len(data) - 3, 25)
    variants += [data[:k] + rng.bytes(3) + data[k + 3 :] for k in places]
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
