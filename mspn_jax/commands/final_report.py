"""The report at the end of a training run, and what it suggests."""

import contextlib
import logging
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from mspn_jax.data.evaluation_set import EvaluationSet
from mspn_jax.reports import evaluation
from mspn_jax.reports.advice import advice
from mspn_jax.storage import mirror, paths
from mspn_jax.weights.checkpoints import load
from mspn_jax.weights.description import Description
from mspn_jax.weights.run import Checkpoints

REPORT = "report"  # the folder in the workdir
Evaluation = Callable[[Any], tuple[list[dict[str, Any]], dict[str, float]]]

log = logging.getLogger("mspn_jax")


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
    with mirror.Mirror(workdir / REPORT) as folder:
        metrics = evaluation.write(
            folder.local, validation, results, skeleton, about, more_metrics=more
        )
    log.info("written: %s", workdir / REPORT / "report.html")
    with contextlib.closing(Checkpoints(workdir / "checkpoints")) as checkpoints:
        last = checkpoints.latest_step() or 0
    for line in advice(metrics, best_step=int(step.name), last_step=last):
        log.info("%s", line)
