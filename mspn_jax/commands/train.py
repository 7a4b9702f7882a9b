"""Trains MSPN: python train.py --config configs/X.py --workdir DIR [--config.any.key=value]

Writes DIR/checkpoints, DIR/metrics.jsonl, TensorBoard events and DIR/config.json. After an
interruption the same command resumes; results are bit-identical.
"""

import contextlib
import dataclasses
import logging
import pathlib
from collections.abc import Callable
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from mspn_jax import training
from mspn_jax.commands import configured, evaluating, program, stopping
from mspn_jax.commands.evaluating import REPORT, Evaluation, report_on_best
from mspn_jax.commands.steps import Steps
from mspn_jax.commands.training_data import new_batches, open_training
from mspn_jax.data.coco import DataSet, parsed_once
from mspn_jax.data.evaluation_set import EvaluationSet
from mspn_jax.data.mixture import Mixture
from mspn_jax.data.records import Records
from mspn_jax.devices import replicate, shard
from mspn_jax.drawing import overlay_heatmaps
from mspn_jax.errors import UsageError
from mspn_jax.folding import fold
from mspn_jax.reports import service_log
from mspn_jax.reports.service_log import ServiceLog
from mspn_jax.reports.training_log import TrainingReport
from mspn_jax.storage import files, paths
from mspn_jax.training import Metrics, TrainState
from mspn_jax.variables import count_parameters, initial_variables
from mspn_jax.weights.description import Description
from mspn_jax.weights.run import Checkpoints
from mspn_jax.weights.start import initial_from

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
    if isinstance(workdir, pathlib.Path) and workdir.is_file():
        raise UsageError(f"--workdir={workdir}: is a file; a folder is needed")
    if config.log in service_log.SERVICES:
        service_log.check_installed(config.log)
    with parsed_once():
        description = configured.describe(config, source=source_of(config))
        configured.check_batch(config.batch_size, config.accumulate, jax.device_count())
        # Errors in the data are raised before anything is compiled.
        data, validation = open_data(config, description)
    steps = Steps.of(config, data.people_per_epoch)
    network = configured.new_training(
        config, description, steps_per_epoch=steps.per_epoch, num_steps=steps.last
    )
    train = training.on_all_devices(stopping.with_signals(network.step))
    examples = training.example_heatmaps(description.new_model(dtype=network.model.dtype))

    workdir.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        check_alone = stack.enter_context(program.sole_use(workdir))
        checkpoints = Checkpoints(workdir / "checkpoints", config.checkpoint.keep_latest)
        stack.enter_context(contextlib.closing(checkpoints))
        configured.check_resumable(config, workdir)
        state = start(config, description, network, checkpoints)
        first_step = int(state.step)
        log_start(config, state, data.records, steps)
        evaluated = checkpoints.metrics(first_step) if first_step else None
        if first_step >= steps.last and evaluated is not None:
            log.info("%s has done its %d steps; num_epochs says how many", workdir, steps.last)
        if evaluated is not None and steps.is_over(first_step, checkpoints.best_step()):
            if config.eval.report and not (workdir / REPORT).exists():  # it was stopped before
                stop = stack.enter_context(stopping.stop_requests(lambda: True))
                evaluate = new_evaluation(config, description, validation, stop)
                report_on_best(config, workdir, description, validation, evaluate)
            return
        if jax.process_index() == 0:  # A run that is refused has changed no file.
            files.write_json(workdir / "config.json", configured.as_dict(config), indent=2)
            description.write(workdir / "checkpoints")
        state = replicate(state)

        report = stack.enter_context(new_report(config, workdir, first_step, steps, check_alone))
        started = first_step  # the last step that the devices were given

        def all_is_saved() -> bool:
            return started == first_step or checkpoints.has(started)

        stop = stack.enter_context(stopping.stop_requests(all_is_saved))
        evaluate = new_evaluation(config, description, validation, stop)
        run = Run(check_alone, checkpoints, report, evaluate)
        last = steps.last
        if evaluated is not None:
            report.evaluation(first_step, evaluated)
        elif first_step and steps.is_evaluated(first_step):  # it was stopped after saving
            run.evaluate(first_step, state)
            last = first_step if steps.is_over(first_step, checkpoints.best_step()) else last

        batches = stack.enter_context(
            contextlib.closing(new_batches(config, data, description.new_skeleton(), first_step))
        )
        in_flight: Any = ({}, 0)  # metrics and stop signal of the previous step
        for done in range(first_step + 1, last + 1):
            with report.waiting_for_data():
                crops = next(batches)
            batch = shard({**vars(crops), "signal": stopping.signals(stop)})
            state, metrics = train(state, batch)
            started = done
            signal = metrics.pop("signal")
            # Blocks on the previous step, so that one step stays in flight.
            (finished, stopped_by), in_flight = jax.device_get(in_flight), (metrics, signal)
            report.step(done, metrics, network.schedule)
            check_skipped(done - 1, finished, config.max_skipped_in_a_row)
            if steps.is_saved(done) or stopped_by:
                run.save(done, state)
            if steps.is_evaluated(done):
                run.evaluate(done, state)
                if jax.process_index() == 0:
                    report.picture(done, "samples", overlay_heatmaps(*examples(state, crops)))
            if stopped_by:
                message = f"saved at step {done}; the same command goes on from there"
                stop.leave(int(stopped_by), message)
            if steps.is_evaluated(done) and steps.is_over(done, checkpoints.best_step()):
                break
        if config.eval.report:
            report_on_best(config, workdir, description, validation, evaluate)
    log.info(
        "done. Next: mspn eval --config %s --checkpoint %s",
        config_flags.get_config_filename(flags.FLAGS["config"]),
        workdir,
    )


def source_of(config: ConfigDict) -> str:
    splits = [config.data.train_split, *(DataSet.parse(text).split for text in config.data.also)]
    return f"trained on {' and '.join(dict.fromkeys(splits))}"


def open_data(config: ConfigDict, description: Description) -> tuple[Mixture, EvaluationSet]:
    """What is trained on, and the validation set."""
    skeleton = description.new_skeleton()
    training = open_training(config, skeleton)
    validation = evaluating.open_validation(config, skeleton)
    if not validation.has_annotations:
        split = config.data.val_split
        raise UsageError(f"{split}: has no annotations, so its AP cannot be computed")
    return training, validation


def start(
    config: ConfigDict,
    description: Description,
    network: configured.Training,
    checkpoints: Checkpoints,
) -> TrainState:
    """The state to start from:

    1. the workdir's last checkpoint;
    2. without one, the weights that `config.init` names;
    3. without those, new weights.
    """
    given = [path for path in config.init.values() if path]
    if len(given) > 1:
        raise UsageError(f"config.init: one start at most, not {' and '.join(given)}")
    variables = initial_variables(network.model, config.seed, config.crop_hw)
    is_resumed = checkpoints.latest_step() is not None
    if given and not is_resumed:
        variables, taken = initial_from(given[0], variables)
        log.info("starting from %s: %s", given[0], taken)
    state = training.new_state(variables, network.optimizer, with_ema=config.ema_decay > 0)
    if not is_resumed:
        return state
    configured.check_same_keypoints(Description.read(checkpoints.folder), description)
    return checkpoints.restore(state)


def log_start(config: ConfigDict, state: TrainState, records: Records, steps: Steps) -> None:
    log.info(
        "%s: %s parameters, %d people in %d pictures, %d steps of %d an epoch, on %d %s",
        config.variant,
        f"{count_parameters(state.params):,}",
        records.num_people.sum(),
        len(records.image_ids),
        steps.last,
        steps.per_epoch,
        jax.device_count(),
        jax.devices()[0].device_kind,
    )
    configured.warn_of_schedule(config, steps.per_epoch, steps.last)
    if state.step:
        log.info("resuming at step %d, epoch %.1f", state.step, state.step / steps.per_epoch)


def new_report(
    config: ConfigDict, workdir: paths.Path, first_step: int, steps: Steps, check: Callable
) -> TrainingReport:
    return TrainingReport(
        workdir,
        first_step=first_step,
        num_steps=steps.last,
        steps_per_epoch=steps.per_epoch,
        batch_size=config.batch_size,
        every_steps=config.log_every_steps,
        profile=_PROFILE.value,
        check=check,
        service=new_service_log(config, workdir),
    )


def new_service_log(config: ConfigDict, workdir: paths.Path) -> ServiceLog | None:
    """The run in the service that `config.log` names. A resumed run goes on there."""
    if config.log not in service_log.SERVICES or jax.process_index() > 0:
        return None
    return ServiceLog(
        config.log,
        run_id=service_log.run_id_of(workdir),
        name=workdir.name,
        config=configured.as_dict(config),
    )


def new_evaluation(
    config: ConfigDict,
    description: Description,
    validation: EvaluationSet,
    stop: stopping.StopRequest,
) -> Evaluation:
    """A function variables -> results, metrics: COCO's ten and those of `config.eval.metrics`."""
    estimate = configured.new_estimate(config, description)

    def leave_if_asked(done: int) -> None:
        # Several processes must agree, so they stop after the next step.
        if stop.number and jax.process_count() == 1:
            stop.leave(stop.number, "left the evaluation; the same command begins it again")

    def evaluate_variables(variables: Any) -> tuple[list[dict[str, Any]], dict[str, float]]:
        results, metrics, _ = evaluating.evaluate(
            config, description, validation, estimate, fold(variables), leave_if_asked
        )
        assert metrics is not None, "the validation split has annotations"
        return results, metrics

    return evaluate_variables


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run does between steps. Neither counts as training time."""

    check_alone: Callable[[], None]  # raises if another run has taken over the workdir
    checkpoints: Checkpoints
    report: TrainingReport
    evaluate_variables: Evaluation

    def save(self, step: int, state: TrainState) -> None:
        with self.report.pause():
            self.check_alone()
            self.report.sync()
            self.checkpoints.save(step, state)

    def evaluate(self, step: int, state: TrainState) -> None:
        """Evaluates a saved state, and keeps the metrics beside its checkpoint."""
        with self.report.pause():
            _, metrics = self.evaluate_variables(state.variables)
            self.check_alone()
            self.checkpoints.record(step, metrics)
        self.report.evaluation(step, metrics)


def check_skipped(step: int, metrics: Metrics, limit: int) -> None:
    """Logs that a step was skipped. Raises UsageError if `limit` steps in a row were."""
    in_a_row = int(metrics.get("skipped_in_a_row", 0))
    if not in_a_row:
        return
    log.warning(
        "step %d: the loss or its gradients are not finite; skipped (%d in a row, %d in total)",
        step,
        in_a_row,
        int(metrics["skipped"]),
    )
    if in_a_row >= limit:
        raise UsageError(
            f"step {step}: no finite loss and gradients for {in_a_row} steps in a row"
            " (max_skipped_in_a_row). The last checkpoint holds the weights from before them; lower"
            " optimizer.learning_rate or set clip_norm, and start again"
        )
