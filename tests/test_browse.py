"""The page of training crops shows the training batches; the command's errors."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from browser import opened

from commands import error_of
from mspn_jax.data import pipeline
from mspn_jax.data.pipeline import TrainingBatch
from mspn_jax.data.records import open_records
from mspn_jax.reports import crops
from mspn_jax.skeletons import COCO
from mspn_jax.synthetic import people

HERE = pathlib.Path(__file__).parents[1]
CONFIG = str(HERE / "configs" / "mspn50_coco_256x192.py")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("drawn")
    people.write_dataset(root, {"train2017": 6})
    return root


def batch_of(keypoints_crop_xy, visibility) -> TrainingBatch:
    """One grey crop of 128 x 96."""
    crops = np.full((1, 128, 96, 3), 100, np.uint8)
    return TrainingBatch(
        crops, np.array(keypoints_crop_xy, np.float32)[None], np.array(visibility, np.float32)[None]
    )


def test_a_row_has_the_crop_and_a_target_for_every_level():
    keypoints_crop_xy, visibility = np.full((17, 2), 500.0), np.zeros(17)
    keypoints_crop_xy[0], visibility[0] = (30, 70), 2
    visibility[1] = 1  # labelled, but outside the crop
    ((strip, counts),) = crops.rows([batch_of(keypoints_crop_xy, visibility)], COCO)
    assert counts == {"visible": 1, "hidden": 1, "not labelled": 15, "without target": 1}
    assert strip.shape == (128, 6 * 96, 3)
    pictures = np.split(strip.astype(int), 6, axis=1)
    assert tuple(pictures[0][70, 30]) == (60, 220, 90)  # the nose, on neither side
    assert tuple(pictures[0][20, 80]) == (100, 100, 100)
    lit = []
    for picture in pictures[1:]:
        brightness = picture.sum(-1)
        y, x = np.unravel_index(brightness.argmax(), brightness.shape)
        assert x // 4 == 30 // 4 and y // 4 == 70 // 4
        assert picture[20, 80].max() < 50  # the crop, darkened
        lit.append(int(brightness.sum()))
    assert lit == sorted(lit, reverse=True) and len(set(lit)) == 5  # finer and finer


def test_each_row_has_the_targets_of_its_own_person():
    two = [batch_of(np.tile(xy, (17, 1)), np.eye(17)[0] * 2) for xy in ((30.0, 70.0), (60.0, 20.0))]
    both = TrainingBatch(*(np.concatenate(pair) for pair in zip(*(vars(b).values() for b in two))))
    together = [strip for strip, _ in crops.rows([both], COCO)]
    alone = [strip for strip, _ in crops.rows(two, COCO)]
    np.testing.assert_array_equal(together, alone)
    assert (alone[0] != alone[1]).any()


def test_left_is_orange_and_hidden_is_fainter():
    names = COCO.keypoint_names
    keypoints_crop_xy, visibility = np.full((17, 2), 500.0), np.zeros(17)
    for name, xy, seen in (
        ("left_wrist", (20, 20), 2),
        ("right_wrist", (70, 20), 2),
        ("left_knee", (20, 100), 1),
    ):
        keypoints_crop_xy[names.index(name)] = xy
        visibility[names.index(name)] = seen
    ((strip, _),) = crops.rows([batch_of(keypoints_crop_xy, visibility)], COCO)
    assert tuple(strip[20, 20]) == (255, 140, 0) and tuple(strip[20, 70]) == (30, 144, 255)
    red, _, blue = strip[100, 20].astype(int)
    assert 140 < red < 200 and blue < 80


@pytest.fixture(scope="module")
def folder(root, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("look")
    records = open_records(root=root, split="train2017", skeleton=COCO, only_with_people=True)
    batches = pipeline.training_batches(records, COCO, crop_hw=(128, 96), batch_size=4)
    crops.write(folder, batches, 6, COCO, {"split": "train2017"})
    batches.close()
    return folder


def test_the_page_shows_the_training_batches(folder, root):
    shown = json.loads((folder / "browse.json").read_text())["people"]
    records = open_records(root=root, split="train2017", skeleton=COCO, only_with_people=True)
    batches = pipeline.training_batches(records, COCO, crop_hw=(128, 96), batch_size=4)
    first, second = next(batches), next(batches)
    batches.close()
    visibility = np.concatenate([first.visibility, second.visibility])[:6]
    for person, of_person in zip(shown, visibility, strict=True):
        assert person["visible"] == (of_person == 2).sum()
        assert person["hidden"] == (of_person == 1).sum()
    assert len({tuple(person.items()) for person in shown}) > 1
    text = (folder / "browse.html").read_text("utf-8")
    assert text.count('<img src="data:image/jpeg;base64,') == 6 and "http" not in text


def test_the_page_in_a_browser(folder, tmp_path):
    seen = opened(folder / "browse.html", tmp_path, 700)
    assert seen["console"] == [] and seen["broken"] == 0 and seen["overflow"] <= 0
    assert seen["height"] > 600


@pytest.mark.slow
def test_the_command(root, tmp_path):
    def run(*arguments):
        return subprocess.run(
            [
                sys.executable,
                HERE / "browse.py",
                "--config",
                CONFIG,
                f"--config.data.root={root}",
                *arguments,
            ],
            capture_output=True,
            text=True,
            cwd=HERE,
            env=os.environ | {"PYTHONPATH": str(HERE)},
        )

    done = run("--output", tmp_path / "out", "--people=3", "--config.batch_size=4", "--step=2")
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "out" / "browse.json").read_text())["people"]) == 3

    done = run("--check", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "6 pictures" in done.stdout and "left_knee" in done.stdout
    written = json.loads((tmp_path / "out" / "check_train2017.json").read_text())
    assert written["counts"]["pictures"] == 6

    content = json.loads((root / "annotations/person_keypoints_train2017.json").read_text())
    next(a for a in content["annotations"] if a["num_keypoints"])["area"] = -1
    (root / "annotations/person_keypoints_bad.json").write_text(json.dumps(content))
    (root / "bad").symlink_to(root / "train2017")
    for arguments, message in (
        (["--check", "--split=bad"], "person_keypoints_bad.json: 1 errors, listed above"),
        ([], "--output: name a folder"),
        (["--output", tmp_path / "new", "--split=nowhere"], "keypoints_nowhere.json: no such file"),
    ):
        done = run(*arguments)
        assert message in error_of(done)
    assert not (tmp_path / "new").exists()
