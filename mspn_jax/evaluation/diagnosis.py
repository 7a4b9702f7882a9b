"""Kinds of error: found people compared with annotated people, keypoint by keypoint.

Source: Ruggero Ronchi & Perona, "Benchmarking and Error Diagnosis in Multi-Instance Pose
Estimation", ICCV 2017, and the authors' coco-analyze. NumPy, in image pixels.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mspn_jax.data.annotations import Annotations, rows_by_picture
from mspn_jax.evaluation.similarity import keypoint_similarities, object_keypoint_similarity
from mspn_jax.skeletons import Skeleton

KINDS = ("good", "jitter", "inversion", "swap", "miss")
GOOD, JITTER, INVERSION, SWAP, MISS = range(len(KINDS))
NOT_JUDGED = -1  # a keypoint that is not labelled, or of a person without a match
NOBODY = -1

GOOD_SIMILARITY = 0.85  # at a distance of 1.14 sigma sqrt(area)
NEAR_SIMILARITY = 0.5  # below it a keypoint is a miss
MATCH_OKS = 0.1  # lowest OKS of a match; low, so that bad estimates are judged too
MAX_FOUND = 20  # the best of a picture are matched, as in COCO's evaluation


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """N found people compared with M annotated people.

    Attributes:
      nearest: the annotated person of the same picture with the highest OKS, for each found
        person; NOBODY if the picture has none.
      match: the found person matched with each annotated one, or NOBODY.
      oks: of the match, or without a match of `closest`; 0 if there is none.
      closest: the match, or without one the found person of the picture with the highest OKS.
      similarities: of each keypoint, 0..1; OKS is their mean.
      errors_px: distance to the annotated keypoint, image pixels.
      kinds: index into KINDS, or NOT_JUDGED.
    """

    nearest: Int[np.ndarray, "N"]
    match: Int[np.ndarray, "M"]
    oks: Float[np.ndarray, "M"]
    closest: Int[np.ndarray, "M"]
    similarities: Float[np.ndarray, "M K"]
    errors_px: Float[np.ndarray, "M K"]
    kinds: Int[np.ndarray, "M K"]


def matches(oks: Float[np.ndarray, "N M"], threshold: float) -> Int[np.ndarray, "N"]:
    """COCO's matching in one picture: each found person, best first, takes the best person left.

    Args:
      oks: rows in descending order of score.

    Returns:
      The column of each row, or NOBODY if no person with at least `threshold` is left.
    """
    left = np.array(oks)
    columns = np.full(len(left), NOBODY)
    for row in range(len(left)):
        # The last of equals, as in pycocotools.
        column = left.shape[1] - 1 - int(left[row, ::-1].argmax())
        if left[row, column] >= threshold:
            columns[row] = column
            left[:, column] = -1
    return columns


def kinds_of_errors(
    found_image_xy: Float[np.ndarray, "K 2"], person: int, people: Annotations, skeleton: Skeleton
) -> Int[np.ndarray, "K"]:
    """The kind of error of each keypoint of a found person.

    Candidates for a keypoint are the labelled keypoints of the same name and of the mirrored name,
    of its own person and of the others. The most similar candidate decides: the own keypoint makes
    it good (similarity 0.85 or more) or a jitter (0.5 or more), the mirrored one an inversion,
    another person's a swap. Below a similarity of 0.5 it is a miss.

    Args:
      person: index of the match in `people`, who are all of one picture.
    """
    order = np.r_[person, np.delete(np.arange(len(people.ids)), person)]
    candidates = []
    for permutation in (slice(None), skeleton.flip_permutation):
        similarities = keypoint_similarities(
            found_image_xy[None],
            people.keypoints_image_xy[:, permutation],
            people.areas,
            skeleton.oks_sigmas,
        )[0]
        labelled = people.visibility[:, permutation] > 0
        candidates.append(np.where(labelled, similarities, -1)[order])
    all_candidates = np.concatenate(candidates)  # (2M, K): own, others', own mirrored, others'
    best, which = all_candidates.max(0), all_candidates.argmax(0)
    own = np.where(best >= GOOD_SIMILARITY, GOOD, JITTER)
    kinds = np.where(which == 0, own, np.where(which == len(people.ids), INVERSION, SWAP))
    kinds = np.where(best < NEAR_SIMILARITY, MISS, kinds)
    return np.where(people.visibility[person] > 0, kinds, NOT_JUDGED)


def diagnose(results: list[dict[str, Any]], people: Annotations, skeleton: Skeleton) -> Diagnosis:
    """Matches found people with annotated people at an OKS of 0.1, and judges every keypoint.

    Args:
      results: COCO's submission format.
      people: annotated people only, as `Annotations.people` returns them.
    """
    num_found, num_people, num_keypoints = len(results), len(people.ids), skeleton.num_keypoints
    triples = np.array([r["keypoints"] for r in results], float).reshape(-1, num_keypoints, 3)
    found_image_xy = triples[..., :2]
    scores = np.array([r["score"] for r in results], float)
    nearest = np.full(num_found, NOBODY)
    match, closest = np.full(num_people, NOBODY), np.full(num_people, NOBODY)
    oks_of, similarities = np.zeros(num_people), np.zeros((num_people, num_keypoints))
    errors_px = np.full((num_people, num_keypoints), np.nan)
    kinds = np.full((num_people, num_keypoints), NOT_JUDGED)

    found_in = rows_by_picture(np.array([r["image_id"] for r in results], np.int64))
    for image_id, members in rows_by_picture(people.image_ids[people.image_rows]).items():
        found = found_in.get(image_id, np.zeros(0, int))
        found = found[np.argsort(-scores[found], kind="stable")]
        if not len(found):
            continue
        here = people.select(members)
        of_keypoints = keypoint_similarities(
            found_image_xy[found], here.keypoints_image_xy, here.areas, skeleton.oks_sigmas
        )
        oks = object_keypoint_similarity(of_keypoints, here.visibility > 0)
        nearest[found] = members[oks.argmax(1)]
        rows = oks.argmax(0)  # of `closest`, until there is a match
        for row, person in enumerate(matches(oks[:MAX_FOUND], MATCH_OKS)):
            if person != NOBODY:
                rows[person] = row
                match[members[person]] = found[row]
                kinds[members[person]] = kinds_of_errors(
                    found_image_xy[found[row]], int(person), here, skeleton
                )
        each = np.arange(len(members))
        closest[members], oks_of[members] = found[rows], oks[rows, each]
        similarities[members] = of_keypoints[rows, each]
        errors_px[members] = np.linalg.norm(
            found_image_xy[found[rows]] - here.keypoints_image_xy, axis=-1
        )
    return Diagnosis(nearest, match, oks_of, closest, similarities, errors_px, kinds)


def count_kinds(kinds: Int[np.ndarray, "*n"]) -> dict[str, dict[str, int | float | None]]:
    """{kind: {"count", "share" of the judged keypoints, None if there are none}}."""
    counts = [int((kinds == kind).sum()) for kind in range(len(KINDS))]
    total = sum(counts)
    return {
        name: {"count": count, "share": count / total if total else None}
        for name, count in zip(KINDS, counts)
    }


def summary(people: Annotations, diagnosis: Diagnosis, skeleton: Skeleton) -> dict[str, Any]:
    """The diagnosis as metrics; None if there is nothing to compute one from.

    Over the labelled keypoints of matched people:
      errors: {kind: {"count", "share"}}.
      keypoints: {name: {"labelled", "similarity" (mean, 0..1), "median_error_px",
        "mean_error_px", "errors": {kind: ...}}}.
    And people: {"labelled", "matched", "unmatched", "mean_oks" (of the matched)}.
    """
    matched = diagnosis.match != NOBODY
    keypoints = {}
    for k, name in enumerate(skeleton.keypoint_names):
        judged = diagnosis.kinds[:, k] != NOT_JUDGED
        errors_px, similarities = diagnosis.errors_px[judged, k], diagnosis.similarities[judged, k]
        keypoints[name] = {
            "labelled": int(judged.sum()),
            "similarity": float(similarities.mean()) if judged.any() else None,
            "median_error_px": float(np.median(errors_px)) if judged.any() else None,
            "mean_error_px": float(errors_px.mean()) if judged.any() else None,
            "errors": count_kinds(diagnosis.kinds[:, k]),
        }
    return {
        "people": {
            "labelled": len(people.ids),
            "matched": int(matched.sum()),
            "unmatched": int((~matched).sum()),
            "mean_oks": float(diagnosis.oks[matched].mean()) if matched.any() else None,
        },
        "errors": count_kinds(diagnosis.kinds),
        "keypoints": keypoints,
    }
