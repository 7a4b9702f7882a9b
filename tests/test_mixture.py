"""Several data sets in one training: keypoints by their names, batches, refusals, skeletons."""

import dataclasses
import itertools
import json
import logging
import pathlib
import shutil

import numpy as np
import pytest
from mixture_files import OTHER_NAMES, OTHERS, SPLIT

from mspn_jax.commands import training_data
from mspn_jax.data import coco, mixture, pipeline
from mspn_jax.data.coco import DataSet
from mspn_jax.data.records import Records, open_records
from mspn_jax.errors import DataError
from mspn_jax.skeletons import COCO, Skeleton
from mspn_jax.synthetic import coco_files
from mspn_jax.synthetic.animals import ANIMALS, QUADRUPED


def opened(two_roots, weight: float = 0.5, **arguments) -> mixture.Mixture:
    root, other = two_roots
    sets = [(DataSet(str(root), SPLIT), COCO), (DataSet(str(other), SPLIT, weight), OTHERS)]
    return mixture.open_mixture(sets, COCO, **arguments)


# -------------------------------------------------------------------------------------- names


def test_keypoints_are_matched_by_their_names(two_roots, caplog):
    """Against a loop over the json of the second data set."""
    with caplog.at_level(logging.INFO, "mspn_jax"):
        records = opened(two_roots).records
    alone = open_records(root=two_roots[0], split=SPLIT, skeleton=COCO, only_with_people=True)
    content = json.loads(coco.annotation_file(two_roots[1], SPLIT).read_text())
    expected = []
    for image in content["images"]:
        for annotation in content["annotations"]:
            if annotation["image_id"] == image["id"] and not annotation["iscrowd"]:
                triples = dict(zip(OTHER_NAMES, np.reshape(annotation["keypoints"], (-1, 3))))
                person = [triples.get(name, (0, 0, 0)) for name in COCO.keypoint_names]
                if any(v > 0 for _, _, v in person):
                    expected.append(person)
    first = int(alone.num_people.sum())
    np.testing.assert_array_equal(records.people.visibility[:first], alone.people.visibility)
    np.testing.assert_array_equal(
        records.people.keypoints_image_xy[:first], alone.people.keypoints_image_xy
    )
    xy, visibility = np.split(np.float32(expected), [2], axis=2)
    assert len(expected) == len(records.people.visibility) - first > 20
    np.testing.assert_array_equal(records.people.visibility[first:], visibility[..., 0])
    is_labelled = visibility[..., 0] > 0
    np.testing.assert_array_equal(
        records.people.keypoints_image_xy[first:][is_labelled], xy[is_labelled]
    )
    _, line = [each.getMessage() for each in caplog.records if "weight" in each.getMessage()]
    assert line == (
        f"{two_roots[1]}:{SPLIT}: {len(expected)} people in {len(content['images'])} pictures,"
        f" weight 0.5: {round(len(expected) / 2)} an epoch; 7 of the 17 keypoints of skeleton"
        " 'coco'; not labelled: left_eye, right_eye, left_ear, right_ear, left_shoulder,"
        " right_shoulder, left_elbow, right_elbow, left_knee, right_knee; left out, since the"
        " skeleton lacks them:"
        " head_top, neck"
    )


def test_whoever_keeps_no_keypoint_is_left_out(two_roots, tmp_path):
    shutil.copytree(two_roots[1], tmp_path / "data", ignore=shutil.ignore_patterns("records"))
    path = coco.annotation_file(tmp_path / "data", SPLIT)
    content = json.loads(path.read_text())
    for annotation in content["annotations"][::2]:
        for k, name in enumerate(OTHER_NAMES):
            if name in COCO.keypoint_names:
                annotation["keypoints"][3 * k + 2] = 0
    path.write_text(json.dumps(content))
    records = opened((two_roots[0], tmp_path / "data")).records
    assert (records.people.visibility > 0).any(1).all()
    assert records.num_people.sum() == len(records.people.boxes_xyxy)
    whole = opened(two_roots).records
    first = opened(two_roots).shares[0].num_pictures
    left = sum(not a["iscrowd"] for a in content["annotations"][1::2])
    assert records.num_people[first:].sum() <= left < whole.num_people[first:].sum()
    # Boxes, keypoints and pictures still belong to each other.
    assert set(_described(records)) < set(_described(whole))


def _described(records: Records) -> list[bytes]:
    """Everyone with their picture, box and keypoints."""
    image_ids = np.repeat(records.image_ids, records.num_people)
    columns = (image_ids, *vars(records.people).values())
    return [b"".join(np.ascontiguousarray(each).tobytes() for each in row) for row in zip(*columns)]


def test_records_give_the_pictures_of_their_own_data_set(two_roots):
    records = opened(two_roots).records
    assert len(records.source) == len(records.image_ids) == len(records.num_people)
    for index, image_id in enumerate(records.image_ids):
        assert records.source[index]["image_id"] == image_id
    other = two_roots[1]
    last = json.loads(coco.annotation_file(other, SPLIT).read_text())["images"][-1]
    path = coco.picture_folder(other, SPLIT) / last["file_name"]
    assert records.source[len(records.source) - 1]["image"] == path.read_bytes()


# ------------------------------------------------------------------------------------ batches


def take(data: mixture.Mixture, count: int, **arguments) -> list[pipeline.TrainingBatch]:
    arguments = dict(crop_hw=(64, 48), batch_size=8, seed=5, shares=data.shares) | arguments
    batches = pipeline.training_batches(data.records, COCO, **arguments)
    return list(itertools.islice(batches, count))


def assert_same(batches, others) -> None:
    for batch, other in zip(batches, others, strict=True):
        for a, b in zip(dataclasses.astuple(batch), dataclasses.astuple(other)):
            np.testing.assert_array_equal(a, b)


def test_batches_depend_on_seed_and_step_alone(two_roots):
    data = opened(two_roots)
    batches = take(data, 140)
    assert_same(batches[131:], take(data, 9, first_step=131, num_threads=3))
    shares = [take(data, 9, first_step=131, process=p, num_processes=2) for p in range(2)]
    for whole, *parts in zip(batches[131:], *shares, strict=True):
        for name in ("crops", "keypoints_crop_xy", "visibility"):
            together = np.concatenate([getattr(part, name) for part in parts])
            np.testing.assert_array_equal(getattr(whole, name), together)
    assert (take(data, 1, seed=6)[0].crops != batches[0].crops).any()
    # People of both are in the batches: only those of the second have no left eye, nor ever will.
    has_eye = np.concatenate([batch.visibility[:, 1:5].any(1) for batch in batches])
    assert 0.3 < has_eye.mean() < 1


def test_one_data_set_has_the_batches_that_it_has_without_shares(two_roots):
    sets = [(DataSet(str(two_roots[0]), SPLIT), COCO)]
    data = mixture.open_mixture(sets, COCO)
    records = open_records(root=two_roots[0], split=SPLIT, skeleton=COCO, only_with_people=True)
    alone = pipeline.training_batches(records, COCO, crop_hw=(64, 48), batch_size=8, seed=5)
    assert_same(take(data, 20), list(itertools.islice(alone, 20)))
    assert data.people_per_epoch == records.num_people.sum()


def test_another_json_makes_other_records_of_each(two_roots, tmp_path):
    for which in (0, 1):
        copies = [tmp_path / f"{which}{i}" for i in (0, 1)]
        for root, copy in zip(two_roots, copies):
            shutil.copytree(root, copy)
        before = opened(copies).records
        path = coco.annotation_file(copies[which], SPLIT)
        content = json.loads(path.read_text())
        changed = next(a for a in content["annotations"] if a["num_keypoints"] > 8)
        k = 3 * (OTHER_NAMES if which else COCO.keypoint_names).index("left_wrist")
        changed["keypoints"][k : k + 3] = [12, 34, 2]
        path.write_text(json.dumps(content))
        after = opened(copies).records
        differs = (
            (before.people.keypoints_image_xy != after.people.keypoints_image_xy).any(-1).nonzero()
        )
        assert [axis.tolist() for axis in differs][1] == [COCO.keypoint_names.index("left_wrist")]


def test_first_people_are_those_of_each(two_roots):
    data = opened(two_roots, weight=0.7, first_people=5)
    assert [share.per_epoch for share in data.shares] == [5, 4]
    data = opened(two_roots, weight=0.01, first_people=5)
    assert [share.per_epoch for share in data.shares] == [5, 1]


# ----------------------------------------------------------------------------------- refusals


def test_a_data_set_without_a_name_of_the_skeleton_is_refused(two_roots):
    names = tuple(f"point_{k}" for k in range(17))
    stranger = Skeleton("stranger", names, (), (0.05,) * 17)
    sets = [(DataSet(str(two_roots[0]), SPLIT), COCO), (DataSet("x", SPLIT), stranger)]
    with pytest.raises(DataError) as error:
        mixture.open_mixture(sets, COCO)
    assert str(error.value) == (
        f"x:{SPLIT}: none of its keypoints (point_0, point_1, point_2 and 14 more) has the name of"
        " one of skeleton 'coco' (nose, left_eye, right_eye and 14 more): keypoints are matched by"
        " their names"
    )


def test_records_of_two_roots_are_not_taken_for_each_other(two_roots, tmp_path):
    """The same json with other pictures, and one folder for the records of both."""
    shutil.copytree(two_roots[0], tmp_path / "twin", ignore=shutil.ignore_patterns("records"))
    sets = [(DataSet(str(root), SPLIT), COCO) for root in (two_roots[0], tmp_path / "twin")]
    assert len(mixture.open_mixture(sets, COCO).shares) == 2  # each in its own root
    with pytest.raises(DataError, match="would have the records of both"):
        mixture.open_mixture(sets, COCO, records_dir=tmp_path / "records")
    twice = [sets[0], (sets[0][0]._replace(weight=2.0), COCO)]
    first, second = mixture.open_mixture(twice, COCO, records_dir=tmp_path / "records").shares
    assert second.per_epoch == 2 * first.per_epoch


@pytest.mark.parametrize("text", ["", "a", "a:b", ":b:1", "a::1", "a:b:", "a:b:c", "a:b:1:"])
def test_what_is_no_data_set_is_refused(text):
    with pytest.raises(ValueError):
        DataSet.parse(text)


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf", "-inf", "1001"])
def test_a_weight_out_of_its_range_is_refused(weight):
    with pytest.raises(ValueError):
        DataSet.parse(f"a:b:{weight}")


def test_a_root_may_hold_colons():
    assert DataSet.parse("gs://bucket/x:train:0.25") == ("gs://bucket/x", "train", 0.25)


# ---------------------------------------------------------------------------- its own skeleton


@pytest.fixture
def animals(tmp_path) -> pathlib.Path:
    coco_files.write(tmp_path / "animals", {SPLIT: 4}, ANIMALS)
    return tmp_path / "animals"


def own(root: pathlib.Path, skeleton: Skeleton) -> Skeleton:
    return training_data._own_skeleton(DataSet(str(root), SPLIT), skeleton)


def test_the_skeleton_of_a_data_set_is_its_own(animals, two_roots):
    assert own(animals, COCO).keypoint_names == QUADRUPED.keypoint_names
    assert own(two_roots[1], COCO).keypoint_names == OTHER_NAMES
    shorter = dataclasses.replace(QUADRUPED, name="file", oks_sigmas=(0.1,) * 11)
    (animals / "skeleton.json").write_text(json.dumps(shorter.to_json()))
    assert own(animals, COCO) == shorter
    assert own(animals, QUADRUPED) is QUADRUPED  # so that its records serve again
    assert own(two_roots[0], QUADRUPED) is COCO


def test_where_no_category_lists_keypoints_they_are_the_trainings(animals):
    path = coco.annotation_file(animals, SPLIT)
    content = json.loads(path.read_text())
    del content["categories"][0]["keypoints"]
    path.write_text(json.dumps(content))
    assert own(animals, QUADRUPED) is QUADRUPED
    content["categories"].append({"id": 8, "name": "a", "keypoints": ["nose"]})
    content["categories"].append({"id": 9, "name": "b", "keypoints": list(COCO.keypoint_names)})
    path.write_text(json.dumps(content))
    assert own(animals, COCO) is COCO  # one of several has the training's
    with pytest.raises(DataError, match="several categories list different keypoints"):
        own(animals, QUADRUPED)
