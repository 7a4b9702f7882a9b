"""The report of an evaluation: one page to look at, and metrics.json with every figure in it."""

import itertools
import os
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Bool

from mspn_jax.data.annotations import Annotations
from mspn_jax.data.evaluation_set import EvaluationSet
from mspn_jax.errors import DataError
from mspn_jax.evaluation import diagnosis
from mspn_jax.evaluation.diagnosis import KINDS, NOBODY, Diagnosis
from mspn_jax.evaluation.scoring import coco_evaluation, coco_metrics, summarize
from mspn_jax.reports import page
from mspn_jax.reports.evaluation_page import parts, picture_of_case
from mspn_jax.reports.page import Figures
from mspn_jax.skeletons import Skeleton
from mspn_jax.storage.files import write_json

SIZE_EDGES_PX = (0, 32, 64, 96, 160, 320)  # of sqrt(area); COCO's medium begins at 32, large at 96
LABELLED_EDGES = (5 / 17, 10 / 17, 15 / 17)  # of the keypoints: 5, 10 and 15 of COCO's 17
NUM_CASES, NUM_UNMATCHED = 10, 5  # of the worst and of the best each; of those without a match


def write(
    folder: str | os.PathLike,
    dataset: EvaluationSet,
    results: list[dict[str, Any]],
    skeleton: Skeleton,
    about: dict[str, str | int],
) -> None:
    """Writes report.html and metrics.json.

    Args:
      results: COCO's submission format.
      about: what was evaluated, in the words to show.

    Raises:
      DataError: there is nothing to report on.
    """
    if not results:
        raise DataError("nobody was found in any picture, so there is nothing to report on")
    figures, people, judged = measure(dataset, results, skeleton)
    figures = {"about": about, **figures}
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "metrics.json", figures)
    pictures = {
        name: [
            picture_of_case(dataset, results, people, judged, row, skeleton, f"{name}/{i}", figures)
            for i, row in enumerate(rows)
        ]
        for name, rows in cases(people, judged).items()
    }
    page.write(folder / "report.html", "Evaluation report", parts(Figures(figures), pictures))


def measure(
    dataset: EvaluationSet, results: list[dict[str, Any]], skeleton: Skeleton
) -> tuple[dict[str, Any], Annotations, Diagnosis]:
    """All figures of the report, as they are written to metrics.json, and what they are of.

    COCO's ten stand at the top by their names; None is written where COCO says -1 or where there
    is nothing to take a figure of.

    Raises:
      DataError: nobody in the split has labelled keypoints.
    """
    annotations = dataset.annotations
    evaluation = coco_evaluation(annotations, results, skeleton)
    ten, _ = summarize(evaluation)
    people = annotations.people()
    if not len(people.ids):
        raise DataError(f"{annotations.file}: nobody in it has labelled keypoints to report on")
    judged = diagnosis.diagnose(results, people, skeleton)

    people_rows = np.flatnonzero(annotations.is_person)

    def score(name: str, mask: Bool[np.ndarray, "M"]) -> dict[str, Any]:
        count = {"name": name, "people": int(mask.sum())}
        if not mask.any():
            return count | dict.fromkeys(("AP", "AP50", "AP75", "AR"))
        near = judged.nearest
        rows = np.flatnonzero((near == NOBODY) | mask[near])
        truth = annotations.select(np.delete(np.arange(len(annotations.ids)), people_rows[~mask]))
        metrics, _ = coco_metrics(truth, [results[i] for i in rows], skeleton)
        return count | {key: metrics[key] for key in ("AP", "AP50", "AP75", "AR")}

    sizes = np.digitize(np.sqrt(people.areas), SIZE_EDGES_PX[1:])
    edges = [round(share * skeleton.num_keypoints) for share in LABELLED_EDGES]
    quarters = np.digitize(people.num_labelled, edges, right=True)
    bounds = [0, *edges, skeleton.num_keypoints]
    figures = {
        **{name: None if value == -1 else value for name, value in ten.items()},
        "precision_recall": _precision_recall(evaluation),
        **diagnosis.summary(judged, people, skeleton),
        "by_size": [
            score(name, sizes == i) for i, name in enumerate(_names_of_sizes(SIZE_EDGES_PX))
        ],
        "by_labelled": [
            score(f"{low + 1} to {high}", quarters == i)
            for i, (low, high) in enumerate(itertools.pairwise(bounds))
            if high > low
        ],
        **{
            name: [_case(people, judged, row, skeleton) for row in rows]
            for name, rows in cases(people, judged).items()
        },
    }
    return figures, people, judged


def _names_of_sizes(edges) -> list[str]:
    middle = [f"{low} to {high} px" for low, high in itertools.pairwise(edges[1:])]
    return [f"below {edges[1]} px", *middle, f"from {edges[-1]} px"]


def _precision_recall(evaluation) -> dict[str, Any]:
    """COCO's interpolated precision at its 101 recalls, and AP, for each OKS threshold."""
    precision = evaluation.eval["precision"][:, :, 0, 0, 0]  # people of all sizes
    names = [f"{threshold:.2f}" for threshold in evaluation.params.iouThrs]
    return {
        "recall": evaluation.params.recThrs.tolist(),
        "precision": dict(zip(names, precision.tolist(), strict=True)),
        "AP": dict(zip(names, precision.mean(1).tolist(), strict=True)),
    }


def cases(people: Annotations, judged: Diagnosis) -> dict[str, list[int]]:
    """Which people to show, those with few labelled keypoints left out: {section: rows}.

    Of those without a match and of the worst the ones with the least OKS come first, of the best
    the ones with the most. No one is among both the worst and the best.
    """
    few = round(LABELLED_EDGES[0] * people.visibility.shape[1])
    telling = people.num_labelled > few
    if not telling.any():
        telling[:] = True
    order = np.argsort(judged.oks, kind="stable")
    order = order[telling[order]]
    is_matched = judged.match[order] != NOBODY
    matched = order[is_matched]
    half = (len(matched) + 1) // 2
    return {
        "unmatched": order[~is_matched][:NUM_UNMATCHED].tolist(),
        "worst": matched[:half][:NUM_CASES].tolist(),
        "best": matched[half:][::-1][:NUM_CASES].tolist(),
    }


def _case(people: Annotations, judged: Diagnosis, row: int, skeleton: Skeleton) -> dict[str, Any]:
    labelled = np.flatnonzero(people.visibility[row] > 0)
    was_found = judged.closest[row] != NOBODY
    return {
        "image_id": int(people.image_ids[people.image_rows[row]]),
        "annotation_id": int(people.ids[row]),
        "matched": bool(judged.match[row] != NOBODY),
        "OKS": float(judged.oks[row]) if was_found else None,
        "labelled": len(labelled),
        "errors": {kind: int((judged.kinds[row] == i).sum()) for i, kind in enumerate(KINDS)},
        "keypoints": {
            skeleton.keypoint_names[k]: {
                "kind": KINDS[judged.kinds[row, k]] if judged.kinds[row, k] >= 0 else None,
                "error_px": float(judged.errors_px[row, k]) if was_found else None,
            }
            for k in labelled
        },
    }
