"""Checkpoints by name or address: downloaded and converted once, and kept in the user's cache."""

import dataclasses
import hashlib
import logging
import os
import pathlib
import re
from typing import Any

import jax

from mspn_jax.errors import CheckpointError, ConversionError
from mspn_jax.skeletons import SKELETONS, Skeleton
from mspn_jax.storage import download, files, paths
from mspn_jax.storage.new_folder import new_folder
from mspn_jax.weights import checkpoints, conversion
from mspn_jax.weights import description as model_json
from mspn_jax.weights.conversion import Variables, architecture_of_variables
from mspn_jax.weights.description import Description
from mspn_jax.weights.origin import MODELS, Origin
from mspn_jax.weights.torch import state_dicts
from mspn_jax.weights.torch.names import Architecture, kind_of

log = logging.getLogger(__name__)

CROP_HW = {"coco": (256, 192), "mpii": (256, 256)}  # of published models, by their skeleton


def load(checkpoint: str | os.PathLike) -> tuple[Description, Any, paths.Path]:
    """`checkpoints.load` of what `local` takes."""
    return checkpoints.load(local(checkpoint))


def local(checkpoint: str | os.PathLike) -> str | os.PathLike:
    """A checkpoint on this disk or in a bucket.

    Args:
      checkpoint: a path, which is returned as it is; a published name ("mspn50" or
        "mspn50_coco_256x192"); or the http(s) address of a `.pth` or `.safetensors` of an MSPN, for
        the crops of `usual_crop_hw`. If an address has eight hexadecimal digits after a "-", as
        the published ones, the file's sha256 must begin with them.
    """
    name = os.fspath(checkpoint)
    if download.is_address(name):
        file_name = download.name_of(name)
        known = re.search(r"-([0-9a-f]{8})[_.]", file_name)
        address = hashlib.sha256(name.encode()).hexdigest()[:8]
        folder = f"{file_name.partition('.')[0]}-{address}"
        return _converted(folder, name, known[1] if known else "")
    model = MODELS.get(name.removesuffix("_coco_256x192"))
    if paths.path(name).exists():
        if model:
            log.info("%s: a local folder, which is taken instead of the published model", name)
        return checkpoint
    if model is None:
        if name and "/" not in name and not pathlib.PurePath(name).suffix:
            raise CheckpointError(
                f"{name}: no such checkpoint, nor a published model ({', '.join(MODELS)})"
            )
        return checkpoint
    return _converted(model.file.partition(".")[0], model.url, model.sha256)


def _converted(name: str, url: str, sha256: str) -> pathlib.Path:
    """The folder of a file from the web. It is converted at the first call."""
    folder = download.home() / "models" / name
    if not (folder / model_json.FILE).is_file():
        file = download.fetch(url, sha256=sha256)
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = folder.with_name(f".{name}.lock")
        with files.locked(lock, f"another process is converting {file.name}"):
            if not (folder / model_json.FILE).is_file():
                log.info("converting %s to %s", file, folder)
                _convert(file, folder)
    return folder


def _convert(file: pathlib.Path, folder: pathlib.Path) -> None:
    sha256, state_dict = files.sha256(file), state_dicts.read(file)
    try:
        kind = kind_of(state_dict)
        variables = conversion.from_torch(state_dict)
        counts = conversion.batches_tracked(state_dict)
    except ConversionError as error:
        raise ConversionError(f"{file}: {error}") from None
    num_keypoints = architecture_of_variables(variables).num_keypoints
    skeleton = usual_skeleton(num_keypoints)
    said = f"{file.name} ({kind} names, sha256 {sha256})"
    description = describe(variables, skeleton, usual_crop_hw(skeleton), said)
    num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    with new_folder(folder, num_bytes) as partial:
        checkpoints.save_variables(partial, description, variables)
        Origin(file.name, kind, sha256, counts).write(partial)
        description.write(partial)


def usual_skeleton(num_keypoints: int) -> Skeleton | None:
    """The built-in skeleton with so many keypoints, which a file does not name."""
    return next((s for s in SKELETONS.values() if s.num_keypoints == num_keypoints), None)


def usual_crop_hw(skeleton: Skeleton | None) -> tuple[int, int]:
    """The crops of the published models of a skeleton, or else of COCO's; no file tells them."""
    return CROP_HW.get(skeleton.name if skeleton else "", CROP_HW["coco"])


def describe(
    variables: Variables, skeleton: Skeleton | None, crop_hw: tuple[int, int], source: str
) -> Description:
    """The network's description; the variant is the published name if it is a published size."""
    architecture = architecture_of_variables(variables)
    stages = "" if architecture.num_stages == 1 else f"{architecture.num_stages}x"
    is_50 = architecture == Architecture(architecture.num_stages, architecture.num_keypoints)
    people = skeleton.name if skeleton else f"{architecture.num_keypoints}keypoints"
    height, width = crop_hw
    return Description(
        variant=f"{stages}mspn{'50' if is_50 else ''}_{people}_{height}x{width}",
        model=dataclasses.asdict(architecture),
        skeleton=skeleton,
        crop_hw=crop_hw,
        source=source,
    )
