"""From a config to an evaluation: its split, its boxes, its metrics, and the report of the best."""

import contextlib
import logging
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from mspn_jax.data import evaluation_set
from mspn_jax.data.evaluation_set import EvaluationSet
from mspn_jax.evaluation import distances, scoring
from mspn_jax.reports import evaluation
from mspn_jax.reports.advice import advice
from mspn_jax.skeletons import Skeleton
from mspn_jax.storage import paths
from mspn_jax.storage.mirror import Mirror
from mspn_jax.weights.checkpoints import load
from mspn_jax.weights.description import Description
from mspn_jax.weights.run import Checkpoints

REPORT = "report"  # the folder in the workdir
Evaluation = Callable[[Any], tuple[list[dict[str, Any]], dict[str, float]]]

log = logging.getLogger("mspn_jax")


def open_validation(config: Any, skeleton: Skeleton) -> EvaluationSet:
    """The config's validation split, with the boxes to evaluate in it."""
    data = config.data
    validation = evaluation_set.open_split(
        root=data.root,
        split=data.val_split,
        skeleton=skeleton,
        first_people=data.first_people,
        records_dir=data.records_dir,
        detections=data.detections,
        box_area_share=config.eval.box_area_share,
    )
    distances.check(config.eval.metrics, validation.annotations, skeleton)
    return validation


def evaluate(
    config: Any,
    description: Description,
    validation: EvaluationSet,
    estimate: Callable[..., Any],
    variables: Any,
    progress: Callable[[int], Any],
) -> tuple[list[dict[str, Any]], dict[str, float] | None, str]:
    """`scoring.evaluate` by the config's settings."""
    return scoring.evaluate(
        estimate,
        variables,
        validation,
        description.new_skeleton(),
        crop_hw=description.crop_hw,
        batch_size=config.eval.batch_size,
        padding=description.padding,
        oks_nms_threshold=config.eval.oks_nms_threshold or None,
        more_metrics=config.eval.metrics,
        num_threads=config.data.num_threads,
        progress=progress,
    )


def report_on_best(
    config: ConfigDict,
    workdir: paths.Path,
    description: Description,
    validation: EvaluationSet,
    evaluate_variables: Evaluation,
) -> None:
    """Writes the report of the best checkpoint, and says what it suggests."""
    _, variables, step = load(workdir)
    results, _ = evaluate_variables(variables)
    if jax.process_index() > 0:
        return
    about: dict[str, str | int] = {
        "model": description.variant,
        "checkpoint": f"{workdir}, step {step.name}",
        "split": config.data.val_split,
    }
    skeleton, more = description.new_skeleton(), config.eval.metrics
    with Mirror(workdir / REPORT) as folder:
        metrics = evaluation.write(
            folder.local, validation, results, skeleton, about, more_metrics=more
        )
    log.info("written: %s", workdir / REPORT / "report.html")
    with contextlib.closing(Checkpoints(workdir / "checkpoints")) as checkpoints:
        last = checkpoints.latest_step() or 0
    for line in advice(metrics, best_step=int(step.name), last_step=last):
        log.info("%s", line)
