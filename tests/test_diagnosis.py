"""The kinds of error on cases made by hand, and OKS and matches against pycocotools."""

import numpy as np
import pytest
from pycocotools.cocoeval import COCOeval

from conftest import GOLDEN, golden_json
from mspn_jax.data.annotations import Annotations
from mspn_jax.data.validator import examine, read
from mspn_jax.evaluation import diagnosis, scoring
from mspn_jax.evaluation.diagnosis import (
    GOOD,
    INVERSION,
    JITTER,
    KINDS,
    MISS,
    NOBODY,
    NOT_JUDGED,
    SWAP,
)
from mspn_jax.skeletons import COCO

AREA = 100.0**2
K = COCO.num_keypoints
LEFT_WRIST, RIGHT_WRIST = (COCO.keypoint_names.index(f"{s}_wrist") for s in ("left", "right"))


def pose(x: float) -> np.ndarray:
    """17 keypoints, 200 pixels from each other: none is within reach of another."""
    return np.stack([x + 200.0 * np.arange(K), np.full(K, 50.0)], -1)


def annotation(number: int, keypoints_xy, visibility=2.0, image_id=1) -> dict:
    triples = np.concatenate([keypoints_xy, np.broadcast_to(visibility, (K,))[:, None]], -1)
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "area": AREA,
        "bbox": [0, 0, 10, 10],
        "num_keypoints": int((triples[:, 2] > 0).sum()),
        "keypoints": triples.ravel().tolist(),
    }


def result(keypoints_xy, score: float = 1.0, image_id: int = 1) -> dict:
    triples = np.concatenate([keypoints_xy, np.ones((K, 1))], -1)
    return {
        "image_id": image_id,
        "category_id": 1,
        "score": score,
        "keypoints": triples.ravel().tolist(),
    }


def distance_of(similarity: float, keypoint: int) -> float:
    """The pixels of error at which a keypoint has this similarity, by COCO's definition."""
    return np.sqrt(-2 * np.log(similarity) * AREA) * 2 * COCO.oks_sigmas[keypoint]


def truth_of(annotations) -> Annotations:
    ids = sorted({a["image_id"] for a in annotations})
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 9999, "width": 9999} for i in ids]
    truth, findings = examine({"images": images, "annotations": annotations}, "truth.json", COCO)
    assert not findings.errors
    return truth


def diagnose(results, annotations):
    people = truth_of(annotations).people()
    return diagnosis.diagnose(results, people, COCO), people


def kind_when(keypoint: int, moved_to_xy, others=(), visibility=2.0) -> int:
    found_xy = pose(0)
    found_xy[keypoint] = moved_to_xy
    judged, _ = diagnose([result(found_xy)], [annotation(1, pose(0), visibility), *others])
    rest = np.delete(judged.kinds[0], keypoint)
    assert set(rest.tolist()) <= {GOOD, NOT_JUDGED}
    return int(judged.kinds[0, keypoint])


@pytest.mark.parametrize(
    "similarity, kind",
    [(0.99, GOOD), (0.851, GOOD), (0.849, JITTER), (0.501, JITTER), (0.499, MISS), (1e-3, MISS)],
)
@pytest.mark.parametrize("keypoint", [0, LEFT_WRIST])
def test_a_shift_of_known_similarity(similarity, kind, keypoint):
    shift = distance_of(similarity, keypoint)
    assert kind_when(keypoint, pose(0)[keypoint] + (0, shift)) == kind
    judged, _ = diagnose([result(pose(0) + (0, shift))], [annotation(1, pose(0))])
    assert judged.similarities[0, keypoint] == pytest.approx(similarity, rel=1e-6)
    assert judged.errors_px[0, keypoint] == pytest.approx(shift)


def test_left_and_right_confused_is_an_inversion():
    at = pose(0)[RIGHT_WRIST]
    assert kind_when(LEFT_WRIST, at) == INVERSION
    assert kind_when(LEFT_WRIST, at + (0, distance_of(0.51, LEFT_WRIST))) == INVERSION
    assert kind_when(LEFT_WRIST, at + (0, distance_of(0.49, LEFT_WRIST))) == MISS
    judged, _ = diagnose([result(pose(0)[COCO.flip_permutation])], [annotation(1, pose(0))])
    assert judged.match[0] == NOBODY  # of 17 only the nose is right: OKS 1/17

    almost = pose(0)
    almost[5:] = almost[COCO.flip_permutation][5:]
    judged, _ = diagnose([result(almost)], [annotation(1, pose(0))])
    assert judged.kinds[0].tolist() == 5 * [GOOD] + 12 * [INVERSION]


def test_a_mirrored_keypoint_that_is_not_labelled_is_no_inversion():
    visibility = np.full(K, 2.0)
    visibility[RIGHT_WRIST] = 0
    assert kind_when(LEFT_WRIST, pose(0)[RIGHT_WRIST], visibility=visibility) == MISS
    assert kind_when(RIGHT_WRIST, pose(0)[LEFT_WRIST], visibility=visibility) == NOT_JUDGED


def test_a_neighbours_keypoint_is_a_swap():
    neighbour_xy = pose(0) + (0, 2000)
    other = annotation(2, neighbour_xy)
    assert kind_when(LEFT_WRIST, neighbour_xy[LEFT_WRIST], [other]) == SWAP
    assert kind_when(LEFT_WRIST, neighbour_xy[RIGHT_WRIST], [other]) == SWAP
    assert kind_when(LEFT_WRIST, neighbour_xy[0], [other]) == MISS  # a nose: not confusable
    elsewhere = annotation(2, neighbour_xy, image_id=2)
    assert kind_when(LEFT_WRIST, neighbour_xy[LEFT_WRIST], [elsewhere]) == MISS
    crowd = other | {"iscrowd": 1}
    assert kind_when(LEFT_WRIST, neighbour_xy[LEFT_WRIST], [crowd]) == MISS


def test_of_two_places_the_nearer_one_decides():
    own = pose(0)[LEFT_WRIST]
    apart = distance_of(0.9, LEFT_WRIST) + distance_of(0.6, LEFT_WRIST)
    neighbour_xy = pose(0) + (0, 5000)
    neighbour_xy[LEFT_WRIST] = own + (0, apart)
    other = annotation(2, neighbour_xy)
    near_own = own + (0, distance_of(0.9, LEFT_WRIST))
    near_other = own + (0, distance_of(0.6, LEFT_WRIST))
    assert kind_when(LEFT_WRIST, near_own, [other]) == GOOD
    assert kind_when(LEFT_WRIST, near_other, [other]) == SWAP


def test_a_person_found_by_nobody_and_a_picture_without_anything_found():
    annotations = [annotation(1, pose(0)), annotation(2, pose(0), image_id=2)]
    judged, people = diagnose([result(pose(0) + 5000)], annotations)
    assert judged.match.tolist() == [NOBODY, NOBODY]
    assert judged.closest.tolist() == [0, NOBODY]
    assert judged.nearest.tolist() == [0]
    assert (judged.kinds == NOT_JUDGED).all()
    metrics = diagnosis.summary(people, judged, COCO)
    assert metrics["people"] == {"labelled": 2, "matched": 0, "unmatched": 2, "mean_oks": None}
    assert metrics["errors"]["miss"] == {"count": 0, "share": None}
    assert metrics["keypoints"]["nose"]["median_error_px"] is None


def test_the_summary_counts_what_was_made():
    visibility = np.full(K, 1.0)
    visibility[0] = 0
    found_xy = pose(0)
    found_xy[LEFT_WRIST] += (0, 30)
    found_xy[RIGHT_WRIST] = found_xy[LEFT_WRIST]
    annotations = [annotation(1, pose(0), visibility), annotation(2, pose(0), image_id=2)]
    judged, people = diagnose([result(found_xy), result(pose(0), image_id=2)], annotations)
    metrics = diagnosis.summary(people, judged, COCO)
    counts = {kind: metrics["errors"][kind]["count"] for kind in KINDS}
    assert sum(counts.values()) == 16 + 17
    assert metrics["keypoints"]["nose"]["labelled"] == 1
    wrist = metrics["keypoints"]["left_wrist"]
    assert wrist["labelled"] == 2
    assert wrist["median_error_px"] == wrist["mean_error_px"] == pytest.approx(15)
    similarity = np.exp(-(30**2) / (2 * AREA * (2 * 0.062) ** 2))
    assert wrist["similarity"] == pytest.approx((1 + similarity) / 2)
    assert wrist["errors"]["good"]["share"] == 0.5


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.8])
def test_oks_and_matches_equal_pycocotools(threshold, monkeypatch):
    """On the golden split: what COCO matches of labelled people, this matches, at any threshold."""
    results = golden_json("eval_synth_results.json")
    content = golden_json("eval_synth_ann.json")
    # Crowds and people without labels take part in COCO's matching, not in ours.
    kept = {a["id"] for a in content["annotations"] if a["num_keypoints"] and not a["iscrowd"]}
    wanted = COCOeval.evaluate

    def at_one_threshold(self):
        self.params.iouThrs = np.array([threshold])
        wanted(self)

    monkeypatch.setattr(COCOeval, "evaluate", at_one_threshold)
    truth = read(GOLDEN / "eval_synth_ann.json", COCO)
    truth = truth.people()
    assert set(truth.ids.tolist()) == kept
    theirs = scoring.coco_evaluation(truth, results, COCO)
    pairs = {  # the annotations are numbered from 1
        (int(truth.ids[int(annotation_id) - 1]), int(result_id))
        for of_picture in theirs.evalImgs[: len(theirs.params.imgIds)]
        if of_picture
        for result_id, annotation_id in zip(of_picture["dtIds"], of_picture["dtMatches"][0])
        if annotation_id
    }
    monkeypatch.setattr(diagnosis, "MATCH_OKS", threshold)
    judged, people = diagnose(results, [a for a in content["annotations"] if a["id"] in kept])
    ours = {  # loadRes numbers results from 1
        (int(people.ids[row]), int(found) + 1)
        for row, found in enumerate(judged.match)
        if found != NOBODY
    }
    assert ours == pairs and len(pairs) > 5
