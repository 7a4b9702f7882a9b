"""Scores, NMS and COCO's metrics against the reference; every half pixel, without a network."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from conftest import GOLDEN, golden_json
from mspn_jax import geometry, heatmaps
from mspn_jax.data import augment, coco, validator
from mspn_jax.data.annotations import Annotations
from mspn_jax.data.validator import read_annotations
from mspn_jax.errors import DataError
from mspn_jax.evaluation import scoring
from mspn_jax.evaluation.results import coco_results
from mspn_jax.skeletons import COCO

CROP_HW, HEATMAP_HW = (256, 192), (64, 48)
NAMES = ("AP", "AP .5", "AP .75", "AP (M)", "AP (L)", "AR", "AR .5", "AR .75", "AR (M)", "AR (L)")


@pytest.fixture(scope="module")
def predictions() -> dict[str, np.ndarray]:
    by_id = {row["id"]: row for row in golden_json("eval_predictions.json")}  # one id is repeated
    rows = list(by_id.values())
    return dict(
        image_ids=np.array([row["img_id"] for row in rows]),
        boxes_xyxy=np.array([row["bbox_xyxy"] for row in rows]),
        box_scores=np.array([row["bbox_score"] for row in rows]),
        keypoints_image_xy=np.array([row["keypoints"] for row in rows]),
        keypoint_scores=np.array([row["keypoint_scores"] for row in rows]),
        crop_areas=np.array([row["bbox_scale"] for row in rows]).prod(-1),
    )


@pytest.fixture(scope="module")
def four_pictures(coco_sample, predictions, tmp_path_factory):
    """The annotations of the four pictures that the golden predictions are of."""
    content = coco.load_json(coco.annotation_file(coco_sample, "val2017"))
    kept = set(predictions["image_ids"].tolist())
    for key, field in (("images", "id"), ("annotations", "image_id")):
        content[key] = [row for row in content[key] if row[field] in kept]
    path = tmp_path_factory.mktemp("four") / "annotations.json"
    path.write_text(json.dumps(content))
    return validator.read(path, COCO)


def synthetic_truth() -> Annotations:
    return validator.read(GOLDEN / "eval_synth_ann.json", COCO)


@pytest.mark.parametrize(
    "kind, threshold", [("none", None), ("oks_nms", 0.9), ("oks_nms_thr0.5", 0.5)]
)
def test_results_and_metrics_equal_the_references(predictions, four_pictures, kind, threshold):
    expected = golden_json("eval_results.json")[kind]
    results = coco_results(**predictions, skeleton=COCO, oks_nms_threshold=threshold)
    assert len(results) == expected["n_results"]
    theirs = expected.get("results") or [{"score": score} for score in expected["scores"]]
    np.testing.assert_allclose(
        sorted(r["score"] for r in results), sorted(r["score"] for r in theirs), rtol=1e-6
    )
    metrics, table = scoring.coco_metrics(four_pictures, results, COCO)
    assert tuple(metrics) == scoring.METRICS
    np.testing.assert_allclose(
        list(metrics.values()), [expected["mmpose"][name] for name in NAMES], atol=1e-4
    )
    assert f"= {metrics['AP']:.3f}" in table
    without_box = [{k: v for k, v in r.items() if k != "bbox"} for r in results]
    metrics, _ = scoring.coco_metrics(four_pictures, without_box, COCO)
    np.testing.assert_allclose(
        list(metrics.values()),
        [expected["pycocotools_without_bbox_field"][name] for name in NAMES],
        atol=1e-4,
    )


def test_results_have_the_references_rows(predictions):
    expected = golden_json("eval_results.json")["none"]["results"]
    results = coco_results(**predictions, skeleton=COCO)
    ours = {tuple(np.round(r["keypoints"][:2], 3)): r for r in results}
    for row in expected:
        mine = ours[tuple(np.round(row["keypoints"][:2], 3))]
        assert mine["image_id"] == row["image_id"] and mine["category_id"] == 1
        np.testing.assert_allclose(mine["bbox"], row["bbox"], atol=1e-3)
        np.testing.assert_allclose(mine["keypoints"], row["keypoints"], rtol=1e-5)


def test_synthetic_metrics_equal_the_references():
    results = golden_json("eval_synth_results.json")
    metrics, _ = scoring.coco_metrics(synthetic_truth(), results, COCO)
    expected = golden_json("eval_results.json")["synthetic"]["pycocotools"]
    np.testing.assert_allclose(
        list(metrics.values()), [expected[name] for name in NAMES], atol=1e-9
    )


def test_a_subset_of_people_is_scored_alone():
    content = golden_json("eval_synth_ann.json")
    person = next(a for a in content["annotations"] if a["num_keypoints"] and not a["iscrowd"])
    perfect = [
        {
            "image_id": person["image_id"],
            "category_id": 1,
            "score": 1.0,
            "keypoints": person["keypoints"],
            "bbox": person["bbox"],
        }
    ]
    truth = synthetic_truth()
    metrics, _ = scoring.coco_metrics(truth.select(truth.ids == person["id"]), perfect, COCO)
    assert metrics["AP"] == pytest.approx(1)
    assert scoring.coco_metrics(truth, perfect, COCO)[0]["AP"] < 0.1


def test_nobody_found_and_nobody_annotated(tmp_path):
    metrics, _ = scoring.coco_metrics(synthetic_truth(), [], COCO)
    assert set(metrics.values()) == {0.0}
    path = tmp_path / "empty.json"
    image = {"id": 1, "file_name": "1.jpg", "height": 9, "width": 9}
    path.write_text(json.dumps({"images": [image], "annotations": [], "categories": []}))
    with pytest.raises(DataError, match="no annotations"):
        scoring.coco_metrics(validator.read(path, COCO), [], COCO)


def test_people_through_crops_targets_and_decoding_score_as_the_references(coco_sample, tmp_path):
    """Every frame and half pixel: without the half pixel AP is .92, with two of them .91.

    A few joints are labelled beyond their person's crop, where no heatmap can hold them (32 of
    4,944): they are taken out of the truth. With them AP is .973.
    """
    people = [
        (picture.image_id, annotation_id, picture.image_hw[1], box_xyxy, keypoints, visibility)
        for picture in read_annotations(root=coco_sample, split="val2017", skeleton=COCO).pictures()
        for annotation_id, box_xyxy, keypoints, visibility in zip(
            picture.annotation_ids,
            geometry.clip_boxes(picture.boxes_xywh, picture.image_hw),
            picture.keypoints_image_xy,
            picture.visibility,
        )
    ]
    keypoints_crop_xy = np.stack(
        [
            augment.apply(
                augment.UNCHANGED,
                keypoints,
                visibility,
                box_xyxy,
                padding=1.25,
                image_width=width,
                crop_hw=CROP_HW,
                flip_permutation=COCO.flip_permutation,
                half_body_padding=1.5,
            )[1]
            for _, _, width, box_xyxy, keypoints, visibility in people
        ]
    )
    image_ids, annotation_ids, _, boxes_xyxy, _, visibility = map(np.array, zip(*people))
    targets, weights = heatmaps.encode(
        jnp.asarray(keypoints_crop_xy), jnp.asarray(visibility), CROP_HW, HEATMAP_HW, (5,)
    )
    decoded, keypoint_scores = map(np.asarray, heatmaps.decode(targets[:, 0]))

    truth = coco.load_json(coco.annotation_file(coco_sample, "val2017"))
    row_of = {annotation_id: row for row, annotation_id in enumerate(annotation_ids.tolist())}
    for annotation in truth["annotations"]:
        if annotation["id"] in row_of:
            triples = np.array(annotation["keypoints"]).reshape(-1, 3)
            triples[np.asarray(weights)[row_of[annotation["id"]]] == 0] = 0
            annotation["keypoints"] = triples.ravel().tolist()
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    changed = validator.read(tmp_path / "truth.json", COCO)

    center_xy, size_wh = geometry.crop_regions(boxes_xyxy, 1.25, CROP_HW)

    def average_precision(keypoints_crop_xy):
        results = coco_results(
            image_ids,
            boxes_xyxy,
            np.ones(len(people)),
            geometry.crop_to_image(keypoints_crop_xy, center_xy, size_wh, CROP_HW),
            keypoint_scores,
            size_wh.prod(-1),
            COCO,
        )
        return scoring.coco_metrics(changed, results, COCO)[0]["AP"]

    assert average_precision(decoded) >= 0.998
    for wrong in (-2, -1, 1, 2):  # crop pixels: half and a quarter of a cell
        assert average_precision(decoded + wrong) < 0.992
