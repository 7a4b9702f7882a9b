"""Converts checkpoints: python convert.py --source FILE --output DIR [--to torch]

FILE is PyTorch's .pth of mmpose 0.x or 1.x or of the original authors, a .safetensors, a ResNet-50
of torchvision (which fills the encoders, the rest is new), or one of our own checkpoints. Nothing
in a .pth is run, and PyTorch is not needed. DIR becomes a checkpoint that train.py can start from
and eval.py can load; with --to torch a .safetensors with mmpose 1.x names, and a .pth where
PyTorch is installed.
"""

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from absl import flags

import mspn_jax
from mspn_jax.commands import configured, program
from mspn_jax.errors import ConversionError, UsageError
from mspn_jax.skeletons import SKELETONS, Skeleton
from mspn_jax.storage import files, paths
from mspn_jax.storage.mirror import Mirror, fetched
from mspn_jax.variables import count_parameters, initial_variables
from mspn_jax.weights import checkpoints, conversion
from mspn_jax.weights.description import Description
from mspn_jax.weights.torch import state_dicts
from mspn_jax.weights.torch.names import Architecture, StateDict, architecture_of, kind_of

_SOURCE = flags.DEFINE_string("source", None, "a .pth, a .safetensors, or our own checkpoint")
_OUTPUT = flags.DEFINE_string("output", None, "a folder to make")
_TO = flags.DEFINE_enum("to", "checkpoint", ["checkpoint", "torch"], "what to write")
_KEYPOINTS = flags.DEFINE_integer("keypoints", 0, "start new heads, for so many keypoints")
_STAGES = flags.DEFINE_integer("stages", 0, "of the MSPN that a ResNet-50 starts; by default 1")
_SKELETON = flags.DEFINE_string(
    "skeleton", None, "a skeleton file; by default COCO's, where there are 17 keypoints"
)
_CROP_HW = flags.DEFINE_list(
    "crop_hw", ["256", "192"], "the network's input in pixels, of which files say nothing"
)
flags.mark_flags_as_required(["source", "output"])

PUBLISHED = {  # by mmpose, with the first eight characters of their sha256 in the name
    "mspn50_coco_256x192-8fbfb5d0_20201123.pth": "8fbfb5d0",
    "2xmspn50_coco_256x192-c8765a5c_20201123.pth": "c8765a5c",
    "3xmspn50_coco_256x192-e348f18e_20201123.pth": "e348f18e",
    "4xmspn50_coco_256x192-7b837afb_20201123.pth": "7b837afb",
}
WRITER = f"mspn_jax {mspn_jax.__version__}"  # in the notes of our own .safetensors and .pth
NEW_WEIGHTS_SEED = 0


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where weights come from: `source.json`, beside what is written.

    `batches_tracked` are torch's counts by their mmpose 1.x names, which our network does not
    have; --to torch puts them back.
    """

    source: str
    kind: str
    sha256: str = ""
    batches_tracked: dict[str, int] = dataclasses.field(default_factory=dict)

    def write(self, folder: paths.Path) -> None:
        files.write_json(folder / "source.json", dataclasses.asdict(self), indent=2)

    @classmethod
    def read(cls, folder: paths.Path) -> "Origin | None":
        try:
            return cls(**json.loads(files.read_text(folder / "source.json")))
        except (OSError, ValueError, TypeError):
            return None


def main() -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # cleans up, too
    source, output = paths.path(_SOURCE.value or ""), paths.absolute(_OUTPUT.value or "")
    with paths.named(output):
        if output.exists() and not (output.is_dir() and not any(output.iterdir())):
            raise UsageError(f"{_OUTPUT.value}: exists; give another --output, or remove it")
    if paths.is_folder(source):
        description, variables, origin = from_checkpoint(source)
    else:
        description, variables, origin = from_file(fetched(source))
    num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    with made_whole(output, num_bytes) as folder:
        if _TO.value == "torch":
            with Mirror(folder) as mirror:
                write_torch(mirror.local, description, variables, origin)
        else:
            checkpoints.save_variables(folder, description, variables)
        origin.write(folder)
        description.write(folder)
    print(f"written: {output}, {paths.num_bytes(output):,} bytes, {description.variant}")
    config = f"configs/{description.variant}.py"
    if _TO.value == "checkpoint" and pathlib.Path(config).is_file():
        print(f"next: python eval.py --config {config} --checkpoint {_OUTPUT.value}")


def from_checkpoint(source: paths.Path) -> tuple[Description, Any, Origin]:
    """One of our own checkpoints, with new heads if asked for."""
    description, variables, step = checkpoints.load(source)
    found = conversion.architecture_of_variables(variables)
    print(f"{source}: our own checkpoint, {description.variant}, step {step.name}: {found}")
    origin = Origin.read(step.parent) or Origin(f"{source}, step {step.name}", "our own")
    variables, architecture, said = wanted(found, variables, None)
    if said:
        skeleton = skeleton_for(architecture.num_keypoints)
        description = dataclasses.replace(
            description,
            variant=variant_of(architecture, description.crop_hw, skeleton),
            model=dataclasses.asdict(architecture),
            skeleton=skeleton,
            source=f"{description.source}; {said}",
        )
        origin = dataclasses.replace(origin, batches_tracked={})
    return description, variables, origin


def from_file(source: pathlib.Path) -> tuple[Description, Any, Origin]:
    """A file in one of torch's layouts, of any kind that `convert` knows."""
    state_dict = state_dicts.read(source, copy=_TO.value == "torch")  # which must own them
    with open(source, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    print(f"{source.name}: {source.stat().st_size:,} bytes, sha256 {sha256}")
    notes = state_dicts.metadata(source)
    if str(notes.get("writer")).startswith("mspn_jax "):
        print(f"our own, {notes['writer']}: {notes.get('variant')}, from {notes.get('source')}")
    published = PUBLISHED.get(source.name)
    if published is not None:
        if not sha256.startswith(published):
            raise UsageError(
                f"{source}: damaged, or not what was published: its sha256 begins {sha256[:8]}"
                f" where its name says {published}; download it again"
            )
        print("the file published under this name: its sha256 begins as the name says")
    try:
        kind = kind_of(state_dict)
        print(f"{kind} names, {len(state_dict)} tensors of {dtypes_of(state_dict)}")
        if kind == "torchvision":
            found, variables, counts = None, None, {}
        else:
            found = architecture_of(state_dict)
            print(f"an MSPN of {found}")
            variables = conversion.from_torch(state_dict)
            counts = conversion.batches_tracked(state_dict)
            print(
                f"every tensor used once: {count_parameters(variables['params']):,} parameters,"
                f" {count_parameters(variables['batch_stats']):,} running statistics;"
                f" {len(counts)} batch counts kept in source.json"
            )
        variables, architecture, said = wanted(found, variables, state_dict)
    except ConversionError as error:
        raise UsageError(f"{source}: {error}") from None
    skeleton = skeleton_for(architecture.num_keypoints)
    description = Description(
        variant=variant_of(architecture, crop_hw(), skeleton),
        model=dataclasses.asdict(architecture),
        skeleton=skeleton,
        crop_hw=crop_hw(),
        source=f"{source.name} ({kind} names, sha256 {sha256}){said and '; '}{said}",
    )
    # The counts of new norms would not be true, and torch needs none.
    return description, variables, Origin(source.name, kind, sha256, {} if said else counts)


def wanted(
    found: Architecture | None, variables: Any, resnet: StateDict | None
) -> tuple[Any, Architecture, str]:
    """What the flags ask to make of a source, and in words what is new in it ("" if nothing)."""
    if found is not None:
        if _STAGES.value not in (0, found.num_stages):
            raise UsageError(f"--stages {_STAGES.value}: the source has {found.num_stages}")
        if not _KEYPOINTS.value:
            return variables, found, ""
        architecture = dataclasses.replace(found, num_keypoints=_KEYPOINTS.value)
    else:
        architecture = Architecture(_STAGES.value or 1, _KEYPOINTS.value or 17)
    if architecture.num_keypoints < 1 or architecture.num_stages < 1:
        raise UsageError("--keypoints and --stages must be positive")
    initial = initial_variables(architecture.new_model(), NEW_WEIGHTS_SEED, crop_hw())
    if found is None:
        assert resnet is not None
        variables, said = conversion.start_from_resnet(resnet, initial)
    else:
        variables, said = conversion.start_from(variables, initial, new_heads=True)
    print(f"{said} (from seed {NEW_WEIGHTS_SEED})")
    return variables, architecture, said


def crop_hw() -> tuple[int, int]:
    try:
        height, width = (int(side) for side in _CROP_HW.value)
        if height < 32 or width < 32 or height % 32 or width % 32:
            raise ValueError
    except ValueError:
        raise UsageError(
            f"--crop_hw {','.join(_CROP_HW.value)}: two multiples of 32 are needed, as 256,192"
        ) from None
    return height, width


def skeleton_for(num_keypoints: int) -> Skeleton | None:
    """The skeleton for model.json; None, and a line, where nobody knows it."""
    if _SKELETON.value is None:
        fitting = [s for s in SKELETONS.values() if s.num_keypoints == num_keypoints]
        if not fitting:
            print(
                f"no skeleton of {num_keypoints} keypoints is known: train.py can start from this,"
                " eval.py cannot load it; --skeleton FILE says which they are"
            )
        return fitting[0] if fitting else None
    skeleton = configured.skeleton_named(_SKELETON.value)
    if skeleton.num_keypoints != num_keypoints:
        raise UsageError(
            f"--skeleton {_SKELETON.value}: has {skeleton.num_keypoints} keypoints, the heads"
            f" {num_keypoints}; --keypoints {skeleton.num_keypoints} starts new heads for it"
        )
    return skeleton


def variant_of(architecture: Architecture, hw: tuple[int, int], skeleton: Skeleton | None) -> str:
    """The published name where the network is one of theirs, else one like it."""
    stages = "" if architecture.num_stages == 1 else f"{architecture.num_stages}x"
    is_50 = architecture == Architecture(architecture.num_stages, architecture.num_keypoints)
    people = skeleton.name if skeleton else f"{architecture.num_keypoints}keypoints"
    return f"{stages}mspn{'50' if is_50 else ''}_{people}_{hw[0]}x{hw[1]}"


def dtypes_of(state_dict: StateDict) -> str:
    counts = collections.Counter(str(array.dtype) for array in state_dict.values())
    return ", ".join(f"{dtype} ({count})" for dtype, count in counts.most_common())


def write_torch(
    folder: pathlib.Path, description: Description, variables: Any, origin: Origin
) -> None:
    """The weights with mmpose 1.x names, as .safetensors and, where torch is installed, .pth."""
    state_dict = {}
    for name, array in conversion.to_torch(variables).items():
        state_dict[name] = array
        count = f"{name.removesuffix('running_var')}num_batches_tracked"
        if name.endswith(".running_var") and count in origin.batches_tracked:
            state_dict[count] = np.array(origin.batches_tracked[count], np.int64)
    notes = {
        "format": "pt",
        "writer": WRITER,
        "variant": description.variant,
        "source": description.source,
    }
    path = folder / f"{description.variant}.safetensors"
    state_dicts.write_safetensors(path, state_dict, notes)
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed: no .pth is written, only .safetensors")
        return
    tensors = {name: torch.from_numpy(array) for name, array in state_dict.items()}
    torch.save({"meta": notes, "state_dict": tensors}, path.with_suffix(".pth"))


@contextlib.contextmanager
def made_whole(output: paths.Path, num_bytes: int) -> Iterator[paths.Path]:
    """A folder to write so much into, which takes the output's name once it is whole, or goes.

    In a bucket, where folders cannot be renamed in one step, it is the output from the start.
    `model.json`, written last, then says that it is whole.
    """
    try:
        if isinstance(output, pathlib.Path):
            partial = output.with_name(f".{output.name}.partial-{os.getpid()}")
            with removed(partial):
                partial.mkdir(parents=True)
                reserve(partial / "reserved", num_bytes)
                yield partial
                os.rename(partial, output)
        else:
            with emptied_on_failure(output):
                yield output
    except (OSError, ValueError, RuntimeError) as error:  # orbax's threads raise all of them
        reason = getattr(error, "strerror", None) or f"{error}".partition("\n")[0]
        raise UsageError(f"{_OUTPUT.value}: cannot be written: {reason}") from None


@contextlib.contextmanager
def removed(folder: pathlib.Path) -> Iterator[None]:
    try:
        yield
    finally:
        for _ in range(20):  # orbax's threads may write on for a moment after they failed
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                break
            time.sleep(0.1)


@contextlib.contextmanager
def emptied_on_failure(output: Any) -> Iterator[None]:
    try:
        with paths.named(output):
            yield
    except BaseException:
        with contextlib.suppress(Exception):
            output.rmtree()
        raise


def reserve(path: pathlib.Path, num_bytes: int) -> None:
    """Raises OSError now where there is no room: orbax would say so in a thousand lines."""
    if hasattr(os, "posix_fallocate"):
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, num_bytes)
        path.unlink()


def command() -> None:
    """What `mspn convert` runs."""
    program.run(main)
