"""Trains MSPN: python train.py --config configs/X.py --workdir DIR [--config.any.key=value]

Writes DIR/checkpoints, DIR/metrics.jsonl, TensorBoard's events and DIR/config.json. Started again
with the same DIR it goes on where it was, to the very same numbers.
"""

import json
import logging
import math
import pathlib
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from mspn_jax import convert, inference, optimizer, program, training
from mspn_jax.checkpoints import Checkpoints, Description
from mspn_jax.data import augment, evaluation_set, pipeline
from mspn_jax.data.records import open_records
from mspn_jax.evaluation import evaluate
from mspn_jax.model import count_parameters, initial_variables
from mspn_jax.program import UsageError
from mspn_jax.reports import TrainingReport

_CONFIG = config_flags.DEFINE_config_file("config", None, "a file of configs/")
_WORKDIR = flags.DEFINE_string("workdir", None, "where the run keeps everything", required=True)
flags.mark_flag_as_required("config")

log = logging.getLogger("mspn_jax")


def main() -> None:
    config, workdir = _CONFIG.value, pathlib.Path(_WORKDIR.value)
    skeleton = program.skeleton_named(config.skeleton)
    program.check_batch(config.batch_size)
    program.check_crop(config.crop_hw)
    dtype = program.dtype_named(config.dtype)

    # Data. What is wrong with it is said now, before anything is compiled.
    records = open_records(
        config.data.root, config.data.train_split, skeleton, config.data.records_dir,
        config.data.first_people, only_with_people=True,
    )  # fmt: skip
    validation = evaluation_set.open_split(
        config.data.root, config.data.val_split, skeleton, config.data.detections,
        config.data.first_people, config.data.records_dir,
    )  # fmt: skip
    if not validation.has_annotations:
        raise UsageError(
            f"{config.data.val_split}: has no annotations, so no AP can be taken on it"
        )
    num_people = int(records.num_people.sum())
    steps_per_epoch = math.ceil(num_people / config.batch_size)
    num_steps = config.num_steps or config.num_epochs * steps_per_epoch

    # Model and optimiser.
    description = Description(
        variant=config.variant,
        model=config.model.to_dict() | {"num_keypoints": skeleton.num_keypoints},
        skeleton=skeleton,
        crop_hw=tuple(config.crop_hw),
        padding=config.padding,
        source=f"trained on {config.data.train_split}",
    )
    model = description.new_model(
        dtype=dtype,
        axis_name=training.AXIS if config.sync_batch_norm else None,
    )
    schedule = optimizer.learning_rate_schedule(
        batch_size=config.batch_size, steps_per_epoch=steps_per_epoch, **config.optimizer
    )
    adam = optimizer.adam(schedule)

    # The start: the workdir's last checkpoint, if it has one; else a file's weights; else new ones.
    workdir.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(workdir / "checkpoints", config.checkpoint.keep_latest)
    variables = initial_variables(model, config.seed, config.crop_hw)
    given = [path for path in config.init.values() if path]
    if len(given) > 1:
        raise UsageError(f"config.init: one start at most, not {' and '.join(given)}")
    if given and checkpoints.latest_step() is None:
        variables, taken = convert.initial_from(given[0], variables)
        log.info("starting from %s: %s", given[0], taken)
    state = training.new_state(variables, adam)
    log.info(
        "%s: %s parameters, %d people in %d pictures, %d steps of %d an epoch, on %d %s",
        config.variant, f"{count_parameters(state.params):,}", num_people,
        len(records.image_ids), num_steps, steps_per_epoch, jax.device_count(),
        jax.devices()[0].device_kind,
    )  # fmt: skip
    if checkpoints.latest_step() is not None:
        program.check_same_keypoints(Description.read(workdir / "checkpoints"), description)
        state = checkpoints.restore(state)
        log.info("resuming at step %d, epoch %.1f", state.step, state.step / steps_per_epoch)
    first_step = int(state.step)
    if first_step >= num_steps:
        log.info("%s has done its %d steps; num_epochs says how many", workdir, num_steps)
        return
    if jax.process_index() == 0:  # only now: a run that is refused leaves the workdir as it was
        _keep_config(config, workdir)
        description.write(workdir / "checkpoints")

    step = training.on_all_devices(training.train_step(model, adam, config.num_hard_keypoints))
    estimate = inference.estimate_on_devices(
        description.new_model(dtype=dtype),
        skeleton.flip_permutation,
        config.eval.flip_test,
    )
    batches = pipeline.training_batches(
        records, skeleton, crop_hw=config.crop_hw, batch_size=config.batch_size,
        first_step=first_step, settings=augment.Settings(**config.augment), padding=config.padding,
        seed=config.seed, process=jax.process_index(), num_processes=jax.process_count(),
        num_threads=config.data.num_threads,
    )  # fmt: skip
    evaluate_every = config.eval.every_epochs * steps_per_epoch or num_steps

    state = inference.to_devices(state)
    report = TrainingReport(
        workdir, first_step=first_step, num_steps=num_steps, steps_per_epoch=steps_per_epoch,
        batch_size=config.batch_size, every_steps=config.log_every_steps,
    )  # fmt: skip
    with report, program.stop_requests() as stop:
        for done in range(first_step + 1, num_steps + 1):
            with report.waiting_for_data():
                batch = training.on_this_process(next(batches))
            state, metrics = step(state, batch)
            report.step(done, metrics, schedule)
            is_last = done == num_steps or stop.requested
            with report.pause():
                if done % evaluate_every == 0 or done == num_steps:
                    variables = {"params": state.params, "batch_stats": state.batch_stats}
                    _, figures, _ = evaluate(
                        estimate, variables, validation, skeleton, crop_hw=config.crop_hw,
                        batch_size=config.eval.batch_size, padding=config.padding,
                        oks_nms_threshold=config.eval.oks_nms_threshold or None,
                        num_threads=config.data.num_threads,
                    )  # fmt: skip
                    assert figures is not None
                    report.write(done, figures)
                    log.info("step %d: %s", done, _brief(figures))
                    checkpoints.save(done, state, figures)
                elif done % config.checkpoint.every_steps == 0 or is_last:
                    checkpoints.save(done, state)
            if is_last:
                break
    batches.close()
    checkpoints.close()
    if stop.requested:
        stop.leave(f"saved at step {done}; the same command goes on from there")
    log.info(
        "done. Next: python eval.py --config %s --checkpoint %s",
        config_flags.get_config_filename(flags.FLAGS["config"]), workdir,
    )  # fmt: skip


def _brief(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in figures.items())


def _keep_config(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Keeps the config in the workdir, and says which keys differ from the one kept there."""
    path = workdir / "config.json"
    now = json.loads(config.to_json_best_effort())
    if path.exists():
        before, after = _flat(json.loads(path.read_text())), _flat(now)
        for key in sorted(before.keys() | after.keys()):
            if before.get(key) != after.get(key):
                log.warning(
                    "config.%s was %s when this run began, and is now %s",
                    key, before.get(key), after.get(key),
                )  # fmt: skip
    path.write_text(json.dumps(now, indent=2) + "\n")


def _flat(config: dict, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


if __name__ == "__main__":
    program.run(main)
