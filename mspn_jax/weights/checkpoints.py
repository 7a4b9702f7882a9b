"""Checkpoints on a disk or in a bucket, by orbax, and the `model.json` that says of what.

A folder of checkpoints holds `model.json` and one folder a step. Each step has the item
`variables` (params and batch_stats), which is all that inference reads, and, from a training run,
the item `training` (optimiser state, step, and the rest of `TrainState`). The item `checksums` is
of every array in the two: orbax itself returns arrays with flipped bits without a word. A step
that was evaluated has COCO's figures in `evaluation.json`. A converted model is such a folder too,
with the one step 0.
"""

import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import os
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from mspn_jax.errors import CheckpointError, DamagedCheckpointError, StorageError
from mspn_jax.model import MEAN_RGB, MSPN, STD_RGB
from mspn_jax.skeletons import COCO, SKELETONS, Skeleton
from mspn_jax.storage import files, paths
from mspn_jax.variables import variable_shapes

DESCRIPTION = "model.json"
VARIABLES, TRAINING, CHECKSUMS = "variables", "training", "checksums"
EVALUATION = "evaluation.json"

# Where a bucket does not answer, tensorstore's default of 32 tries takes 15 minutes, 7 take one or
# two. Orbax has no setting for it. If its names change, the default applies again.
with contextlib.suppress(ImportError):
    from orbax.checkpoint._src.serialization import tensorstore_utils

    for _name in ("_BASE_TS_CONTEXT", "_DEFAULT_OCDBT_TS_CONTEXT"):
        getattr(tensorstore_utils, _name, {})["gcs_request_retries"] = {"max_retries": 7}


@dataclasses.dataclass(frozen=True)
class Description:
    """What `model.json` says: all that inference must know besides the weights.

    Attributes:
      variant: the config's name, such as mspn50_coco_256x192.
      model: keyword arguments of `MSPN`, without the dtype.
      skeleton: whole, so that a checkpoint is enough to use it; None where nobody knows it.
      crop_hw: the network's input, in pixels.
      padding: of the crop region, over the box's size.
      source: where the weights come from.
    """

    variant: str
    model: dict[str, Any]
    skeleton: Skeleton | None = COCO
    crop_hw: tuple[int, int] = (256, 192)
    padding: float = 1.25
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
        folder = paths.path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        files.write_json(folder / DESCRIPTION, self.to_json(), indent=2)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"skeleton": self.skeleton and self.skeleton.to_json()}

    @classmethod
    def read(cls, folder: str | os.PathLike) -> "Description":
        path = paths.path(folder) / DESCRIPTION
        try:
            fields = json.loads(files.read_text(path))
            for entries in (fields, fields["model"]):  # json has no tuples
                entries |= {k: tuple(v) for k, v in entries.items() if isinstance(v, list)}
            for key, constant in (("mean_rgb", MEAN_RGB), ("std_rgb", STD_RGB)):
                if (value := fields.pop(key, constant)) != constant:  # older versions wrote them
                    raise ValueError(f"{key} {value}, where the network takes {constant}")
            skeleton = fields.get("skeleton", COCO.name)
            if isinstance(skeleton, str):  # before skeletons could be files, just a name
                skeleton = SKELETONS.get(skeleton)
            elif skeleton is not None:
                skeleton = Skeleton.from_json(skeleton)
            return cls(**fields | {"skeleton": skeleton})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error})") from None


def save_variables(folder: str | os.PathLike, description: Description, variables: Any) -> None:
    """Writes weights alone, as step 0 of a new folder of checkpoints."""
    # Orbax would copy all arrays, so that they can change while it writes, gather 2 GiB before it
    # begins to, and compress all at once: a large model would be in memory three times.
    handlers = ocp.type_handlers.create_type_handler_registry(
        (np.ndarray, _InBatches(deepcopy_host_arrays=False))
    )
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=handlers)
    variables = jax.device_get(variables)
    item = ocp.args.PyTreeSave(variables, ocdbt_target_data_file_size=1 << 20)
    sums = ocp.args.JsonSave(checksums({VARIABLES: variables}))
    path = paths.absolute(folder)
    with (
        paths.named(path),
        ocp.CheckpointManager(
            path, item_handlers={VARIABLES: handler, CHECKSUMS: ocp.JsonCheckpointHandler()}
        ) as manager,
    ):
        manager.save(0, args=ocp.args.Composite(variables=item, checksums=sums))
    description.write(folder)


class _InBatches(ocp.type_handlers.NumpyHandler):
    """Writes some 4 MiB of arrays before it begins with the next: it makes two copies of each."""

    async def _background_serialize(self, values, infos, args) -> None:
        edges = itertools.accumulate(value.nbytes for value in values)
        rows = zip(edges, values, infos, args)
        for _, batch in itertools.groupby(rows, lambda row: row[0] >> 22):
            _, values, infos, args = zip(*batch)
            await super()._background_serialize(values, infos, args)
            for value in values:
                files.release(value)


def find(checkpoint: str | os.PathLike) -> tuple[paths.Path, Description]:
    """A step's folder, and what it is of.

    Args:
      checkpoint: a workdir or a folder of checkpoints (of which the step with the best AP is
        taken, the latest if none was evaluated), or one step's folder.

    Raises:
      CheckpointError: there is none.
      StorageError: the bucket refuses or does not answer.
    """
    path = paths.absolute(checkpoint)
    with paths.named(path):
        return _find(checkpoint, path)


def _find(checkpoint: str | os.PathLike, path: paths.Path) -> tuple[paths.Path, Description]:
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
    steps = [p for p in folder.iterdir() if p.name.isdecimal() and is_whole(p)]
    if not steps:
        raise CheckpointError(f"{folder}: no checkpoint was saved there yet")
    return best_of(steps), description


def is_whole(step: paths.Path) -> bool:
    """On a disk a step's folder appears when it is whole; in a bucket an object says that it is."""
    return ocp.utils.is_checkpoint_finalized(step) and (step / VARIABLES).is_dir()


def best_of(steps: list[paths.Path]) -> paths.Path:
    """The folder of the step with the best AP, the latest of equals or if none was evaluated."""
    return max(steps, key=lambda step: ((metrics_of(step) or {}).get("AP", -2.0), int(step.name)))


def metrics_of(step: paths.Path) -> dict[str, float] | None:
    """COCO's figures of a step's folder, as `Checkpoints.record` kept them; None without."""
    try:
        return json.loads(files.read_text(step / EVALUATION))
    except (FileNotFoundError, ValueError):
        return None


def load(checkpoint: str | os.PathLike) -> tuple[Description, Any, paths.Path]:
    """A model's description and its variables (NumPy), and the step's folder they are from.

    Raises:
      CheckpointError: there is no checkpoint, or its arrays are not those of the model described.
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
    """Raises what orbax, tensorstore and json raise of a step's folder as DamagedCheckpointError.

    But not that a bucket refuses or does not answer (StorageError): the step may well be whole.
    """
    try:
        with paths.named(step):
            yield
    except StorageError:
        raise
    except Exception as error:
        raise DamagedCheckpointError(f"{step}: {what} ({first_line(error)})") from None


def check_same_leaves(step: paths.Path, tree: Any, item: str) -> None:
    """Raises CheckpointError, naming an array that is missing, extra, or of another shape."""
    named = damage_named(step, "damaged, or not a checkpoint")
    with named, ocp.StandardCheckpointer() as checkpointer:
        saved_tree = checkpointer.metadata(step / item).item_metadata.tree
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
    """Name of every array -> CRC-32 of its bytes in C order."""
    names, arrays = zip(*_named_leaves(tree))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:  # zlib works without the GIL
        return dict(zip(names, pool.map(_checksum, arrays)))


def _checksum(array: Any) -> int:
    # Part by part, as one that is transposed would be copied whole.
    array, checksum = np.asarray(array), 0
    for start in range(0, array.size, 1 << 18):
        checksum = zlib.crc32(array.flat[start : start + (1 << 18)], checksum)
    files.release(array)
    return checksum


def check_sums(step: paths.Path, saved: dict[str, int], tree: Any) -> None:
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
    """What orbax and tensorstore say at length, shortly."""
    if "No space left" in str(error):
        return "no space left on the disk"
    return str(error).strip().partition("\n")[0][:300] or type(error).__name__
