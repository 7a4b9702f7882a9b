"""PCK, PCKh, AUC, EPE and RMSE against loops over people and keypoints."""

import dataclasses
import math
import pathlib
import re

import numpy as np
import pytest

from mspn_jax.data.annotations import Annotations
from mspn_jax.errors import DataError, UsageError
from mspn_jax.evaluation import distances
from mspn_jax.evaluation.distances import NOBODY, UNDEFINED, distance_metrics
from mspn_jax.skeletons import MPII

NAMES = MPII.keypoint_names
ALL = (
    "PCK@0.05",
    "PCK@0.2",
    "PCKh@0.5",
    "PCKh@0.3",
    "PCK@0.1/pelvis",
    "PCK@0.1/knee",
    "PCKh@0.4/wrist",
    "AUC",
    "EPE",
    "RMSE",
)


def split(people_per_picture=(1, 3, 0, 2), seed=0) -> Annotations:
    rng = np.random.default_rng(seed)
    image_rows = np.repeat(np.arange(len(people_per_picture)), people_per_picture)
    count = len(image_rows)
    top_left = np.stack([70.0 * np.arange(count), rng.uniform(0, 60, count)], -1)
    size = rng.uniform(40, 60, (count, 2))
    inside = rng.uniform(0, 1, (count, 16, 2))
    return Annotations(
        file=pathlib.Path("made_up.json"),
        category_id=1,
        image_ids=np.arange(len(people_per_picture)) + 7,
        file_names=tuple(f"{i}.jpg" for i in range(len(people_per_picture))),
        image_hw=np.full((len(people_per_picture), 2), 1000),
        ids=np.arange(count) + 100,
        image_rows=image_rows,
        boxes_xywh=np.concatenate([top_left, size], -1),
        keypoints_image_xy=top_left[:, None] + inside * size[:, None],
        visibility=rng.choice([0.0, 1.0, 2.0], (count, 16)),
        areas=size.prod(-1),
        head_sizes=rng.uniform(8, 14, count),
        is_crowd=np.zeros(count, bool),
        is_person=np.ones(count, bool),
    )


def results_of(annotations: Annotations, seed=1, spread=6.0) -> list[dict]:
    """A result for each person, in random order."""
    rng = np.random.default_rng(seed)
    results = []
    for row in rng.permutation(len(annotations.ids)):
        off = rng.normal(0, spread, (16, 2))
        triples = np.column_stack([annotations.keypoints_image_xy[row] + off, np.ones(16)])
        results.append(
            {
                "image_id": int(annotations.image_ids[annotations.image_rows[row]]),
                "keypoints": triples.ravel().tolist(),
                "bbox": (annotations.boxes_xywh[row] + rng.uniform(-3, 3, 4)).tolist(),
                "score": 1.0,
                "row": int(row),
            }
        )
    return results


def oracle(name: str, annotations: Annotations, results: list[dict]) -> float:
    """The metric by plain loops; every person has a result, which says whose it is."""
    found = {r["row"]: np.reshape(r["keypoints"], (16, 3))[:, :2] for r in results}
    near, far, labelled = [0] * 16, [], [0] * 16
    name, _, joint = name.partition("/")
    at = float(name.partition("@")[2] or 0)
    for row in range(len(annotations.ids)):
        for k in range(16):
            if annotations.visibility[row, k] == 0:
                continue
            dx, dy = found[row][k] - annotations.keypoints_image_xy[row, k]
            distance = math.hypot(dx, dy)
            far.append(distance)
            labelled[k] += 1
            if name.startswith("PCKh"):
                near[k] += distance / annotations.head_sizes[row] <= at
            elif name == "AUC":
                near[k] += sum(distance / 30 < i / 20 for i in range(20)) / 20
            else:
                near[k] += distance < at * max(annotations.boxes_xywh[row, 2:])
    if name == "EPE":
        return sum(far) / len(far)
    if name == "RMSE":
        return math.sqrt(sum(d * d for d in far) / len(far))
    if joint:  # MPII's table: the mean of left and right
        sides = [k for k in range(16) if re.fullmatch(f"((left|right)_)?{joint}", NAMES[k])]
        return sum(near[k] / labelled[k] for k in sides) / len(sides)
    if name.startswith("PCKh"):  # MPII: every keypoint's PCKh, weighted with its count
        counted = [k for k in range(16) if k not in (6, 7)]
        total = sum(labelled[k] for k in counted)
        return sum(near[k] / labelled[k] * labelled[k] / total for k in counted if labelled[k])
    shares = [n / count for n, count in zip(near, labelled) if count]
    return sum(shares) / len(shares)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ALL)
def test_a_metric_equals_a_loop_over_people_and_keypoints(name, seed):
    annotations = split(seed=seed)
    results = results_of(annotations, seed + 10)
    expected = oracle(name, annotations, results)
    assert name in ("EPE", "RMSE") or "/" in name or 0.01 < expected < 0.999
    (value,) = distance_metrics([name], annotations, results, MPII).values()
    assert value == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ["PCK@0.2", "PCKh@0.5", "AUC"])
def test_who_has_no_result_counts_as_wrong(name):
    annotations = split((1, 1))
    annotations = dataclasses.replace(annotations, visibility=np.full((2, 16), 2.0))
    results = results_of(annotations, spread=0.0)
    whole = distance_metrics([name], annotations, results, MPII)[name]
    half = distance_metrics([name], annotations, results[:1], MPII)[name]
    assert whole == pytest.approx(0.95 if name == "AUC" else 1)  # one threshold of AUC is 0
    assert half == pytest.approx(whole / 2)
    assert distance_metrics([name], annotations, [], MPII)[name] == 0


def test_pixels_are_of_the_found():
    annotations = split((1, 1))
    results = results_of(annotations)[:1]
    row = results[0]["row"]
    alone = annotations.select([row])
    for name in ("EPE", "RMSE"):
        value = distance_metrics([name], annotations, results, MPII)[name]
        assert value == pytest.approx(oracle(name, alone, [results[0] | {"row": 0}]))
        assert distance_metrics([name], annotations, [], MPII)[name] == UNDEFINED


def test_crowds_do_not_count():
    annotations = split()
    results = results_of(annotations)
    before = distance_metrics(ALL, annotations, results, MPII)
    crowd = annotations.select([0, *range(len(annotations.ids))])
    is_person = np.arange(len(crowd.ids)) > 0
    crowd = dataclasses.replace(crowd, is_person=is_person, is_crowd=~is_person)
    assert distance_metrics(ALL, crowd, results, MPII) == before


def test_a_result_goes_to_the_person_whose_box_it_overlaps_most():
    people = split((3,))
    people.boxes_xywh[:] = [[0, 0, 10, 10], [0, 0, 10, 10], [5, 0, 10, 10]]
    image_id = int(people.image_ids[0])

    def match(*boxes):
        results = [{"image_id": image_id, "bbox": list(box)} for box in boxes]
        return distances.match_by_box(people, results).tolist()

    assert match([5, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]) == [1, 2, 0]
    assert match([1, 0, 10, 10], [0, 0, 10, 10]) == [1, 0, NOBODY]
    assert match([100, 100, 10, 10]) == [NOBODY] * 3
    elsewhere = [{"image_id": image_id + 1, "bbox": [0, 0, 10, 10]}]
    assert distances.match_by_box(people, elsewhere).tolist() == [NOBODY] * 3


@pytest.mark.parametrize(
    "name", ["PCK", "PCK@", "PCK@0", "PCK@-1", "PCK@0.2.1", "pck@0.2", "AP", "AUC/knee", "PCK@0.2/"]
)
def test_an_unknown_metric_is_refused(name):
    with pytest.raises(UsageError, match="no metric"):
        distances.check([name], split(), MPII)


def test_pckh_without_head_sizes_is_refused():
    annotations = split()
    annotations.head_sizes[2] = 0
    distances.check(["PCK@0.2"], annotations, MPII)
    with pytest.raises(DataError, match="annotation 102: no head_size"):
        distances.check(["PCKh@0.5"], annotations, MPII)


def test_a_joint_that_the_skeleton_lacks_is_refused():
    with pytest.raises(UsageError, match="5/tail': skeleton 'mpii' has no tail, on neither"):
        distances.check(["PCKh@0.5/tail"], split(), MPII)
