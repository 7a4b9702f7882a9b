"""Crops, augmentation and batches: byte for byte the reference's, each picture decoded once."""

import dataclasses
import hashlib
import itertools
from collections.abc import Sequence

import cv2
import numpy as np
import pytest

from conftest import golden_json, golden_npz
from mspn_jax import geometry
from mspn_jax.crops import cut, decode_picture
from mspn_jax.data import augment, evaluation_set, pipeline
from mspn_jax.data.records import Records, open_records
from mspn_jax.data.validator import read_annotations
from mspn_jax.skeletons import COCO
from mspn_jax.synthetic import people

CROP_HW = (256, 192)


def sha256(crop: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(crop).tobytes()).hexdigest()


def read_image(folder, image_id: int) -> np.ndarray:
    return decode_picture((folder / f"{image_id:012d}.jpg").read_bytes())


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> Records:
    root = tmp_path_factory.mktemp("drawn")
    people.write_dataset(root, {"train2017": 30, "val2017": 10})
    return open_records(root=root, split="train2017", skeleton=COCO, only_with_people=True)


# ------------------------------------------------------------------------------------ crops


def test_crops_of_annotated_boxes_equal_the_references(coco_sample):
    golden = golden_npz("pipeline_val_gt.npz")
    people = {
        annotation_id: (picture, i)
        for picture in read_annotations(root=coco_sample, split="val2017", skeleton=COCO).pictures()
        for i, annotation_id in enumerate(picture.annotation_ids)
    }
    for row, annotation_id in enumerate(golden["ann_id"]):
        picture, i = people[annotation_id]
        box_xyxy = geometry.clip_boxes(picture.boxes_xywh[i], picture.image_hw)
        np.testing.assert_array_equal(box_xyxy, golden["bbox_xyxy"][row])
        image_to_crop, keypoints_crop_xy, visibility = augment.apply(
            augment.UNCHANGED,
            picture.keypoints_image_xy[i],
            picture.visibility[i],
            box_xyxy,
            padding=1.25,
            image_width=picture.image_hw[1],
            crop_hw=CROP_HW,
            flip_permutation=COCO.flip_permutation,
            half_body_padding=1.5,
        )
        np.testing.assert_array_equal(image_to_crop, golden["warp_mat"][row])
        np.testing.assert_allclose(
            keypoints_crop_xy, golden["transformed_keypoints"][row], atol=1e-3
        )
        np.testing.assert_array_equal(np.minimum(visibility, 1), golden["keypoints_visible"][row])
        crop = np.empty((*CROP_HW, 3), np.uint8)
        cut(read_image(coco_sample / "val2017", picture.image_id), image_to_crop, False, crop)
        assert sha256(crop) == golden["crop_rgb_sha256"][row]


def test_crops_of_detected_boxes_equal_the_references(coco_sample):
    golden = golden_npz("pipeline_val_det.npz")
    rows = [int(np.flatnonzero(golden["id"] == i)[0]) for i in golden["crop_ids"]]
    center_xy, size_wh = geometry.crop_regions(golden["bbox_xyxy"], 1.25, CROP_HW)
    for row, expected in zip(rows, golden["crop_rgb_sha256"]):
        image = read_image(coco_sample / "val2017", golden["img_id"][row])
        crop = np.empty((*CROP_HW, 3), np.uint8)
        image_to_crop = geometry.image_to_crop(center_xy[row], size_wh[row], 0.0, CROP_HW)
        cut(image, image_to_crop, False, crop)
        assert sha256(crop) == expected


def test_augmented_crops_and_keypoints_equal_the_references(coco_sample):
    golden = golden_npz("pipeline_train.npz")
    people = {
        annotation_id: (picture, i)
        for picture in read_annotations(root=coco_sample, split="val2017", skeleton=COCO).pictures()
        for i, annotation_id in enumerate(picture.annotation_ids)
    }
    kinds = set()
    for row, annotation_id in enumerate(golden["ann_id"]):
        picture, i = people[annotation_id]
        half_body = golden["half_body_ids_mask"][row].astype(bool)
        augmentation = augment.Augmentation(
            flip=np.asarray(golden["flip"][row], bool),
            half_body=half_body,
            shift_xy=golden["offset"][row],
            scale=np.asarray(golden["scale_factor"][row]),
            rotation_deg=np.asarray(golden["rotation"][row]),
            color=augment.SAME_COLORS,
        )
        kinds.add(
            (bool(augmentation.flip), bool(half_body.any()), bool(augmentation.rotation_deg != 0))
        )
        image_to_crop, keypoints_crop_xy, visibility = augment.apply(
            augmentation,
            picture.keypoints_image_xy[i],
            picture.visibility[i],
            geometry.clip_boxes(picture.boxes_xywh[i], picture.image_hw),
            padding=1.25,
            image_width=picture.image_hw[1],
            crop_hw=CROP_HW,
            flip_permutation=COCO.flip_permutation,
            half_body_padding=1.5,
        )
        np.testing.assert_array_equal(image_to_crop, golden["warp_mat"][row])
        np.testing.assert_allclose(
            keypoints_crop_xy, golden["transformed_keypoints"][row], atol=2e-3
        )
        np.testing.assert_array_equal(np.minimum(visibility, 1), golden["keypoints_visible"][row])
        crop = np.empty((*CROP_HW, 3), np.uint8)
        image = read_image(coco_sample / "val2017", picture.image_id)
        cut(image, image_to_crop, augmentation.flip, crop)
        assert sha256(crop) == golden["crop_rgb_sha256"][row], row
    assert len(kinds) >= 4  # with and without each


def test_a_mirrored_region_is_cut_as_from_the_mirrored_picture():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (90, 120, 3), np.uint8)
    for center in ([60, 45], [-20, 10], [118, 88], [500, 500]):
        for rotation in (0.0, 33.0, -80.0):
            affine = geometry.image_to_crop(
                np.float32(center), np.float32([48, 64]), rotation, (64, 48)
            )
            crop = np.empty((64, 48, 3), np.uint8)
            cut(image, affine, True, crop)
            whole = cv2.warpAffine(cv2.flip(image, 1), affine, (48, 64), flags=cv2.INTER_LINEAR)
            np.testing.assert_array_equal(crop, whole)


# ----------------------------------------------------------------------------- augmentation


def test_frequencies_and_spread_of_augmentations_are_the_references():
    golden = golden_json("augment.json")
    rng = np.random.default_rng(0)
    augmentation = augment.sample(
        rng, np.ones((20_000, 17)), COCO.is_upper_body, COCO.flip_permutation, augment.Settings()
    )
    distributions = golden["distributions"]
    assert np.mean(augmentation.flip) == pytest.approx(0.5, abs=0.015)
    halves = golden["half_body"][1]["freq"]
    none = np.mean(~augmentation.half_body.any(-1))
    upper = np.mean(augmentation.half_body[:, 0])
    assert none == pytest.approx(halves["none"], abs=0.015)
    assert upper == pytest.approx(halves["upper"], abs=0.015)
    columns = {
        "offset_x": augmentation.shift_xy[:, 0],
        "offset_y": augmentation.shift_xy[:, 1],
        "scale": augmentation.scale,
        "rotation": augmentation.rotation_deg,
    }
    for name, values in columns.items():
        expected = distributions[name]
        assert np.std(values) == pytest.approx(expected["std"], rel=0.03), name
        percentiles = [1, 5, 10, 90, 95, 99]
        np.testing.assert_allclose(
            np.percentile(values, percentiles),
            [expected["percentiles"][str(p)] for p in percentiles],
            atol=0.12 * expected["std"],
            err_msg=name,
        )
    assert np.mean(columns["offset_x"] == 0) == pytest.approx(0.7, abs=0.015)


def test_half_bodies_are_chosen_as_the_reference_does():
    for case in golden_json("augment.json")["half_body_selection"]:
        visibility = np.array(case["visible"], np.float32)
        for chance, expected in ((0.0, case["prefer_upper"]), (0.99, case["prefer_lower"])):
            chosen = augment._half_body(
                visibility > 0,
                COCO.is_upper_body,
                np.array(0.0),
                np.array(chance),
                augment.Settings(),
            )
            assert (np.flatnonzero(chosen).tolist() or None) == expected


def test_one_bright_pixel_at_a_keypoint_follows_it_through_every_map():
    rng = np.random.default_rng(1)
    for _ in range(50):
        x, y = rng.integers(40, 160, 2)
        image = np.zeros((200, 200, 3), np.uint8)
        cv2.circle(image, (int(x), int(y)), 2, (255, 255, 255), -1)
        keypoints = np.tile(np.float32([x, y]), (17, 1))
        augmentation = augment.sample(
            rng, np.ones(17), COCO.is_upper_body, COCO.flip_permutation, augment.Settings()
        )
        augmentation = dataclasses.replace(augmentation, half_body=np.zeros(17, bool))
        image_to_crop, keypoints_crop_xy, _ = augment.apply(
            augmentation,
            keypoints,
            np.ones(17, np.float32),
            np.float32([50, 40, 150, 160]),
            padding=1.25,
            image_width=200,
            crop_hw=CROP_HW,
            flip_permutation=COCO.flip_permutation,
            half_body_padding=1.5,
        )
        crop = np.empty((*CROP_HW, 3), np.uint8)
        cut(image, image_to_crop, augmentation.flip, crop)
        if not ((keypoints_crop_xy[0] > 8) & (keypoints_crop_xy[0] < (184, 248))).all():
            continue
        weights = crop[..., 0].astype(float)
        center = [(weights.sum(0) @ np.arange(192)), (weights.sum(1) @ np.arange(256))]
        np.testing.assert_allclose(np.array(center) / weights.sum(), keypoints_crop_xy[0], atol=0.1)


# ---------------------------------------------------------------------------------- batches


def take(records, count, **arguments):
    arguments = dict(crop_hw=(64, 48), batch_size=8, seed=5) | arguments
    return list(itertools.islice(pipeline.training_batches(records, COCO, **arguments), count))


def chunks_of(records: Records, batch_size: int) -> pipeline.TrainingChunks:
    """Of one process, without augmentation."""
    return pipeline.TrainingChunks(
        records,
        COCO,
        crop_hw=(64, 48),
        batch_size=batch_size,
        settings=augment.Settings(
            flip_probability=0.0,
            half_body_probability=0.0,
            shift_probability=0.0,
            scale_probability=0.0,
            rotation_probability=0.0,
        ),
        padding=1.25,
        seed=0,
        process=0,
        num_processes=1,
        num_threads=1,
    )


def assert_same(batches, others):
    for batch, other in zip(batches, others, strict=True):
        for a, b in zip(dataclasses.astuple(batch), dataclasses.astuple(other)):
            np.testing.assert_array_equal(a, b)


def test_batches_depend_on_seed_and_step_alone(records):
    batches = take(records, 6)
    assert_same(batches, take(records, 6, num_threads=1))
    assert_same(batches[3:], take(records, 3, first_step=3, num_threads=3))
    assert (take(records, 1, seed=6)[0].crops != batches[0].crops).any()


def test_processes_shares_put_together_are_one_processs_batches(records):
    whole = take(records, 5)
    shares = [take(records, 5, process=p, num_processes=2) for p in range(2)]
    for batch, first, second in zip(whole, *shares):
        np.testing.assert_array_equal(batch.crops, np.concatenate([first.crops, second.crops]))


def test_each_picture_is_decoded_once_but_at_the_edges_of_a_chunk(records):
    class Counting(Sequence):
        def __init__(self, source):
            self.source, self.read = source, 0

        def __len__(self):
            return len(self.source)

        def __getitem__(self, i):
            self.read += 1
            return self.source[i]

    counting = Counting(records.source)
    chunks = chunks_of(dataclasses.replace(records, source=counting), batch_size=16)
    chunks[0]
    epochs = chunks.people_per_chunk / records.num_people.sum()
    assert counting.read <= np.ceil(epochs * len(records.num_people)) + 1


def test_people_of_a_picture_go_to_different_batches(records):
    chunks = chunks_of(records, batch_size=256)
    count = int(records.num_people.sum())
    pictures = chunks.order.take(0, count).records
    batches = np.arange(count) % chunks.batches_per_chunk
    assert len(set(zip(pictures.tolist(), batches.tolist()))) == count


def test_evaluation_crops_all_boxes_in_order_and_pads_the_last_batch(records):
    count = 21
    indices = np.sort(np.random.default_rng(0).integers(0, len(records.image_ids), count))
    boxes_xyxy = np.tile(np.float32([20, 30, 90, 150]), (count, 1)) + np.arange(count)[:, None]
    boxes = evaluation_set.Boxes(
        indices, records.image_ids[indices], boxes_xyxy.astype(np.float32), np.ones(count)
    )
    batches = list(evaluation_set.batches(records, boxes, crop_hw=(64, 48), batch_size=8))
    assert [batch.start for batch in batches] == [0, 8, 16]
    assert {batch.crops.shape for batch in batches} == {(8, 64, 48, 3)}
    np.testing.assert_array_equal(batches[-1].mask, np.arange(8) < 5)
    assert not batches[-1].crops[5:].any()
    crops = np.concatenate([batch.crops for batch in batches])
    center_xy, size_wh = geometry.crop_regions(boxes.boxes_xyxy, 1.25, (64, 48))
    for i in (0, 7, 8, 20):
        image = decode_picture(records.source[int(indices[i])]["image"])
        expected = np.empty((64, 48, 3), np.uint8)
        affine = geometry.image_to_crop(center_xy[i], size_wh[i], 0.0, (64, 48))
        cut(image, affine, False, expected)
        np.testing.assert_array_equal(crops[i], expected)


def test_a_batch_that_does_not_divide_is_refused(records):
    with pytest.raises(ValueError, match="batch of 8 does not divide among 3 processes"):
        take(records, 1, num_processes=3)
