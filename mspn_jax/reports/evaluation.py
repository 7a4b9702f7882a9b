"""The report of an evaluation: metrics.json, and report.html, which shows these metrics."""

import itertools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool
from pycocotools.cocoeval import COCOeval

from mspn_jax.data.annotations import Annotations
from mspn_jax.data.evaluation_set import EvaluationSet
from mspn_jax.errors import DataError
from mspn_jax.evaluation import diagnosis, distances
from mspn_jax.evaluation.diagnosis import NOBODY, Diagnosis
from mspn_jax.evaluation.distances import UNDEFINED, distance_metrics
from mspn_jax.evaluation.scoring import METRICS, coco_evaluation, coco_metrics, summarize
from mspn_jax.reports import cases, charts, page
from mspn_jax.skeletons import Skeleton
from mspn_jax.storage.files import write_json

SIZE_EDGES_PX = (0, 32, 64, 96, 160, 320)  # of sqrt(area); COCO's medium begins at 32, large at 96
LABELLED_EDGES = (5 / 17, 10 / 17, 15 / 17)  # shares of the keypoints: 5, 10 and 15 of COCO's 17
GROUP_METRICS = ("AP", "AP50", "AP75", "AR")


def write(
    folder: str | os.PathLike,
    dataset: EvaluationSet,
    results: list[dict[str, Any]],
    skeleton: Skeleton,
    about: dict[str, str | int],
    *,
    more_metrics: Sequence[str] = (),
) -> dict[str, Any]:
    """Writes report.html and metrics.json, and returns the content of metrics.json.

    Args:
      results: COCO's submission format.
      about: names and values for the page's header.
    """
    if not results:
        raise DataError("nobody was found in any picture, so there is nothing to report on")
    metrics, people, judged = measure(dataset, results, skeleton)
    more = distance_metrics(more_metrics, dataset.annotations, results, skeleton)
    metrics = {"about": about, **_defined(more), **metrics}
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "metrics.json", metrics)
    pictures = {
        section: [cases.picture(dataset, results, people, judged, row, skeleton) for row in rows]
        for section, rows in cases.choose(people, judged).items()
    }
    write_page(folder / "report.html", metrics, pictures)
    return metrics


def write_page(
    path: str | os.PathLike, metrics: dict[str, Any], pictures: dict[str, list[cases.CasePicture]]
) -> None:
    """Writes report.html. All its numbers come from `metrics`, the content of metrics.json."""
    curves = metrics["precision_recall"]
    more = [name for name in metrics if distances.find(name)]
    page.write(
        path,
        "evaluation.html",
        about=metrics["about"],
        metrics=metrics,
        metric_names=[*METRICS, *more],
        more_metrics=more,
        group_metrics=GROUP_METRICS,
        chart=charts.precision_recall(curves),
        curve_colors=charts.curve_colors(len(curves["AP"])),
        pictures=pictures,
        picture_hw=cases.PICTURE_HW,
    )


def measure(
    dataset: EvaluationSet, results: list[dict[str, Any]], skeleton: Skeleton
) -> tuple[dict[str, Any], Annotations, Diagnosis]:
    """Returns all metrics of the report, the annotated people, and the diagnosis of the results.

    COCO's ten metrics are keys of the dictionary itself. An undefined metric is None.
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
        """Metrics of a group of people. Results nearest to others are left out."""
        metrics: Mapping[str, float | None] = dict.fromkeys(GROUP_METRICS)
        if mask.any():
            near = judged.nearest
            rows = np.flatnonzero((near == NOBODY) | mask[near])
            kept = np.delete(np.arange(len(annotations.ids)), people_rows[~mask])
            group = annotations.select(kept)
            metrics, _ = coco_metrics(group, [results[i] for i in rows], skeleton)
        return {"name": name, "people": int(mask.sum())} | {k: metrics[k] for k in GROUP_METRICS}

    sizes = np.digitize(np.sqrt(people.areas), SIZE_EDGES_PX[1:])
    edges = [round(share * skeleton.num_keypoints) for share in LABELLED_EDGES]
    labelled = np.digitize(people.num_labelled, edges, right=True)
    ranges = enumerate(itertools.pairwise([0, *edges, skeleton.num_keypoints]))
    metrics = {
        **_defined(ten),
        "precision_recall": _precision_recall(evaluation),
        **diagnosis.summary(people, judged, skeleton),
        "by_size": [score(name, sizes == i) for i, name in enumerate(_size_names(SIZE_EDGES_PX))],
        "by_labelled": [
            score(f"{low + 1} to {high}", labelled == i) for i, (low, high) in ranges if high > low
        ],
        **{
            section: [cases.describe(people, judged, row, skeleton) for row in rows]
            for section, rows in cases.choose(people, judged).items()
        },
    }
    return metrics, people, judged


def _defined(metrics: dict[str, float]) -> dict[str, float | None]:
    return {name: None if value == UNDEFINED else value for name, value in metrics.items()}


def _size_names(edges: Sequence[int]) -> list[str]:
    middle = [f"{low} to {high} px" for low, high in itertools.pairwise(edges[1:])]
    return [f"below {edges[1]} px", *middle, f"from {edges[-1]} px"]


def _precision_recall(evaluation: COCOeval) -> dict[str, Any]:
    """COCO's interpolated precision at its 101 recalls, and AP, for each OKS threshold."""
    precision = evaluation.eval["precision"][:, :, 0, 0, 0]  # people of all sizes
    thresholds = [f"{threshold:.2f}" for threshold in evaluation.params.iouThrs]
    return {
        "recall": evaluation.params.recThrs.tolist(),
        "precision": dict(zip(thresholds, precision.tolist(), strict=True)),
        "AP": dict(zip(thresholds, precision.mean(1).tolist(), strict=True)),
    }
