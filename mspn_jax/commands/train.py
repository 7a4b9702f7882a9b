"""Trains MSPN: python train.py --config configs/X.py --workdir DIR [--config.any.key=value]

Writes DIR/checkpoints, DIR/metrics.jsonl, TensorBoard's events and DIR/config.json. Started again
with the same DIR it goes on where it was, to the very same numbers.
"""

import contextlib
import json
import logging
import math
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from mspn_jax import training
from mspn_jax.commands import configured, program
from mspn_jax.data import augment, evaluation_set, pipeline
from mspn_jax.data.records import open_records
from mspn_jax.devices import replicate, shard
from mspn_jax.drawing import overlay_heatmaps
from mspn_jax.errors import UsageError
from mspn_jax.evaluation.scoring import evaluate
from mspn_jax.folding import fold
from mspn_jax.reports.training_log import TrainingReport
from mspn_jax.storage import files, paths
from mspn_jax.variables import count_parameters, initial_variables
from mspn_jax.weights import start
from mspn_jax.weights.description import Description
from mspn_jax.weights.run import Checkpoints

_CONFIG = config_flags.DEFINE_config_file("config", None, "a file of configs/")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "where the run keeps everything: a folder or gs://BUCKET/...", required=True
)
_PROFILE = flags.DEFINE_bool(
    "profile", False, "write a trace of a few steps into the workdir, for TensorBoard or Perfetto"
)
flags.mark_flag_as_required("config")

log = logging.getLogger("mspn_jax")


def main() -> None:
    config, workdir = _CONFIG.value, paths.path(_WORKDIR.value)
    description = configured.describe(config, source=f"trained on {config.data.train_split}")
    skeleton = description.new_skeleton()
    configured.check_batch(config.batch_size, config.accumulate, jax.device_count())
    dtype = configured.dtype_named(config.dtype)

    # Data. What is wrong with it is said now, before anything is compiled.
    place = {
        "root": config.data.root,
        "skeleton": skeleton,
        "first_people": config.data.first_people,
        "records_dir": config.data.records_dir,
    }
    records = open_records(split=config.data.train_split, only_with_people=True, **place)
    validation = evaluation_set.open_split(
        split=config.data.val_split, detections=config.data.detections, **place
    )
    if not validation.has_annotations:
        raise UsageError(
            f"{config.data.val_split}: has no annotations, so no AP can be taken on it"
        )
    num_people = int(records.num_people.sum())
    steps_per_epoch = math.ceil(num_people / config.batch_size)
    num_steps = config.num_steps or config.num_epochs * steps_per_epoch
    evaluate_every = config.eval.every_epochs * steps_per_epoch or num_steps

    # Model and optimiser.
    model, schedule, adam, step = configured.new_training(config, description, steps_per_epoch)
    step = training.on_all_devices(step)
    estimate = configured.new_estimate(config, description)
    sample = training.sample_heatmaps(description.new_model(dtype=dtype))

    workdir.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        check_alone = stack.enter_context(program.sole_use(workdir))
        checkpoints = Checkpoints(workdir / "checkpoints", config.checkpoint.keep_latest)
        stack.enter_context(contextlib.closing(checkpoints))

        # The start: the workdir's last checkpoint, if it has one; else a file's weights; else new.
        variables = initial_variables(model, config.seed, config.crop_hw)
        given = [path for path in config.init.values() if path]
        if len(given) > 1:
            raise UsageError(f"config.init: one start at most, not {' and '.join(given)}")
        if given and checkpoints.latest_step() is None:
            variables, taken = start.initial_from(given[0], variables)
            log.info("starting from %s: %s", given[0], taken)
        state = training.new_state(variables, adam, with_ema=config.ema_decay > 0)
        del variables  # the devices have their own soon
        log.info(
            "%s: %s parameters, %d people in %d pictures, %d steps of %d an epoch, on %d %s",
            config.variant, f"{count_parameters(state.params):,}", num_people,
            len(records.image_ids), num_steps, steps_per_epoch, jax.device_count(),
            jax.devices()[0].device_kind,
        )  # fmt: skip
        _compare_config(config, workdir)
        if checkpoints.latest_step() is not None:
            configured.check_same_keypoints(Description.read(workdir / "checkpoints"), description)
            state = checkpoints.restore(state)
            log.info("resuming at step %d, epoch %.1f", state.step, state.step / steps_per_epoch)
        first_step = int(state.step)
        figures = checkpoints.metrics(first_step) if first_step else None
        if first_step >= num_steps and figures is not None:
            log.info("%s has done its %d steps; num_epochs says how many", workdir, num_steps)
            return
        if jax.process_index() == 0:  # only now: a run that is refused leaves all as it was
            files.write_json(workdir / "config.json", _as_dict(config), indent=2)
            description.write(workdir / "checkpoints")
        state = replicate(state)

        report = TrainingReport(
            workdir, first_step=first_step, num_steps=num_steps, steps_per_epoch=steps_per_epoch,
            batch_size=config.batch_size, every_steps=config.log_every_steps,
            profile=_PROFILE.value, check=check_alone,
        )  # fmt: skip
        stack.enter_context(report)
        stop = stack.enter_context(program.stop_requests())

        def leave_evaluation(done: int) -> None:
            # Several processes have to agree: they go on to the next step, and stop after it.
            if stop.number and jax.process_count() == 1:
                stop.leave(stop.number, "left the evaluation; the same command begins it again")

        def evaluated(state: Any) -> dict[str, float]:
            """COCO's figures of a state that is saved."""
            with report.pause():
                _, figures, _ = evaluate(
                    estimate, fold(state.variables), validation, skeleton, crop_hw=config.crop_hw,
                    batch_size=config.eval.batch_size, padding=config.padding,
                    oks_nms_threshold=config.eval.oks_nms_threshold or None,
                    num_threads=config.data.num_threads, progress=leave_evaluation,
                )  # fmt: skip
                assert figures is not None
                check_alone()
                checkpoints.record(int(state.step), figures)
            return figures

        def is_evaluated(step: int) -> bool:
            return step % evaluate_every == 0 or step == num_steps

        # A run that was stopped between a step's saving and its evaluation has this still to do.
        if first_step and is_evaluated(first_step):
            report.evaluation(first_step, figures or evaluated(state))

        batches = stack.enter_context(contextlib.closing(pipeline.training_batches(
            records, skeleton, crop_hw=config.crop_hw, batch_size=config.batch_size,
            first_step=first_step, settings=augment.Settings(**config.augment),
            padding=config.padding, seed=config.seed, process=jax.process_index(),
            num_processes=jax.process_count(), num_threads=config.data.num_threads,
        )))  # fmt: skip
        for done in range(first_step + 1, num_steps + 1):
            with report.waiting_for_data():
                crops = next(batches)
            # The step itself tells every process what signal any of them got: all stop after it.
            signals = np.full(jax.local_device_count(), stop.number, np.int32)
            batch = shard({**vars(crops), "stop": signals})
            state, metrics = step(state, batch)
            finished = report.step(done, metrics, schedule)
            _check_skipped(done - 1, finished, config.max_skipped_in_a_row)
            stopped_by = int(finished.get("stop", 0))
            with report.pause():
                if done % config.checkpoint.every_steps == 0 or is_evaluated(done) or stopped_by:
                    check_alone()
                    report.sync()
                    checkpoints.save(done, state)
            if is_evaluated(done):
                report.evaluation(done, evaluated(state))
                if jax.process_index() == 0:
                    report.picture(done, "samples", overlay_heatmaps(*sample(state, crops)))
            if stopped_by:
                stop.leave(stopped_by, f"saved at step {done}; the same command goes on from there")
    log.info(
        "done. Next: mspn eval --config %s --checkpoint %s",
        config_flags.get_config_filename(flags.FLAGS["config"]), workdir,
    )  # fmt: skip


def _check_skipped(step: int, metrics: dict[str, float], limit: int) -> None:
    """Says that a step was skipped, and ends the run where too many were, one after the other."""
    in_a_row = int(metrics.get("skipped_in_a_row", 0))
    if not in_a_row:
        return
    log.warning(
        "step %d: the loss or its gradients are not finite; skipped (%d in a row, %d in all)",
        step, in_a_row, int(metrics["skipped"]),
    )  # fmt: skip
    if in_a_row >= limit:
        raise UsageError(
            f"step {step}: no finite loss and gradients for {in_a_row} steps in a row"
            " (max_skipped_in_a_row). The last checkpoint holds the weights from before them; lower"
            " optimizer.learning_rate or set clip_norm, and start again"
        )


def _compare_config(config: ConfigDict, workdir: paths.Path) -> None:
    """Says which keys differ from those the run began with; refuses what would spoil it."""
    path = workdir / "config.json"
    try:
        content = json.loads(files.read_text(path))
        if not isinstance(content, dict):
            raise ValueError("not an object")
    except FileNotFoundError:
        return
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{path}: damaged ({error}), so nothing tells the batch_size that this run began with."
            f" If it was {config.batch_size}, delete the file and run the same command again"
        ) from None
    before = _flat(content)
    now = _flat(_as_dict(config))
    if before.get("batch_size", config.batch_size) != config.batch_size:
        raise UsageError(
            f"{workdir}: its run began with batch_size {before['batch_size']}, in which its steps,"
            f" data and learning rate are counted, and cannot go on with {config.batch_size}. Less"
            " memory a device: accumulate. Another batch: another --workdir, with"
            f" config.init.checkpoint={workdir}"
        )
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            log.warning(
                "config.%s was %s when this run began, and is now %s",
                key, before.get(key), now.get(key),
            )  # fmt: skip


def _as_dict(config: ConfigDict) -> dict[str, Any]:
    return json.loads(config.to_json_best_effort())


def _flat(config: dict, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def command() -> None:
    """What `mspn train` runs."""
    program.run(main, several_processes=True)
