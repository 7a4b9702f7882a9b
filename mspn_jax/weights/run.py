"""The checkpoints of a training run: saved in the background, evaluated, resumed from."""

import contextlib
import dataclasses
import itertools
import logging
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from mspn_jax.errors import CheckpointError, DamagedCheckpointError
from mspn_jax.storage import files, paths
from mspn_jax.weights import checkpoints

log = logging.getLogger(__name__)


class Checkpoints:
    """A folder of a run's checkpoints. It keeps the latest few and the one with the best AP.

    Saving runs in the background; a step counts once it is whole.
    """

    def __init__(self, folder: str | os.PathLike, keep_latest: int = 2):
        self.folder = paths.absolute(folder)
        self._keep_latest = keep_latest
        self._saving: int | None = None
        self._has_failed = False
        self._manager = self._new_manager()

    def _new_manager(self) -> ocp.CheckpointManager:
        with paths.named(self.folder):
            return ocp.CheckpointManager(
                self.folder,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=_LatestAndBest(self.folder, self._keep_latest),
                    cleanup_tmp_directories=True,
                ),
                item_names=(checkpoints.VARIABLES, checkpoints.TRAINING, checkpoints.CHECKSUMS),
            )

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def has(self, step: int) -> bool:
        """Whether a step is saved and whole."""
        folder = self.folder / str(step)
        return folder.exists() and checkpoints.is_whole(folder)

    def save(self, step: int, state: Any) -> None:
        """Starts to save a training state, once the previous one is saved.

        Orbax gets NumPy arrays: with several hosts it refuses arrays that are local to one.
        """
        if step == self.latest_step():
            return
        self.wait()
        variables, training = _split(jax.device_get(state))
        items = {checkpoints.VARIABLES: variables, checkpoints.TRAINING: training}
        sums = checkpoints.checksums(items)
        self._saving = step
        with self._failure_named():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    checksums=ocp.args.JsonSave(sums),
                    **{name: ocp.args.StandardSave(tree) for name, tree in items.items()},
                ),
            )

    def record(self, step: int, metrics: dict[str, float]) -> None:
        """Keeps the metrics of an evaluation with the step that was saved before it."""
        self.wait()
        if jax.process_index() == 0:
            files.write_json(self.folder / str(step) / checkpoints.EVALUATION, metrics)

    def metrics(self, step: int) -> dict[str, float] | None:
        """What `record` kept with a step; None if it was not evaluated."""
        return checkpoints.metrics_of(self.folder / str(step))

    def best_step(self) -> int | None:
        """The saved step with the best AP; None if none was evaluated."""
        steps = [self.folder / str(step) for step in self._manager.all_steps()]
        evaluated = [step for step in steps if checkpoints.metrics_of(step)]
        return int(checkpoints.best_of(evaluated).name) if evaluated else None

    def restore(self, template: Any) -> Any:
        """The state of the latest whole step, like `template` but with NumPy arrays.

        A damaged step is named in a warning and moved beside the folder.
        """
        template = jax.tree.map(np.asarray, template)  # orbax restores the kind that it is shown
        while (step := self.latest_step()) is not None:
            try:
                return self._restore(step, template)
            except DamagedCheckpointError as error:
                log.warning("%s; going back to the checkpoint before it", error)
                self._set_aside(step)
        raise CheckpointError(f"{self.folder}: none of its checkpoints is whole")

    def _restore(self, step: int, template: Any) -> Any:
        parts = dict(zip((checkpoints.VARIABLES, checkpoints.TRAINING), _split(template)))
        folder = self.folder / str(step)
        for item, tree in parts.items():
            checkpoints.check_same_leaves(folder, tree, item)
        with checkpoints.damage_named(folder, "damaged"):
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    checksums=ocp.args.JsonRestore(),
                    **{item: ocp.args.StandardRestore(tree) for item, tree in parts.items()},
                ),
            )
        checkpoints.check_sums(
            folder, restored[checkpoints.CHECKSUMS], {item: restored[item] for item in parts}
        )
        return _joined(template, restored[checkpoints.VARIABLES], restored[checkpoints.TRAINING])

    def _set_aside(self, step: int) -> None:
        """Moves a damaged step beside the folder, once every process has found it damaged."""
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"step {step} is damaged")
        if jax.process_index() == 0:
            place = self.folder.parent / f"damaged-{step}"
            for again in itertools.count(1):
                if not place.exists():
                    break
                place = place.with_name(f"damaged-{step}-{again}")
            with paths.named(place):
                (self.folder / str(step)).rename(place)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"step {step} was set aside")
        self._manager.close()
        self._manager = self._new_manager()

    def wait(self) -> None:
        """Blocks until the last step is saved. Raises CheckpointError if it cannot be."""
        with self._failure_named():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Likewise, and ends orbax's threads. Deletes what they wrote of a step that failed."""
        try:
            with self._failure_named():
                self._manager.close()
        finally:
            is_ours = isinstance(self.folder, pathlib.Path) and jax.process_index() == 0
            if self._has_failed and is_ours:
                files.remove_unfinished(self.folder / f"{self._saving}.orbax-checkpoint-tmp")

    @contextlib.contextmanager
    def _failure_named(self) -> Iterator[None]:
        """Raises what orbax's threads raise as CheckpointError."""
        try:
            yield
        except Exception as error:  # OSError, ValueError, RuntimeError ...
            reason = paths.reason_of(error) if paths.in_bucket(self.folder) else None
            reason = reason or checkpoints.first_line(error)
            self._has_failed = True
            raise CheckpointError(
                f"{self.folder}: step {self._saving} cannot be saved: {reason}; {self._rest()}"
            ) from None

    def _rest(self) -> str:
        """What a run can resume from."""
        try:
            steps = self._manager.all_steps(read=True)
            whole = [step for step in steps if checkpoints.is_whole(self.folder / str(step))]
        except Exception:  # the bucket still does not answer
            return "what was saved before is whole: run the same command again once this is mended"
        latest = f"the last whole one is step {max(whole)}" if whole else "none is whole yet"
        resumes = f"resumes at step {max(whole)}" if whole else "begins again"
        return f"{latest}. Once this is mended, the same command {resumes}"


@dataclasses.dataclass
class _LatestAndBest(checkpoint_managers.preservation_policy.PreservationPolicy):
    """Which steps orbax keeps after it has saved another."""

    folder: paths.Path
    keep_latest: int

    def should_preserve(self, saved, *, context) -> list[bool]:
        steps = [checkpoint.step for checkpoint in saved]
        kept = set(steps[-self.keep_latest :])
        if steps:
            best = checkpoints.best_of([self.folder / str(step) for step in steps])
            kept |= {int(best.name)} if checkpoints.metrics_of(best) else set()
        return [step in kept for step in steps]


def _split(state: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A training state as (what inference needs, the rest).

    Inference takes the averaged parameters if there are any.
    """
    rest = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    variables = state.variables
    averaged = rest.pop("ema_params") is not None
    del rest["batch_stats"]
    if not averaged:
        del rest["params"]
    return variables, jax.tree.map(np.asarray, rest)


def _joined(template: Any, variables: dict[str, Any], rest: dict[str, Any]) -> Any:
    """The inverse of `_split`."""
    averaged = {} if template.ema_params is None else {"ema_params": variables["params"]}
    return template.replace(**(variables | rest | averaged))
