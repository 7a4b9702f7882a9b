"""From a config to an evaluation: its split, its boxes and its metrics."""

from collections.abc import Callable
from typing import Any

from mspn_jax.data import evaluation_set
from mspn_jax.data.evaluation_set import EvaluationSet
from mspn_jax.evaluation import distances, scoring
from mspn_jax.skeletons import Skeleton
from mspn_jax.weights.description import Description


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
