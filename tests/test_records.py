"""Records of COCO's json and pictures: when they are built, and from which inputs."""

import logging
import multiprocessing
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from coco_files import SPLIT, edit, first_person, read

from mspn_jax import geometry
from mspn_jax.crops import decode_picture
from mspn_jax.data import coco, evaluation_set, records
from mspn_jax.errors import DataError
from mspn_jax.skeletons import COCO


def test_records_hold_the_pictures_and_people_and_are_made_once(drawn_copy, monkeypatch):
    opened = records.open_records(root=drawn_copy, split=SPLIT, skeleton=COCO)
    pictures = read(drawn_copy)
    assert opened.image_ids.tolist() == [p.image_id for p in pictures]
    for i, picture in enumerate(pictures):
        record = opened.source[i]
        assert record["image"] == (drawn_copy / SPLIT / picture.file_name).read_bytes()
        assert record["image_id"] == picture.image_id
        assert tuple(opened.image_hw[i]) == picture.image_hw
        assert opened.num_people[i] == len(picture.annotation_ids)
    people = opened.people
    for ours, of_picture in (
        (people.boxes_xyxy, lambda p: geometry.clip_boxes(p.boxes_xywh, p.image_hw)),
        (people.keypoints_image_xy, lambda p: p.keypoints_image_xy),
        (people.visibility, lambda p: p.visibility),
    ):
        np.testing.assert_array_equal(ours, np.concatenate([of_picture(p) for p in pictures]))
    monkeypatch.setattr(records, "read_annotations", lambda **a: pytest.fail("made again"))
    records.open_records(root=drawn_copy, split=SPLIT, skeleton=COCO)


def test_another_json_makes_other_records(drawn_copy):
    before = records.open_records(root=drawn_copy, split=SPLIT, skeleton=COCO)
    edit(drawn_copy, lambda content: content["annotations"].remove(first_person(content)))
    after = records.open_records(root=drawn_copy, split=SPLIT, skeleton=COCO)
    assert after.num_people.sum() == before.num_people.sum() - 1


def test_pictures_without_people_are_left_out_of_training_alone(drawn_copy):
    edit(drawn_copy, lambda c: c["images"].append(c["images"][0] | {"id": 77}))
    everything = records.open_records(root=drawn_copy, split=SPLIT, skeleton=COCO)
    training = records.open_records(
        root=drawn_copy, split=SPLIT, skeleton=COCO, only_with_people=True
    )
    assert 77 in everything.image_ids and 77 not in training.image_ids


@pytest.mark.parametrize("folder", [f"images/{SPLIT}", "images"])
def test_pictures_may_lie_below_images(drawn_copy, folder):
    expected = records.open_records(root=drawn_copy, split=SPLIT, skeleton=COCO)
    shutil.rmtree(drawn_copy / "records")
    place = drawn_copy / folder
    place.parent.mkdir(exist_ok=True)
    (drawn_copy / SPLIT).rename(place)
    assert coco.picture_folder(drawn_copy, SPLIT) == place
    made = records.open_records(root=drawn_copy, split=SPLIT, skeleton=COCO)
    assert made.source[0]["image"] == expected.source[0]["image"]
    assert (drawn_copy / "records").is_dir() and not (drawn_copy / "images" / "records").exists()


def test_missing_pictures_are_named_before_anything_is_written(drawn_copy):
    gone = sorted((drawn_copy / SPLIT).iterdir())[3]
    gone.unlink()
    with pytest.raises(DataError, match=rf"1 of 12 pictures are missing \({gone.name}\)"):
        records.open_records(root=drawn_copy, split=SPLIT, skeleton=COCO)
    assert not list((drawn_copy / "records").glob("coco_person_keypoints/*/*"))
    shutil.rmtree(drawn_copy / SPLIT)
    with pytest.raises(DataError, match="no such folder of pictures"):
        records.open_records(root=drawn_copy, split=SPLIT, skeleton=COCO)


def test_pictures_may_lie_in_folders_and_links_may_dangle(drawn_copy):
    names = []

    def change(content):
        names.append(content["images"][0]["file_name"])
        content["images"][0]["file_name"] = f"sub/{names[0]}"

    edit(drawn_copy, change)
    folder = drawn_copy / SPLIT
    (folder / "sub").mkdir()
    (folder / names[0]).rename(folder / "sub" / names[0])
    (folder / "unlisted.jpg").symlink_to(folder / "nowhere.jpg")
    opened = records.open_records(root=drawn_copy, split=SPLIT, skeleton=COCO)
    assert opened.source[0]["image"] == (folder / "sub" / names[0]).read_bytes()

    listed = sorted(folder.glob("*[0-9].jpg"))[0]
    listed.unlink()
    listed.symlink_to(folder / "nowhere.jpg")
    shutil.rmtree(drawn_copy / "records")
    with pytest.raises(DataError, match=rf"1 of 12 pictures are missing \({listed.name}\)"):
        records.open_records(root=drawn_copy, split=SPLIT, skeleton=COCO)


def test_records_are_kept_in_the_root(drawn_copy, tmp_path, monkeypatch):
    (tmp_path / "home").write_text("in the way")
    monkeypatch.setenv("MSPN_HOME", str(tmp_path / "home"))
    assert len(records.open_records(root=drawn_copy, split=SPLIT, skeleton=COCO).image_ids) == 12
    shutil.rmtree(drawn_copy / "records")
    (drawn_copy / "records").write_text("in the way")
    with pytest.raises(DataError, match="no place to write records: tried"):
        records.open_records(root=drawn_copy, split=SPLIT, skeleton=COCO)


@pytest.mark.parametrize(
    "harm, reason",
    [
        (lambda data: data[: len(data) // 2], "truncated or damaged JPEG"),
        (lambda data: b"", "empty file"),
        (lambda data: b"<html>not found</html>", "not a picture"),
    ],
)
def test_unreadable_pictures_are_skipped_in_training_and_refused_in_evaluation(
    drawn_copy, caplog, harm, reason
):
    victim = next(p for p in read(drawn_copy) if len(p.annotation_ids))
    path = drawn_copy / SPLIT / victim.file_name
    path.write_bytes(harm(path.read_bytes()))
    with caplog.at_level(logging.WARNING, "mspn_jax"):
        training = records.open_records(
            root=drawn_copy, split=SPLIT, skeleton=COCO, only_with_people=True
        )
    assert victim.image_id not in training.image_ids
    assert f"1 pictures cannot be read: {path}: {reason}" in caplog.text
    with pytest.raises(DataError, match=rf"1 pictures cannot be read.*{victim.file_name}"):
        evaluation_set.open_split(root=drawn_copy, split=SPLIT, skeleton=COCO)


def test_a_picture_of_another_size_than_the_json_says_is_named(drawn_copy, caplog):
    edit(drawn_copy, lambda content: content["images"][0].update(width=321))
    with caplog.at_level(logging.WARNING, "mspn_jax"):
        records.open_records(root=drawn_copy, split=SPLIT, skeleton=COCO)
    assert "1 pictures have another size than the json says" in caplog.text


def test_a_png_named_jpg_is_read(drawn_copy):
    import cv2

    path = sorted((drawn_copy / SPLIT).iterdir())[0]
    image = decode_picture(path.read_bytes())
    path.write_bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())
    opened = records.open_records(root=drawn_copy, split=SPLIT, skeleton=COCO)
    np.testing.assert_array_equal(decode_picture(opened.source[0]["image"]), image)


def test_a_root_that_cannot_be_written_keeps_its_records_in_the_users_cache(
    drawn_copy, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (drawn_copy / "records").write_text("in the way")  # that keeps out the superuser, too
    opened = records.open_records(root=drawn_copy, split=SPLIT, skeleton=COCO)
    assert len(opened.image_ids) == 12
    assert (tmp_path / "cache" / "mspn_jax" / "records").is_dir()


def test_no_place_for_records_is_one_clear_line(drawn_copy, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(DataError, match="no place to write records"):
        records.open_records(
            root=drawn_copy, split=SPLIT, skeleton=COCO, records_dir=blocked / "here"
        )


def test_no_room_for_records_is_said_before(drawn_copy, monkeypatch):
    usage = shutil.disk_usage(drawn_copy)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DataError, match="GB free but records take"):
        records.open_records(root=drawn_copy, split=SPLIT, skeleton=COCO)


def _open(root: str) -> int:
    return int(records.open_records(root=root, split=SPLIT, skeleton=COCO).num_people.sum())


def test_two_processes_at_once_make_one_set_of_records(drawn_copy):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        counts = pool.map(_open, [str(drawn_copy)] * 2)
    assert counts[0] == counts[1] > 0
    assert len(list((drawn_copy / "records").glob("coco_person_keypoints/*/*"))) == 1


def test_records_that_were_interrupted_are_made_again(drawn_copy):
    program = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from mspn_jax.data import builder, records\n"
        "from mspn_jax.skeletons import COCO\n"
        "make = builder.CocoPersonKeypoints._generate_examples\n"
        "def stop(self):\n"
        "    for i, example in enumerate(make(self)):\n"
        "        if i == 5: os._exit(9)\n"
        "        yield example\n"
        "builder.CocoPersonKeypoints._generate_examples = stop\n"
        "records.open_records(root=sys.argv[2], split='train2017', skeleton=COCO)\n"
    )
    here = str(pathlib.Path(__file__).parents[1])
    killed = subprocess.run(
        [sys.executable, "-c", program, here, str(drawn_copy)], capture_output=True, env=os.environ
    )
    assert killed.returncode == 9
    assert len(records.open_records(root=drawn_copy, split=SPLIT, skeleton=COCO).image_ids) == 12
    assert len(list((drawn_copy / "records").glob("coco_person_keypoints/*/*"))) == 1


@pytest.mark.parametrize(
    "harm",
    [
        lambda path, data: path.write_bytes(data.replace(middle(data), bytes(8), 1)),
        lambda path, data: path.write_bytes(data[: len(data) // 2]),
        lambda path, data: path.unlink(),
    ],
)
def test_damaged_columns_are_named(drawn_copy, harm):
    records.open_records(root=drawn_copy, split=SPLIT, skeleton=COCO)
    (path,) = drawn_copy.glob(f"records/*/*/*/{records.CocoPersonKeypoints.COLUMNS}")
    harm(path, path.read_bytes())
    with pytest.raises(DataError, match=rf"{path.parent}: its records are damaged .* delete that"):
        records.open_records(root=drawn_copy, split=SPLIT, skeleton=COCO)


def middle(data: bytes) -> bytes:
    return data[len(data) // 2 :][:8]
