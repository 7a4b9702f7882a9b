"""mspn split: by picture, by group, as the export has it."""

import json
import pathlib

import pytest
import tool_exports as tools
from imported import imported

from mspn_jax.annotation_tools import splitting
from mspn_jax.errors import DataError


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
        ({"by": "group", "group": "(["}, "not a regular expression"),
        ({"by": "group", "group": "cow_(.)"}, "does not match picture 'a/shot_000.jpg'"),
        ({"by": "group", "group": "shot()"}, "one group in it, which cannot be split"),
        ({"by": "subset"}, "expected one for training and val"),
        ({"source": "train"}, "train.json: No such file"),
        ({"names": ("all", "val")}, "is the split's source"),
    ],
)
def test_what_cannot_be_split(farm, given, message):
    with pytest.raises(DataError, match=message):
        split(farm, **given)
    assert not splitting.annotation_path(farm, "val").exists()


@pytest.mark.parametrize(
    "content, message",
    [
        ([], "a list where a json object is needed"),
        ({"images": 3}, "images: 3 where a list is needed"),
        ({"images": [None]}, "image at index 0: null is not a json object"),
        ({"images": [{"id": 1}]}, "image 1: file_name is missing; expected a path"),
        (
            {"images": [{"id": [1], "file_name": "a"}]},
            r"image at index 0: id is \[1\]; expected",
        ),
        (
            {"images": [{"id": "1", "file_name": "a"}]},
            'image at index 0: id is "1"; expected',
        ),
        (
            {"images": [{"id": 1, "file_name": "../a"}]},
            "image 1: file_name is .*; expected",
        ),
        ({"annotations": [{"image_id": "1"}]}, 'annotation at index 0: image_id is "1"; expected'),
    ],
)
def test_what_is_no_data_set_is_not_split(content, message, tmp_path):
    (tmp_path / "annotations").mkdir()
    splitting.annotation_path(tmp_path, "all").write_text(json.dumps(content))
    with pytest.raises(DataError, match=f"person_keypoints_all.json: {message}") as error:
        split(tmp_path)
    assert "\n" not in str(error.value)
