"""OKS and its use against pycocotools."""

import numpy as np
import pytest

from conftest import GOLDEN, golden_json
from mspn_jax.data.validator import read
from mspn_jax.evaluation import scoring
from mspn_jax.evaluation.results import oks_nms
from mspn_jax.evaluation.similarity import keypoint_similarities, object_keypoint_similarity
from mspn_jax.skeletons import COCO


def test_oks_is_that_of_pycocotools():
    truth = read(GOLDEN / "eval_synth_ann.json", COCO)
    truth = truth.people()
    evaluation = scoring.coco_evaluation(truth, golden_json("eval_synth_results.json"), COCO)
    compared = 0
    for image_row, image_id in enumerate(truth.image_ids.tolist()):
        here = truth.select(truth.image_rows == image_row)
        found = sorted(
            evaluation.cocoDt.imgToAnns.get(image_id, []), key=lambda d: d["score"], reverse=True
        )[:20]
        if not found or not len(here.ids):
            continue
        found_xy = np.reshape([d["keypoints"] for d in found], (len(found), 17, 3))[..., :2]
        similarities = keypoint_similarities(
            found_xy, here.keypoints_image_xy, here.areas, COCO.oks_sigmas
        )
        oks = object_keypoint_similarity(similarities, here.visibility > 0)
        np.testing.assert_allclose(oks, evaluation.ious[image_id, 1], rtol=1e-12, atol=1e-300)
        compared += oks.size
    assert compared > 50


def test_the_similarity_of_a_known_distance():
    """At a distance of 2 sigma sqrt(area) it is exp(-1/2)."""
    area, sigma = 100.0**2, 0.05
    found = np.array([[[2 * sigma * 100.0, 0.0]]])
    similarities = keypoint_similarities(found, np.zeros((1, 1, 2)), np.array([area]), (sigma,))
    assert similarities.item() == pytest.approx(np.exp(-0.5))


def test_nms_keeps_the_better_of_two_alike():
    rng = np.random.default_rng(0)
    one = rng.uniform(0, 100, (17, 2))
    keypoints = np.stack([one, one + 0.5, one + 300])
    scores, areas = np.array([0.5, 0.9, 0.1]), np.full(3, 1e4)
    assert oks_nms(keypoints, scores, areas, COCO.oks_sigmas, 0.9).tolist() == [1, 2]
    assert oks_nms(keypoints, scores, areas, COCO.oks_sigmas, 1.0).tolist() == [1, 0, 2]
