"""Converts checkpoints: python convert.py --source FILE --output DIR [--to torch]

FILE is PyTorch's .pth from mmpose 0.x or 1.x or from the original authors, a .safetensors, a
ResNet-50 of torchvision (which fills the encoders; the rest is new), or one of our own checkpoints.
No code in a .pth is run, and PyTorch is not needed. DIR becomes a checkpoint that train.py can
start from and eval.py can load; with --to torch, a .safetensors with mmpose 1.x names, and a .pth
if PyTorch is installed.
"""

import collections
import dataclasses
import pathlib

import jax
from absl import flags

import mspn_jax
from mspn_jax.commands import command_line, configured, ranges
from mspn_jax.errors import ConversionError, UsageError
from mspn_jax.skeletons import Skeleton
from mspn_jax.storage import files, paths
from mspn_jax.storage.mirror import Mirror, fetched
from mspn_jax.storage.new_folder import new_folder
from mspn_jax.variables import count_parameters, initial_variables
from mspn_jax.weights import checkpoints, conversion, published, start
from mspn_jax.weights.conversion import Variables, architecture_of_variables
from mspn_jax.weights.description import Description
from mspn_jax.weights.origin import Origin, is_published
from mspn_jax.weights.torch import state_dicts
from mspn_jax.weights.torch.names import Architecture, StateDict, kind_of

_SOURCE = flags.DEFINE_string(
    "source", None, "a .pth, a .safetensors, our own checkpoint, or a published name"
)
_OUTPUT = flags.DEFINE_string("output", None, "the folder to create")
_TO = flags.DEFINE_enum("to", "checkpoint", ["checkpoint", "torch"], "what to write")
_KEYPOINTS = flags.DEFINE_integer(
    "keypoints", None, "give the network new heads, for this many keypoints", lower_bound=1
)
_STAGES = flags.DEFINE_integer(
    "stages", None, "stages of the MSPN that a ResNet-50 starts; by default 1", lower_bound=1
)
_SKELETON = flags.DEFINE_string(
    "skeleton",
    None,
    "coco, mpii, crowdpose or a skeleton file; by default COCO's for 17 keypoints, MPII's for 16,"
    " CrowdPose's for 14",
)
_CROP_HW = flags.DEFINE_list(
    "crop_hw",
    None,
    "the network's input in pixels, which files do not tell; by default 256,256 for MPII's"
    " keypoints, and else 256,192",
)
flags.mark_flags_as_required(["source", "output"])

NEW_WEIGHTS_SEED = 0


def main() -> None:
    source = paths.path(published.local(_SOURCE.value or ""))
    output = paths.absolute(_OUTPUT.value or "")
    with paths.named(output):
        if output.exists() and not (output.is_dir() and not any(output.iterdir())):
            raise UsageError(f"{_OUTPUT.value}: exists; give another --output, or remove it")

    if paths.is_folder(source):
        description, variables, origin = from_checkpoint(source)
    else:
        description, variables, origin = from_file(fetched(source))

    num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    with new_folder(output, num_bytes) as folder:
        if _TO.value == "torch":
            with Mirror(folder) as mirror:
                write_torch(mirror.local, description, variables, origin)
        else:
            checkpoints.save_variables(folder, description, variables)
        origin.write(folder)
        description.write(folder)  # last: it tells readers that the folder is complete

    print(f"written: {output}, {paths.num_bytes(output):,} bytes, {description.variant}")
    config = f"configs/{description.variant}.py"
    if _TO.value == "checkpoint" and pathlib.Path(config).is_file():
        print(f"next: python eval.py --config {config} --checkpoint {_OUTPUT.value}")


def from_checkpoint(source: paths.Path) -> tuple[Description, Variables, Origin]:
    """One of our own checkpoints, with what the flags give: new heads, a skeleton, a crop size."""
    description, variables, step = checkpoints.load(source)
    print(
        f"{source}: our own checkpoint, {description.variant}, step {step.name}:"
        f" {architecture_of_variables(variables)}"
    )
    origin = Origin.read(step.parent) or Origin(f"{source}, step {step.name}", "our own")
    variables, new = with_new_heads(variables)
    crop_hw = crop_hw_of_flag() or description.crop_hw
    if new:
        said, padding = f"{description.source}; {new}", description.padding
        description = dataclasses.replace(described(variables, crop_hw, said), padding=padding)
        origin = dataclasses.replace(origin, batches_tracked={})
    elif _SKELETON.value is not None:
        skeleton = skeleton_for(architecture_of_variables(variables).num_keypoints)
        description = dataclasses.replace(description, skeleton=skeleton)
    return dataclasses.replace(description, crop_hw=crop_hw), variables, origin


def from_file(source: pathlib.Path) -> tuple[Description, Variables, Origin]:
    """A file of any layout and kind: names PyTorch's or our own, of an MSPN or a ResNet."""
    # torch can only write arrays that are writable.
    state_dict = state_dicts.read(source, copy=_TO.value == "torch")
    sha256 = files.sha256(source)
    print(f"{source.name}: {source.stat().st_size:,} bytes, sha256 {sha256}")
    notes = state_dicts.metadata(source)
    if str(notes.get("writer")).startswith("mspn_jax "):
        print(f"our own, {notes['writer']}: {notes.get('variant')}, from {notes.get('source')}")
    if is_published(source, sha256):
        print("the file published under this name: its sha256 begins as the name says")
    try:
        kind = kind_of(state_dict)
        print(f"{kind} names, {len(state_dict)} tensors of {dtypes_of(state_dict)}")
        if kind == "torchvision":
            architecture = Architecture(_STAGES.value or 1, _KEYPOINTS.value or 17)
            variables, new = start.start_from_resnet(state_dict, initial(architecture))
            print(f"{new} (from seed {NEW_WEIGHTS_SEED})")
        else:
            variables, new = with_new_heads(from_mspn(state_dict))
        # Counts of new norms would be wrong, and torch needs none.
        counts = {} if new else conversion.batches_tracked(state_dict)
    except ConversionError as error:
        raise ConversionError(f"{source}: {error}") from None
    said = f"{source.name} ({kind} names, sha256 {sha256}){new and '; '}{new}"
    description = described(variables, crop_hw_of_flag(), said)
    height, width = description.crop_hw
    keypoints = (
        f"skeleton {description.skeleton.name}" if description.skeleton else "unknown joints"
    )
    print(f"taken to be of {keypoints}, for crops of {height} x {width} (--skeleton, --crop_hw)")
    return description, variables, Origin(source.name, kind, sha256, counts)


def from_mspn(state_dict: StateDict) -> Variables:
    variables = conversion.from_torch(state_dict)
    print(f"an MSPN of {architecture_of_variables(variables)}")
    print(
        f"every tensor used once: {count_parameters(variables['params']):,} parameters,"
        f" {count_parameters(variables['batch_stats']):,} running statistics;"
        f" {len(conversion.batches_tracked(state_dict))} batch counts kept in source.json"
    )
    return variables


def with_new_heads(variables: Variables) -> tuple[Variables, str]:
    """The network with new heads if --keypoints asks for them, and in words what is new."""
    found = architecture_of_variables(variables)
    if _STAGES.value not in (None, found.num_stages):
        raise UsageError(f"--stages {_STAGES.value}: the source has {found.num_stages}")
    if _KEYPOINTS.value is None:
        return variables, ""
    wanted = dataclasses.replace(found, num_keypoints=_KEYPOINTS.value)
    variables, new = start.start_from(variables, initial(wanted), new_heads=True)
    print(f"{new} (from seed {NEW_WEIGHTS_SEED})")
    return variables, new


def initial(architecture: Architecture) -> Variables:
    crop_hw = published.usual_crop_hw(None)  # weights do not depend on it
    return initial_variables(architecture.new_model(), NEW_WEIGHTS_SEED, crop_hw)


def dtypes_of(state_dict: StateDict) -> str:
    counts = collections.Counter(str(array.dtype) for array in state_dict.values())
    return ", ".join(f"{dtype} ({count})" for dtype, count in counts.most_common())


def described(variables: Variables, crop_hw: tuple[int, int] | None, source: str) -> Description:
    skeleton = skeleton_for(architecture_of_variables(variables).num_keypoints)
    crop_hw = crop_hw or published.usual_crop_hw(skeleton)
    return published.describe(variables, skeleton, crop_hw, source)


def crop_hw_of_flag() -> tuple[int, int] | None:
    crop_hw = command_line.height_width(_CROP_HW)
    if crop_hw is not None:
        ranges.require("--crop_hw", crop_hw, ranges.CROP)
    return crop_hw


def skeleton_for(num_keypoints: int) -> Skeleton | None:
    """The skeleton of the flags, or the built-in one of this size; None, and a line, without."""
    if _SKELETON.value is None:
        usual = published.usual_skeleton(num_keypoints)
        if usual is None:
            print(
                f"no skeleton of {num_keypoints} keypoints is known: train.py can start from this,"
                " but eval.py cannot load it; --skeleton FILE tells which keypoints they are"
            )
        return usual
    skeleton = configured.skeleton_named(_SKELETON.value)
    if skeleton.num_keypoints != num_keypoints:
        raise UsageError(
            f"--skeleton {_SKELETON.value}: has {skeleton.num_keypoints} keypoints, the heads"
            f" {num_keypoints}; --keypoints {skeleton.num_keypoints} makes new heads for it"
        )
    return skeleton


def write_torch(
    folder: pathlib.Path, description: Description, variables: Variables, origin: Origin
) -> None:
    """Writes a .safetensors with mmpose 1.x names and, if torch is installed, a .pth."""
    state_dict = conversion.to_torch(variables, origin.batches_tracked)
    notes = {
        "format": "pt",
        "writer": f"mspn_jax {mspn_jax.__version__}",
        "variant": description.variant,
        "source": description.source,
    }
    path = folder / f"{description.variant}.safetensors"
    state_dicts.write_safetensors(path, state_dict, notes)
    try:
        state_dicts.write_pth(path.with_suffix(".pth"), state_dict, notes)
    except ImportError:
        print("PyTorch is not installed: no .pth is written, only .safetensors")
