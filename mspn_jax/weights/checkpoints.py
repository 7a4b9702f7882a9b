"""Checkpoints on a disk or in a bucket, written and read by orbax.

A folder of checkpoints holds `model.json` and one folder a step. Each step has the item
`variables` (params and batch_stats), which is all that inference reads. A step of a training run
also has the item `training` (optimiser state, step, and the rest of `TrainState`). The item
`checksums` covers every array of both: orbax alone returns arrays with flipped bits without an
error. A step that was evaluated has its metrics in `evaluation.json`. A converted model is
such a folder with the one step 0.
"""

import concurrent.futures
import contextlib
import functools
import logging
import math
import os
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from mspn_jax.errors import CheckpointError, DamagedCheckpointError, StorageError
from mspn_jax.storage import files, paths
from mspn_jax.variables import variable_shapes
from mspn_jax.weights import description as model_json
from mspn_jax.weights import orbax_internals
from mspn_jax.weights.description import Description

VARIABLES, TRAINING, CHECKSUMS = "variables", "training", "checksums"
EVALUATION = "evaluation.json"

log = logging.getLogger(__name__)
orbax_internals.limit_retries()


def save_variables(folder: str | os.PathLike, description: Description, variables: Any) -> None:
    """Writes weights alone, as step 0 of a new folder of checkpoints."""
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=orbax_internals.numpy_handlers())
    variables = jax.device_get(variables)
    # By default orbax gathers 2 GiB in memory before it writes.
    item = ocp.args.PyTreeSave(variables, ocdbt_target_data_file_size=1 << 20)
    sums = ocp.args.JsonSave(checksums({VARIABLES: variables}))
    path = paths.absolute(folder)
    handlers = {VARIABLES: handler, CHECKSUMS: ocp.JsonCheckpointHandler()}
    with paths.named(path), ocp.CheckpointManager(path, item_handlers=handlers) as manager:
        manager.save(0, args=ocp.args.Composite(variables=item, checksums=sums))
    description.write(folder)


def find(checkpoint: str | os.PathLike) -> tuple[paths.Path, Description]:
    """The folder of a step, and the description of its network.

    Args:
      checkpoint: one step's folder, or a workdir or folder of checkpoints. Of these the step with
        the best AP is taken, or the latest if none was evaluated.

    Raises:
      CheckpointError: there is none, or its `model.json` is damaged.
      StorageError: the bucket refuses or does not answer.
    """
    path = paths.absolute(checkpoint)
    with paths.named(path):
        if not path.exists():
            raise CheckpointError(f"{checkpoint}: no such checkpoint")
        if path.name.isdecimal() and (path.parent / model_json.FILE).is_file():
            return path, Description.read(path.parent)
        folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
        if not (folder / model_json.FILE).is_file():
            raise CheckpointError(
                f"{checkpoint}: no checkpoint there: a workdir of train.py, one step's folder in"
                f" its checkpoints/, or convert.py's output is needed (none has {model_json.FILE})"
            )
        description = Description.read(folder)
        steps = [p for p in folder.iterdir() if p.name.isdecimal() and is_whole(p)]
        if not steps:
            raise CheckpointError(f"{folder}: no checkpoint was saved there yet")
        return best_of(steps), description


def is_whole(step: paths.Path) -> bool:
    """Whether a step was saved to its end: its folder has its name, or in a bucket a mark."""
    return ocp.utils.is_checkpoint_finalized(step) and (step / VARIABLES).is_dir()


def best_of(steps: list[paths.Path]) -> paths.Path:
    """The step with the best AP; the latest of equals, or if none was evaluated."""
    return max(steps, key=lambda step: ((metrics_of(step) or {}).get("AP", -2.0), int(step.name)))


def metrics_of(step: paths.Path) -> dict[str, float] | None:
    """The metrics of a step, as `Checkpoints.record` keeps them; None if there are none.

    A damaged file counts as none, with a warning.
    """
    path = step / EVALUATION
    try:
        metrics = files.parsed(files.read_text(path))
    except FileNotFoundError:
        return None
    except ValueError:
        metrics = None
    if not _are_metrics(metrics):
        _warn_once(f"{path}: damaged; the step counts as not evaluated. Delete the file")
        return None
    return metrics


def _are_metrics(content: Any) -> bool:
    """Whether a json's content is numbers by name, with an AP from -1 (nobody to find) to 1."""
    return (
        isinstance(content, dict)
        and all(type(value) in (int, float) for value in content.values())
        and -1 <= content.get("AP", math.nan) <= 1
    )


@functools.cache
def _warn_once(message: str) -> None:
    log.warning("%s", message)


def load(checkpoint: str | os.PathLike) -> tuple[Description, Any, paths.Path]:
    """A network's description, its variables as NumPy arrays, and the folder of the step.

    Args:
      checkpoint: as in `find`.

    Raises:
      CheckpointError: there is no checkpoint, or its arrays do not fit the description.
      StorageError: the bucket refuses or does not answer.
    """
    step, description = find(checkpoint)
    shapes = variable_shapes(description.new_model())
    template = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    check_same_leaves(step, template, VARIABLES)
    with damage_named(step, "damaged"):
        with ocp.StandardCheckpointer() as checkpointer:
            variables = checkpointer.restore(step / VARIABLES, template)
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
            sums = checkpointer.restore(step / CHECKSUMS)
    check_sums(step, sums, {VARIABLES: variables})
    return description, variables, step


@contextlib.contextmanager
def damage_named(step: paths.Path, what: str) -> Iterator[None]:
    """Raises errors of orbax, tensorstore and json as DamagedCheckpointError of a step.

    StorageError passes: if a bucket refuses or does not answer, the step may be whole.
    """
    try:
        with paths.named(step):
            yield
    except StorageError:
        raise
    except Exception as error:
        raise DamagedCheckpointError(f"{step}: {what} ({first_line(error)})") from None


def check_same_leaves(step: paths.Path, tree: Any, item: str) -> None:
    """Raises CheckpointError if an array is missing, extra, or of another shape."""
    # A Checkpointer would also read the step's own metadata, and warn that an item has none.
    handler = ocp.StandardCheckpointHandler()
    with damage_named(step, "damaged, or not a checkpoint"), contextlib.closing(handler):
        saved_tree = handler.metadata(step / item).tree
    saved, expected = (
        {name: tuple(leaf.shape) for name, leaf in _named_leaves(each)}
        for each in (saved_tree, tree)
    )
    if saved != expected:
        names = sorted(name for name in saved | expected if saved.get(name) != expected.get(name))
        name = names[0]
        other = {VARIABLES: "of another model", TRAINING: "trained with other settings"}[item]
        raise CheckpointError(
            f"{step}: {other}: {len(names)} arrays differ, first {name}:"
            f" {saved.get(name, 'none')} saved, {expected.get(name, 'none')} expected"
        )


def checksums(tree: Any) -> dict[str, int]:
    """The CRC-32 of every array's bytes in C order, by the array's name."""
    names, arrays = zip(*_named_leaves(tree))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:  # zlib releases the GIL
        return dict(zip(names, pool.map(_checksum, arrays)))


def _checksum(array: Any) -> int:
    # In parts, since a transposed array is copied to get its bytes.
    array, checksum = np.asarray(array), 0
    for start in range(0, array.size, 1 << 18):
        checksum = zlib.crc32(array.flat[start : start + (1 << 18)], checksum)
    files.release(array)
    return checksum


def check_sums(step: paths.Path, saved: Any, tree: Any) -> None:
    """Raises DamagedCheckpointError if an array is not what `saved`, of `checksums`, says."""
    if not isinstance(saved, dict):
        raise DamagedCheckpointError(f"{step}: damaged: its checksums are {saved!r:.50}")
    wrong = [name for name, value in checksums(tree).items() if saved.get(name) != value]
    if wrong:
        raise DamagedCheckpointError(
            f"{step}: damaged: {len(wrong)} arrays are not as they were saved, first {wrong[0]}"
        )


def _named_leaves(tree: Any) -> list[tuple[str, Any]]:
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree.leaves_with_path(tree)
    ]


def first_line(error: Exception) -> str:
    """The reason in an error of orbax or tensorstore, which fill screens."""
    if "No space left" in str(error):
        return "no space left on the disk"
    return str(error).strip().partition("\n")[0][:300] or type(error).__name__
