"""Invalid and unusual annotations: each is read, or is an error with file, id and remedy."""

import json
import logging
import pathlib
from collections.abc import Callable
from typing import Any

import config_mutations
import mutations
import numpy as np
import pytest

from mspn_jax.data import check
from mspn_jax.data.validator import read_annotations
from mspn_jax.errors import DataError
from mspn_jax.evaluation import scoring
from mspn_jax.skeletons import COCO

NAN, INF = float("nan"), float("inf")


def first(**changes: Any) -> Callable[[dict], Any]:
    return lambda content: content["annotations"][0].update(changes)


def image(**changes: Any) -> Callable[[dict], Any]:
    return lambda content: content["images"][0].update(changes)


def without(key: str, of: str = "annotations") -> Callable[[dict], Any]:
    return lambda content: content[of][0].pop(key)


def category(**changes: Any) -> Callable[[dict], Any]:
    return lambda content: content["categories"][0].update(changes)


def whole(**changes: Any) -> Callable[[dict], Any]:
    return lambda content: content.update(changes)


def keypoint(index: int, value: Any) -> Callable[[dict], Any]:
    return lambda content: content["annotations"][0]["keypoints"].__setitem__(index, value)


def nested(content: dict) -> None:
    one = content["annotations"][0]
    one["keypoints"] = np.reshape(one["keypoints"], (17, 3)).tolist()


def twice(content: dict) -> None:
    content["annotations"].append(content["annotations"][0])


def second_category(content: dict) -> None:
    content["categories"].append(content["categories"][0] | {"id": 2})
    content["annotations"][0]["category_id"] = 2


REFUSED: dict[str, tuple[Callable[[dict], Any], str]] = {
    "images missing": (lambda c: c.pop("images"), "not COCO's json: it has no list of 'images'"),
    "images null": (whole(images=None), "not COCO's json: it has no list of 'images'"),
    "images empty": (whole(images=[]), "its list of 'images' is empty"),
    "images of strings": (whole(images=["a"]), 'image at index 0: "a" is not a json object'),
    "annotations an object": (whole(annotations={}), "'annotations' is not a list"),
    "categories a string": (whole(categories="person"), "'categories' is not a list"),
    "annotations of numbers": (
        lambda c: c["annotations"].insert(0, 3),
        "annotation at index 0: 3 is not a json object",
    ),
    "image id a string": (image(id="1"), 'image at index 0: id is "1"; expected a whole number'),
    "image id a list": (image(id=[1]), "image at index 0: id is [1]; expected a whole number"),
    "image id 1.5": (image(id=1.5), "image at index 0: id is 1.5; expected a whole number"),
    "image id 10**30": (image(id=10**30), f"image at index 0: id is {10**30}; expected"),
    "image id 10**400": (image(id=10**400), "image at index 0: id is 1000"),
    "image id infinite": (image(id=INF), "image at index 0: id is Infinity; expected"),
    "image id true": (image(id=True), "image at index 0: id is true; expected"),
    "image ids twice": (
        lambda c: c["images"].append(c["images"][0]),
        "image 1: id occurs more than once",
    ),
    "file name missing": (
        without("file_name", "images"),
        "image 1: file_name is missing; expected a path",
    ),
    "file name a list": (image(file_name=["a"]), 'image 1: file_name is ["a"]; expected a path'),
    "file name outside": (image(file_name="../a.jpg"), 'image 1: file_name is "../a.jpg"'),
    "file name absolute": (image(file_name="/a.jpg"), 'image 1: file_name is "/a.jpg"'),
    "file name not unicode": (image(file_name="\ud800"), 'image 1: file_name is "\\ud800"'),
    "height 0": (image(height=0), "image 1: height is 0; expected a whole number of pixels"),
    "height a string": (image(height="9"), 'image 1: height is "9"; expected a whole number'),
    "width infinite": (image(width=INF), "image 1: width is Infinity; expected"),
    "width 100,001": (image(width=100_001), "image 1: width is 100001; expected"),
    "width 10**30": (image(width=10**30), "image 1: width is 1000"),
    "id missing": (without("id"), "annotation at index 0: id is missing; expected a whole number"),
    "id a string": (first(id="11"), 'annotation at index 0: id is "11"; expected a whole'),
    "id infinite": (first(id=INF), "annotation at index 0: id is Infinity; expected"),
    "id twice": (twice, "annotation 11: id occurs more than once"),
    "image_id missing": (without("image_id"), "annotation 11: image_id is missing; expected"),
    "image_id a string": (first(image_id="1"), 'annotation 11: image_id is "1"; expected'),
    "image_id unknown": (first(image_id=9), "annotation 11: image_id is 9, which 'images' does"),
    "category_id a string": (first(category_id="1"), 'annotation 11: category_id is "1"; expected'),
    "category_id a list": (first(category_id=[1]), "annotation 11: category_id is [1]; expected"),
    "category id a string": (category(id="1"), 'category at index 0: id is "1"; expected'),
    "category keypoints a string": (category(keypoints="nose"), "category 1: keypoints is"),
    "category of numbers": (whole(categories=[1]), "category at index 0: 1 is not a json object"),
    "categories of lists": (whole(categories=[[]]), "category at index 0: [] is not a json object"),
    "category id 2**63": (category(id=2**63), "category at index 0: id is 9223372036854775808;"),
    "clip_boxes a string": (
        whole(info={"clip_boxes": "false"}),
        'clip_boxes is "false"; expected',
    ),
    "clip_boxes 2": (whole(info={"clip_boxes": 2}), "clip_boxes is 2; expected true or false"),
    "crowdIndex a string": (image(crowdIndex="0.5"), 'image 1: crowdIndex is "0.5"; expected'),
    "crowdIndex infinite": (image(crowdIndex=INF), "image 1: crowdIndex is Infinity; expected"),
    "crowdIndex 10**400": (image(crowdIndex=10**400), "image 1: crowdIndex is 1000"),
    "crowdIndex negative": (image(crowdIndex=-0.1), "image 1: crowdIndex is -0.1; expected"),
    "head_size negative": (first(head_size=-1), "annotation 11: head_size is -1; expected"),
    "head_size a string": (first(head_size="3"), 'annotation 11: head_size is "3"; expected'),
    "area true": (first(area=True), "annotation 11: area is true; expected square pixels"),
    "iscrowd NaN": (first(iscrowd=NAN), "annotation 11: iscrowd is NaN; expected 0 or 1"),
    "iscrowd an empty string": (first(iscrowd=""), 'annotation 11: iscrowd is ""; expected 0 or'),
    "all crowds": (
        lambda c: [a.update(iscrowd=1) for a in c["annotations"]],
        "no annotation has a labelled keypoint and a box with an area and is of category 1",
    ),
    "bbox missing": (without("bbox"), "annotation 11: bbox is missing; expected x, y, width"),
    "bbox a string": (first(bbox="1234"), 'annotation 11: bbox is "1234"; expected x, y, width'),
    "bbox of strings": (first(bbox=["1", 2, 3, 4]), 'annotation 11: bbox is ["1", 2, 3, 4]'),
    "bbox of 3": (first(bbox=[1, 2, 3]), "annotation 11: bbox is [1, 2, 3]; expected"),
    "bbox nested": (first(bbox=[[1, 2], [3, 4]]), "annotation 11: bbox is a list of 2 lists"),
    "bbox with null": (first(bbox=[1, 2, None, 4]), "annotation 11: bbox is [1, 2, null, 4]"),
    "bbox with NaN": (first(bbox=[NAN, 2, 3, 4]), "annotation 11: bbox is [NaN, 2, 3, 4]"),
    "bbox 10**400": (first(bbox=[10**400, 2, 3, 4]), "annotation 11: bbox is [1000"),
    "bbox 100,001": (first(bbox=[1, 2, 3, 100_001]), "annotation 11: bbox is [1, 2, 3, 100001]"),
    "bbox 1e300": (first(bbox=[1e300, 2, 3, 4]), "annotation 11: bbox is [1e+300, 2, 3, 4]"),
    "area a string": (first(area="4594.0"), 'annotation 11: area is "4594.0"; expected square'),
    "area negative": (first(area=-1), "annotation 11: area is -1; expected square pixels"),
    "area infinite": (first(area=INF), "annotation 11: area is Infinity; expected square"),
    "area NaN": (first(area=NAN), "annotation 11: area is NaN; expected square pixels"),
    "area 10**10 + 1": (first(area=10**10 + 1), "annotation 11: area is 10000000001"),
    "area 10**11": (first(area=10**11), "annotation 11: area is 100000000000; expected square"),
    "area a list": (first(area=[5]), "annotation 11: area is [5]; expected square pixels"),
    "iscrowd a string": (first(iscrowd="0"), 'annotation 11: iscrowd is "0"; expected 0 or 1'),
    "iscrowd 2": (first(iscrowd=2), "annotation 11: iscrowd is 2; expected 0 or 1"),
    "keypoints missing": (without("keypoints"), "annotation 11: keypoints is missing"),
    "keypoints null": (first(keypoints=None), "annotation 11: keypoints is null; expected one"),
    "keypoints of 48": (first(keypoints=[1] * 48), "annotation 11: keypoints is 48 numbers"),
    "keypoints nested": (nested, "annotation 11: keypoints is a list of 17 lists"),
    "keypoints a string": (first(keypoints="1"), 'annotation 11: keypoints is "1"; expected one'),
    "keypoints an object": (first(keypoints={}), "annotation 11: keypoints is {}; expected one"),
    "a keypoint of text": (keypoint(0, "1"), "annotation 11: keypoints is a list of 51 values"),
    "a labelled NaN": (keypoint(0, NAN), "annotation 11: a labelled keypoint is not finite, or"),
    "a labelled null": (keypoint(1, None), "annotation 11: a labelled keypoint is not finite, or"),
    "a labelled 100,001": (keypoint(1, 100_001), "annotation 11: a labelled keypoint is not"),
    "a labelled 1e30": (keypoint(1, 1e30), "annotation 11: a labelled keypoint is not finite, or"),
    "a labelled 10**400": (keypoint(1, 10**400), "annotation 11: a labelled keypoint is not"),
    "visibility 7": (keypoint(2, 7), "annotation 11: a visibility is not 0, 1 or 2"),
    "visibility NaN": (keypoint(2, NAN), "annotation 11: a visibility is not 0, 1 or 2"),
    "visibility true": (keypoint(2, True), "annotation 11: keypoints is a list of 51 values"),
    "nobody labelled": (
        lambda c: [a.update(keypoints=[0] * 51) for a in c["annotations"]],
        "no annotation has a labelled keypoint and a box with an area and is of category 1; there"
        " are annotations of category 1 (4)",
    ),
    "another category": (
        lambda c: [a.update(category_id=3) for a in c["annotations"]],
        "no annotation has a labelled keypoint and a box with an area and is of category 1; there"
        " are annotations of category 3 (4)",
    ),
}

# What is read, with a part of the warning, and the people that count.
READ: dict[str, tuple[Callable[[dict], Any], str, list[int]]] = {
    "nothing odd": (lambda c: None, "", [11, 12, 13, 14]),
    "info a list": (whole(info=[1]), "", [11, 12, 13, 14]),
    "clip_boxes null": (whole(info={"clip_boxes": None}), "", [11, 12, 13, 14]),
    "crowdIndex null": (image(crowdIndex=None), "", [11, 12, 13, 14]),
    "categories empty": (whole(categories=[]), "", [11, 12, 13, 14]),
    "category 0": (
        lambda c: (
            [row.update(category_id=0) for row in c["annotations"]]
            + [c["categories"][0].update(id=0)]
        ),
        "",
        [11, 12, 13, 14],
    ),
    "a box of 1e-300": (
        first(bbox=[5, 5, 1e-300, 1e-300]),
        "annotation 11: the box has no area inside",
        [12, 13, 14],
    ),
    "area 1e-300": (first(area=1e-300), "", [11, 12, 13, 14]),
    "num_keypoints a list": (first(num_keypoints=[1, 2]), "", [11, 12, 13, 14]),
    "num_keypoints 10**400": (first(num_keypoints=10**400), "", [11, 12, 13, 14]),
    "one file of two images": (
        lambda c: c["images"].append(c["images"][0] | {"id": 99}),
        "",
        [11, 12, 13, 14],
    ),
    "ids as floats": (first(id=11.0, image_id=1.0, category_id=1.0), "", [11, 12, 13, 14]),
    "id 0": (first(id=0), "", [0, 12, 13, 14]),
    "id negative": (first(id=-1), "", [-1, 12, 13, 14]),
    "area 10**10": (first(area=10**10), "", [11, 12, 13, 14]),
    "width 100,000": (image(width=100_000), "", [11, 12, 13, 14]),
    "id 2**62": (first(id=2**62), "", [2**62, 12, 13, 14]),
    "categories null": (whole(categories=None), "", [11, 12, 13, 14]),
    "categories missing": (lambda c: c.pop("categories"), "", [11, 12, 13, 14]),
    "category keypoints null": (category(keypoints=None), "", [11, 12, 13, 14]),
    "iscrowd null": (first(iscrowd=None), "", [11, 12, 13, 14]),
    "iscrowd false": (first(iscrowd=False), "", [11, 12, 13, 14]),
    "a crowd without keypoints": (first(iscrowd=1, keypoints=None), "", [12, 13, 14]),
    "num_keypoints a string": (first(num_keypoints="many"), "", [11, 12, 13, 14]),
    "NaN that is not labelled": (
        lambda c: c["annotations"][0].update(
            keypoints=[NAN, None, 0, INF, 1, 0, *c["annotations"][0]["keypoints"][6:]]
        ),
        "",
        [11, 12, 13, 14],
    ),
    "area missing": (without("area"), "annotation 11: the area is missing or 0", [11, 12, 13, 14]),
    "area null": (first(area=None), "annotation 11: the area is missing or 0", [11, 12, 13, 14]),
    "area 0": (first(area=0), "annotation 11: the area is missing or 0", [11, 12, 13, 14]),
    "a box outside": (
        first(bbox=[500, 5, 20, 20]),
        "annotation 11: the box has no area inside",
        [12, 13, 14],
    ),
    "a box of no width": (
        first(bbox=[5, 5, -3, 20]),
        "annotation 11: the box has no area inside",
        [12, 13, 14],
    ),
    "a category without keypoints": (first(category_id=5), "", [12, 13, 14]),
    "a second category": (
        second_category,
        "annotation 11: of category 2, which has keypoints too",
        [12, 13, 14],
    ),
}


@pytest.fixture
def written(tmp_path) -> Callable[[dict], pathlib.Path]:
    def write(content: Any) -> pathlib.Path:
        root = tmp_path / "data"
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        (root / "val").mkdir(exist_ok=True)
        for name in ("1.jpg", "2.jpg"):
            (root / "val" / name).touch()
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        (root / "annotations" / "person_keypoints_val.json").write_bytes(text)
        return root

    return write


def inspected(root: pathlib.Path) -> check.Inspection:
    return check.inspect(root=root, split="val", skeleton=COCO, padding=1.25, crop_hw=(256, 192))


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_in_one_line_and_the_check_lists_it(case, written):
    change, message = REFUSED[case]
    content = mutations.sound_content()
    change(content)
    root = written(content)
    with pytest.raises(DataError) as error:
        read_annotations(root=root, split="val", skeleton=COCO)
    file = root / "annotations" / "person_keypoints_val.json"
    assert str(error.value).startswith(f"{file}: {message}")
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    try:
        inspection = inspected(root)
    except DataError as same:
        assert str(same) == str(error.value)
    else:
        errors = [finding for finding in inspection.findings if finding.level == "error"]
        assert str(error.value) == f"{file}: {errors[0]}"


@pytest.mark.parametrize("case", READ)
def test_it_is_read_and_scored_as_if_what_is_left_out_were_not_there(case, written, caplog):
    change, warning, ids = READ[case]
    content = mutations.sound_content()
    change(content)
    root = written(content)
    with caplog.at_level(logging.WARNING, "mspn_jax"):
        annotations = read_annotations(root=root, split="val", skeleton=COCO)
    assert annotations.ids[annotations.is_person].tolist() == ids
    assert warning in caplog.text and bool(warning) == bool(caplog.text)
    assert inspected(root).num_errors == 0
    metrics, _ = scoring.coco_metrics(annotations, mutations.perfect_results(annotations), COCO)
    assert metrics["AP"] == metrics["AR"] == pytest.approx(1)


BYTES = {
    "not json": (b'{"images": [', "not json ("),
    "not UTF-8": (b'{"images": "\xff"}', "not json ("),
    "empty": (b"", "not json ("),
    "nested too deeply": (b"[" * 100_000, "lists or objects are nested too deeply"),
    "a number of 5,000 digits": (b'{"images": ' + b"1" * 5000 + b"}", "not json ("),
    "a list": (b"[]", "not COCO's json"),
    "null": (b"null", "not COCO's json"),
}


@pytest.mark.parametrize("case", BYTES)
def test_what_is_no_such_json_is_one_line(case, written):
    data, message = BYTES[case]
    root = written(data)
    for reading in (
        lambda: read_annotations(root=root, split="val", skeleton=COCO),
        lambda: inspected(root),
    ):
        with pytest.raises(DataError) as error:
            reading()
        assert message in str(error.value) and "\n" not in str(error.value)


def test_a_byte_order_mark_is_no_fault(written):
    root = written(b"\xef\xbb\xbf" + json.dumps(mutations.sound_content()).encode())
    annotations = read_annotations(root=root, split="val", skeleton=COCO)
    assert annotations.is_person.sum() == 4


# ---------------------------------------------------------------------------------------- fuzz


@pytest.mark.parametrize("seed", range(4))
def test_mutated_annotations_are_read_or_refused(seed, written):
    counts = {"read": 0, "refused": 0}
    for number in range(100):
        content = mutations.mutated(mutations.sound_content(), [seed, number])
        counts[mutations.outcome(content, written(content))] += 1
    assert min(counts.values()) > 5


@pytest.mark.parametrize("seed", range(3))
def test_changed_configs_are_used_or_refused(seed):
    counts = {"used": 0, "refused": 0}
    for number in range(100):
        counts[config_mutations.outcome([seed, number])] += 1
    assert min(counts.values()) > 0
