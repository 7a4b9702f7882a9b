"""Evaluates a checkpoint: python eval.py --config configs/X.py --checkpoint PATH [--output DIR]
    [--report DIR]

Prints COCO's ten metrics. Writes metrics.json and keypoints_results.json (COCO's submission format)
to DIR; for a split without annotations, such as test-dev, only the results. --report writes a page
of curves, kinds of error and cases, and a metrics.json with all its numbers.
"""

import contextlib
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import UInt8
from ml_collections import config_flags
from tqdm import tqdm

from mspn_jax.commands import configured, evaluating
from mspn_jax.crops import decode_picture
from mspn_jax.data.evaluation_set import EvaluationSet
from mspn_jax.data.validator import read_annotations
from mspn_jax.drawing import annotate_people, grid, write_picture
from mspn_jax.errors import UsageError
from mspn_jax.evaluation.results import mean_pose_results
from mspn_jax.evaluation.scoring import coco_metrics
from mspn_jax.folding import for_inference
from mspn_jax.reports import evaluation
from mspn_jax.skeletons import Skeleton
from mspn_jax.storage.files import write_json
from mspn_jax.storage.mirror import Mirror
from mspn_jax.weights import published
from mspn_jax.weights.origin import Origin, published_as

_CONFIG = config_flags.DEFINE_config_file("config", None, "a file of configs/")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "a published name, a workdir (its best is taken), one step's folder, or convert's output; also"
    " in gs://",
    required=True,
)
_STAGES = flags.DEFINE_integer("stages", None, "run only so many stages; by default all")
_MEAN_POSE = flags.DEFINE_bool(
    "mean_pose", False, "also score a baseline: the training split's mean pose in every box"
)
_PICTURES = flags.DEFINE_integer(
    "pictures", 0, "annotate so many pictures, in --output", lower_bound=0
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "where to write, maybe gs://...; by default metrics are only printed"
)
_REPORT = flags.DEFINE_string("report", None, "where to write report.html and its metrics.json")
flags.mark_flag_as_required("config")

COCO_VAL_PICTURES = 5_000

log = logging.getLogger("mspn_jax")


def main() -> None:
    config = _CONFIG.value
    description, variables, step = published.load(_CHECKPOINT.value)
    configured.check_described(config, description)
    model = description.new_model(dtype=jnp.dtype(config.dtype))
    model, variables = for_inference(model, variables, _STAGES.value)
    skeleton = description.new_skeleton()
    dataset = evaluating.open_validation(config, skeleton)
    training = None
    if _MEAN_POSE.value and dataset.has_annotations:
        training = read_annotations(
            root=config.data.root, split=config.data.train_split, skeleton=skeleton
        )
    if _REPORT.value and not dataset.has_annotations:
        raise UsageError(
            f"--report: {config.data.val_split} has no annotations, so there is nothing to report"
            " on; without it the results are written"
        )
    log.info(
        "%s from %s: %d %s boxes in %d pictures of %s, %s flip test",
        description.variant,
        step,
        len(dataset.boxes),
        "detected" if config.data.detections else "ground-truth",
        len(set(dataset.boxes.image_ids.tolist())),
        config.data.val_split,
        "with" if config.eval.flip_test else "without",
    )
    with contextlib.ExitStack() as stack:
        # Opening the outputs first raises an error before the work instead of after it.
        output, page = (
            stack.enter_context(Mirror(folder)) if folder and jax.process_index() == 0 else None
            for folder in (_OUTPUT.value, _REPORT.value)
        )
        estimate = configured.new_estimate(config, description, model)
        with tqdm(total=len(dataset.boxes), unit="box", disable=jax.process_index() > 0) as bar:
            results, metrics, table = evaluating.evaluate(
                config, description, dataset, estimate, variables, bar.update
            )
        if jax.process_index() > 0:
            return
        if metrics is None:
            log.info("%s has no annotations: no metrics, only results", config.data.val_split)
        print(table, end="")
        origin = Origin.read(step.parent)
        known = origin and published_as(origin.source)
        if known and metrics is not None and _STAGES.value is None:
            differs = differences(config, dataset)
            print("\n".join(known.beside(metrics, differs)))
        if output is not None:
            write_results(output, dataset, results, metrics, skeleton)
        if page is not None:
            about = {
                "model": description.variant,
                "checkpoint": f"{_CHECKPOINT.value}, step {step.name}",
                "split": config.data.val_split,
                "boxes": config.data.detections or "ground truth",
                "boxes in all": len(dataset.boxes),
                "flip test": "yes" if config.eval.flip_test else "no",
                "decoding": config.eval.decoding,
            }
            evaluation.write(
                page.local, dataset, results, skeleton, about, more_metrics=config.eval.metrics
            )
            log.info("written: %s", page.folder / "report.html")
        if training is not None and metrics is not None:
            guesses = mean_pose_results(training, dataset, skeleton)
            blind, _ = coco_metrics(dataset.annotations, guesses, skeleton)
            print(f"AP {metrics['AP']:.3f}; the mean pose in every box: {blind['AP']:.3f}")


def differences(config: Any, dataset: EvaluationSet) -> list[str]:
    """How an evaluation differs from the published ones."""
    told = {
        f"{config.data.val_split}, {len(dataset.annotations.image_ids):,} pictures": (
            len(dataset.annotations.image_ids) != COCO_VAL_PICTURES
        ),
        f"the first {config.data.first_people} people": config.data.first_people > 0,
        "ground-truth boxes": not config.data.detections,
        "no flip test": not config.eval.flip_test,
        f"decoding {config.eval.decoding}": config.eval.decoding != "quarter",
        f"NMS by OKS of {config.eval.oks_nms_threshold}": config.eval.oks_nms_threshold > 0,
    }
    return [what for what, holds in told.items() if holds]


def write_results(
    output: Mirror,
    dataset: EvaluationSet,
    results: list[dict[str, Any]],
    metrics: dict[str, float] | None,
    skeleton: Skeleton,
) -> None:
    """The files of --output."""
    write_json(output.local / "keypoints_results.json", results)
    if metrics is not None:
        write_json(output.local / "metrics.json", metrics)
    if _PICTURES.value:
        write_picture(output.local / "pictures.jpg", picture_grid(dataset, results, skeleton))
    written = sorted(path.name for path in output.local.iterdir())
    log.info("written: %s", ", ".join(str(output.folder / name) for name in written))


def picture_grid(
    dataset: EvaluationSet, results: list[dict[str, Any]], skeleton: Skeleton
) -> UInt8[np.ndarray, "H W 3"]:
    """The first pictures that have people, annotated with every prediction."""
    images = []
    records = dict.fromkeys(dataset.boxes.record_indices.tolist())
    for record_index in list(records)[: _PICTURES.value]:
        record = dataset.records.source[record_index]
        people = np.array(
            [r["keypoints"] for r in results if r["image_id"] == record["image_id"]]
        ).reshape(-1, skeleton.num_keypoints, 3)
        image = decode_picture(record["image"])
        images.append(annotate_people(image, people[..., :2], people[..., 2], skeleton))
    return grid(images)
