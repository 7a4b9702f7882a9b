"""The checkpoints that a training run keeps, and goes on from."""

import contextlib
import dataclasses
import itertools
import logging
import os
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
    """A folder of a run's checkpoints: the latest few and the one with the best AP are kept.

    Saving goes on in the background; a step counts once it is whole.
    """

    def __init__(self, folder: str | os.PathLike, keep_latest: int = 2):
        self.folder = paths.absolute(folder)
        self._keep_latest = keep_latest
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

    def save(self, step: int, state: Any) -> None:
        """Saves a training state, once what was being saved before is on disk.

        Arrays go to orbax as NumPy: in a run on several machines those of a device are local to
        their host, which orbax refuses.

        Raises:
          CheckpointError: this one or the one before cannot be written, as on a full disk.
        """
        if step == self.latest_step():
            return
        variables, training = _split(jax.device_get(state))
        with self._told(f"step {step} cannot be saved"):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    variables=ocp.args.StandardSave(variables),
                    training=ocp.args.StandardSave(training),
                    checksums=ocp.args.JsonSave(
                        checkpoints.checksums(
                            {checkpoints.VARIABLES: variables, checkpoints.TRAINING: training}
                        )
                    ),
                ),
            )

    def record(self, step: int, figures: dict[str, float]) -> None:
        """Keeps with a saved step what its evaluation gave; AP among it decides which is best."""
        self.wait()
        if jax.process_index() == 0:
            files.write_json(self.folder / str(step) / checkpoints.EVALUATION, figures)

    def figures(self, step: int) -> dict[str, float] | None:
        """What `record` kept with a step; None if it was not evaluated."""
        return checkpoints.metrics_of(self.folder / str(step))

    def restore(self, template: Any) -> Any:
        """The state of the latest step that is whole, in the shape of `template`, as NumPy.

        A damaged step is said to be so and moved out of the folder, beside which it stays.

        Raises:
          CheckpointError: no step is whole, or they are of another model or other settings.
          StorageError: the bucket refuses or does not answer.
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
        """Moves a step beside the folder of checkpoints, once every process has seen it."""
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
        """Waits until what is being saved is on disk; CheckpointError where it cannot be."""
        with self._told("the last step could not be saved"):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits until everything is on disk, and raises CheckpointError where it cannot be."""
        with self._told("the last step could not be saved"):
            self._manager.close()

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of orbax's threads: OSError, ValueError, RuntimeError ...
            reason = paths.reason_of(error) if paths.in_bucket(self.folder) else None
            reason = reason or checkpoints.first_line(error)
            raise CheckpointError(f"{self.folder}: {what}: {reason}; {self._left()}") from None

    def _left(self) -> str:
        """What a run can go on from."""
        try:
            steps = self._manager.all_steps(read=True)
            whole = [step for step in steps if checkpoints.is_whole(self.folder / str(step))]
        except Exception:  # the bucket still does not answer
            return "what was saved before is whole"
        return f"the last whole one is step {max(whole)}" if whole else "none is whole yet"


@dataclasses.dataclass
class _LatestAndBest(checkpoint_managers.preservation_policy.PreservationPolicy):
    """Orbax's question after each saving: which of these steps are to stay?"""

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

    With averaged parameters inference takes those, and the others go with the rest.
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
