"""model.json: its content, and which contents are refused."""

import dataclasses
import json

import pytest
from test_checkpoints import DESCRIPTION, TINY

from mspn_jax.errors import CheckpointError
from mspn_jax.model import MEAN_RGB, STD_RGB
from mspn_jax.skeletons import COCO, Skeleton
from mspn_jax.weights.description import Description


def test_a_description_carries_its_skeleton(tmp_path):
    cat = Skeleton("cat", ("nose", "paw_l", "paw_r"), ((0, 1), (0, 2)), (0.03, 0.05, 0.06))
    described = dataclasses.replace(DESCRIPTION, skeleton=cat)
    described.write(tmp_path)
    assert Description.read(tmp_path) == described
    assert Description.read(tmp_path).new_skeleton() == cat
    dataclasses.replace(DESCRIPTION, skeleton=None).write(tmp_path)
    with pytest.raises(CheckpointError, match="does not name its keypoints"):
        Description.read(tmp_path).new_skeleton()


@pytest.mark.parametrize("name, expected", [("coco", COCO), ("unknown", None)])
def test_a_description_of_old_names_its_skeleton(tmp_path, name, expected):
    DESCRIPTION.write(tmp_path)
    path = tmp_path / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"skeleton": name}))
    assert Description.read(tmp_path) == dataclasses.replace(DESCRIPTION, skeleton=expected)


def test_a_description_with_the_constants_of_normalisation_still_loads(tmp_path):
    DESCRIPTION.write(tmp_path)
    path = tmp_path / "model.json"
    fields = json.loads(path.read_text())
    assert "mean_rgb" not in fields
    path.write_text(json.dumps(fields | {"mean_rgb": MEAN_RGB, "std_rgb": STD_RGB}))
    assert Description.read(tmp_path) == DESCRIPTION
    for key in ("mean_rgb", "std_rgb"):
        path.write_text(json.dumps(fields | {key: [1.0, 2.0, 3.0]}))
        with pytest.raises(CheckpointError, match=rf"model.json: .*{key} \[1.0, 2.0, 3.0\]"):
            Description.read(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"colour": 1}, "unknown key colour"),
        ({"model": TINY | {"depth": 3}}, "unknown key model.depth"),
        ({"model": TINY | {"num_stages": "1"}}, "model.num_stages is '1', must be an integer"),
        ({"model": TINY | {"num_stages": True}}, "model.num_stages is True, must be an integer"),
        ({"model": TINY | {"unit_channels": 0}}, "model.unit_channels is 0, must be an integer"),
        ({"model": TINY | {"blocks_per_unit": [1, 1]}}, "must be four integers from 1 to 64"),
        ({"model": {}}, "model.num_stages is None"),
        ({"model": 5}, "not an object with the key model"),
        ({"variant": None}, "variant is None, must be a string"),
        ({"crop_hw": [64, 65]}, "crop_hw is [64, 65], must be two multiples of 32"),
        ({"crop_hw": 64}, "crop_hw is 64, must be two multiples of 32"),
        ({"padding": "1.25"}, "padding is '1.25', must be a number from 0.1 to 10"),
        ({"padding": 1e-300}, "padding is 1e-300, must be a number from 0.1 to 10"),
        ({"padding": float("nan")}, "padding is nan, must be a number from 0.1 to 10"),
        ({"crop_hw": [32 * 10**8, 32]}, "must be two multiples of 32, at most 4,096"),
        ({"model": TINY | {"num_stages": 10**9}}, "must be an integer from 1 to 16"),
        ({"model": TINY | {"unit_channels": 10**9}}, "must be an integer from 1 to 4,096"),
        ({"model": TINY | {"blocks_per_unit": [1, 1, 1, 10**9]}}, "four integers from 1 to 64"),
        ({"skeleton": 5}, "not a skeleton"),
        ({"mean_rgb": [0, 0, 0]}, "mean_rgb [0, 0, 0], where the network takes"),
    ],
)
def test_a_description_that_was_edited_is_one_clear_line(tmp_path, change, message):
    path = tmp_path / "model.json"
    path.write_text(json.dumps(DESCRIPTION.to_json() | change))
    with pytest.raises(CheckpointError) as told:
        Description.read(tmp_path)
    line = str(told.value)
    assert line.startswith(f"{path}: cannot be read (") and message in line and "\n" not in line
    assert "copy it from another checkpoint of the same network" in line


@pytest.mark.parametrize("content", ["", "[]", "5", "{", "[" * 99999])
def test_a_description_that_is_no_description_is_one_clear_line(tmp_path, content):
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"model\.json: cannot be read \(.*\): copy it from"):
        Description.read(tmp_path)
