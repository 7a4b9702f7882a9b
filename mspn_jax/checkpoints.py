"""Checkpoints on disk, by orbax, and the `model.json` that says what a checkpoint is of.

A folder of checkpoints holds `model.json` and one folder a step. Each step has the item
`variables` (params and batch_stats), which is all that inference reads, and, from a training run,
the item `training` (optimiser state and step). A converted model is such a folder too, with the
one step 0.
"""

import dataclasses
import json
import os
import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from mspn_jax.model import MEAN_RGB, MSPN, STD_RGB, variable_shapes
from mspn_jax.skeletons import COCO, SKELETONS, Skeleton

DESCRIPTION = "model.json"
_VARIABLES, _TRAINING = "variables", "training"


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or of another model."""


@dataclasses.dataclass(frozen=True)
class Description:
    """What `model.json` says: all that inference must know besides the weights.

    Attributes:
      variant: the config's name, such as mspn50_coco_256x192.
      model: keyword arguments of `MSPN`, without the dtype.
      skeleton: whole, so that a checkpoint is enough to use it; None where nobody knows it.
      crop_hw: the network's input, in pixels.
      padding: of the crop region, over the box's size.
      mean_rgb, std_rgb: in grey levels.
      source: where the weights come from.
    """

    variant: str
    model: dict[str, Any]
    skeleton: Skeleton | None = COCO
    crop_hw: tuple[int, int] = (256, 192)
    padding: float = 1.25
    mean_rgb: tuple[float, float, float] = MEAN_RGB
    std_rgb: tuple[float, float, float] = STD_RGB
    source: str = ""

    def new_model(self, **arguments) -> MSPN:
        """The described network; `arguments` add to it or replace (dtype, axis_name)."""
        return MSPN(**(self.model | arguments))

    def new_skeleton(self) -> Skeleton:
        """Raises CheckpointError where there is none: weights can be started from, not used."""
        if self.skeleton is None:
            raise CheckpointError(
                f"nobody said which keypoints this checkpoint of {self.variant} finds: convert it"
                " again, with --skeleton"
            )
        return self.skeleton

    def write(self, folder: str | os.PathLike) -> None:
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        fields = dataclasses.asdict(self) | {"skeleton": self.skeleton and self.skeleton.to_json()}
        (folder / DESCRIPTION).write_text(json.dumps(fields, indent=2) + "\n")

    @classmethod
    def read(cls, folder: str | os.PathLike) -> "Description":
        path = pathlib.Path(folder) / DESCRIPTION
        try:
            fields = json.loads(path.read_text())
            for entries in (fields, fields["model"]):  # json has no tuples
                entries |= {k: tuple(v) for k, v in entries.items() if isinstance(v, list)}
            skeleton = fields.get("skeleton", COCO.name)
            if isinstance(skeleton, str):  # before skeletons could be files, just a name
                skeleton = SKELETONS.get(skeleton)
            elif skeleton is not None:
                skeleton = Skeleton.from_json(skeleton)
            return cls(**fields | {"skeleton": skeleton})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error})") from None


class Checkpoints:
    """A folder of a run's checkpoints: the latest few and the best are kept.

    Saving goes on in the background; a step's folder appears under its name when it is whole.
    """

    def __init__(self, folder: str | os.PathLike, keep_latest: int = 2):
        policy = checkpoint_managers.preservation_policy

        def average_precision(metrics: dict[str, float]) -> float:
            return metrics["AP"]

        self._manager = ocp.CheckpointManager(
            pathlib.Path(folder).absolute(),
            options=ocp.CheckpointManagerOptions(
                best_fn=average_precision,  # without it metrics are not written
                preservation_policy=policy.AnyPreservationPolicy(
                    [
                        policy.LatestN(n=keep_latest),
                        policy.BestN(
                            n=1,
                            get_metric_fn=average_precision,
                            keep_checkpoints_without_metrics=False,
                        ),
                    ]
                ),
                cleanup_tmp_directories=True,
            ),
            item_names=(_VARIABLES, _TRAINING),
        )

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, step: int, state: Any, metrics: dict[str, float] | None = None) -> None:
        """Saves a training state; `metrics` must have AP for it to be compared for the best.

        Arrays go to orbax as NumPy: in a run on several machines those of a device are local to
        their host, which orbax refuses.
        """
        if step == self.latest_step():
            return
        variables, training = _split(jax.device_get(state))
        self._manager.save(
            step,
            args=ocp.args.Composite(
                variables=ocp.args.StandardSave(variables),
                training=ocp.args.StandardSave(training),
            ),
            metrics=metrics,
        )

    def restore(self, template: Any, step: int | None = None) -> Any:
        """The state of a step (the latest), in the shape of `template`, as NumPy.

        Raises:
          CheckpointError: there is none, or it is of another model.
        """
        step = self.latest_step() if step is None else step
        variables, training = _split(template)
        folder = self._manager.directory / str(step)
        check_same_leaves(folder, variables)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                variables=ocp.args.StandardRestore(variables),
                training=ocp.args.StandardRestore(training),
            ),
        )
        return template.replace(**restored[_VARIABLES], **restored[_TRAINING])

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.close()


def _split(state: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A training state's fields, those that inference needs and the rest."""
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    variables = {name: fields.pop(name) for name in ("params", "batch_stats")}
    return variables, jax.tree.map(np.asarray, fields)


def save_variables(folder: str | os.PathLike, description: Description, variables: Any) -> None:
    """Writes weights alone, as step 0 of a new folder of checkpoints."""
    # Orbax would copy all arrays, so that they can change while it writes, and gather 2 GiB before
    # it begins to: a large model would be in memory three times.
    handlers = ocp.type_handlers.create_type_handler_registry(
        (np.ndarray, ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False))
    )
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=handlers)
    item = ocp.args.PyTreeSave(jax.device_get(variables), ocdbt_target_data_file_size=1 << 24)
    path = pathlib.Path(folder).absolute()
    with ocp.CheckpointManager(path, item_handlers={_VARIABLES: handler}) as manager:
        manager.save(0, args=ocp.args.Composite(variables=item))
    description.write(folder)


def find(checkpoint: str | os.PathLike) -> tuple[pathlib.Path, Description]:
    """A step's folder, and what it is of.

    Args:
      checkpoint: a workdir or a folder of checkpoints (of which the step with the best AP is
        taken, the latest if none was evaluated), or one step's folder.

    Raises:
      CheckpointError: there is none.
    """
    path = pathlib.Path(checkpoint).absolute()
    if not path.exists():
        raise CheckpointError(f"{checkpoint}: no such checkpoint")
    if path.name.isdecimal() and (path.parent / DESCRIPTION).is_file():
        return path, Description.read(path.parent)
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    if not (folder / DESCRIPTION).is_file():
        raise CheckpointError(
            f"{checkpoint}: no checkpoint there: a workdir of train.py, one step's folder in its"
            f" checkpoints/, or convert.py's output is needed (none has {DESCRIPTION})"
        )
    description = Description.read(folder)
    steps = [p for p in folder.iterdir() if p.name.isdecimal() and (p / _VARIABLES).is_dir()]
    if not steps:
        raise CheckpointError(f"{folder}: no checkpoint was saved there yet")
    best = max(steps, key=lambda step: (_average_precision(step), int(step.name)))
    return best, description


def _average_precision(step: pathlib.Path) -> float:
    """What the run's own evaluation gave the step; below every figure if it was not evaluated."""
    try:
        return json.loads((step / "metrics" / "metrics").read_text())["AP"]
    except (OSError, ValueError, KeyError):
        return -2.0


def load(checkpoint: str | os.PathLike) -> tuple[Description, Any, pathlib.Path]:
    """A model's description and its variables (NumPy), and the step's folder they are from.

    Raises:
      CheckpointError: there is no checkpoint, or its arrays are not those of the model described.
    """
    step, description = find(checkpoint)
    shapes = variable_shapes(description.new_model())
    template = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    check_same_leaves(step, template)
    with ocp.StandardCheckpointer() as checkpointer:
        return description, checkpointer.restore(step / _VARIABLES, template), step


def check_same_leaves(step: pathlib.Path, variables: Any) -> None:
    """Raises CheckpointError, naming an array that is missing, extra, or of another shape."""
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            saved_tree = checkpointer.metadata(step / _VARIABLES).item_metadata.tree
    except Exception as error:
        raise CheckpointError(f"{step}: damaged, or not a checkpoint ({error})") from None
    saved, expected = ({jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
                        for path, leaf in jax.tree.leaves_with_path(tree)}
                       for tree in (saved_tree, variables))  # fmt: skip
    if saved != expected:
        names = sorted(name for name in saved | expected if saved.get(name) != expected.get(name))
        name = names[0]
        raise CheckpointError(
            f"{step}: of another model: {len(names)} arrays differ, first {name}:"
            f" {saved.get(name, 'none')} saved, {expected.get(name, 'none')} expected"
        )
