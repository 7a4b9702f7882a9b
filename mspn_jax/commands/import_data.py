"""Imports what an annotation tool exported: mspn import SOURCE... --output DIR

SOURCE is a file, folder or zip: COCO keypoints (CVAT, Roboflow), Label Studio's JSON or JSON-MIN,
labelme's files, a YOLO-pose data set with its yaml, or DeepLabCut's labeled-data. Writes
DIR/annotations/person_keypoints_all.json, DIR/images/ and DIR/config.py.
"""

import pathlib
import shlex

from absl import flags

from mspn_jax.annotation_tools import folder, sources
from mspn_jax.annotation_tools.folder import Written
from mspn_jax.annotation_tools.labelled import Dataset
from mspn_jax.errors import UsageError

_OUTPUT = flags.DEFINE_string("output", None, "the new folder", required=True)
_FORMAT = flags.DEFINE_enum(
    "format", "auto", ["auto", *sources.FORMATS], "which tool's; auto: by what the files hold"
)
_PICTURES = flags.DEFINE_multi_string(
    "pictures", [], "a folder with the pictures, if they are not in the export; may be repeated"
)
_CATEGORY = flags.DEFINE_string("category", "", "which of several categories to take")
_KEYPOINT_NAMES = flags.DEFINE_list(
    "keypoint_names", [], "all names in their order, for exports that do not list them"
)
_BOX_MARGIN = flags.DEFINE_float(
    "box_margin",
    0.1,
    "enlarges boxes that are only the extent of the keypoints: on each side, over the longer side",
    lower_bound=0,
    upper_bound=10,
)
_COPY = flags.DEFINE_bool("copy", False, "copy pictures instead of making hard links")


def main(given: list[str]) -> None:
    if not given:
        raise UsageError("name what to import: mspn import export.zip --output data/mine")
    output = pathlib.Path(_OUTPUT.value).absolute()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{_OUTPUT.value}: exists already; name a new folder with --output")
    names = tuple(name.strip() for name in _KEYPOINT_NAMES.value)
    if not all(names):
        raise UsageError("--keypoint_names: one of them is empty")
    with sources.unpacked(given) as places:
        dataset = sources.read(
            places,
            format=_FORMAT.value,
            pictures=[pathlib.Path(each) for each in _PICTURES.value],
            category=_CATEGORY.value,
            keypoint_names=names,
        )
        written = folder.write(dataset, output, box_margin=_BOX_MARGIN.value, copy=_COPY.value)
    print("\n".join(lines(dataset, written)))


def lines(dataset: Dataset, written: Written) -> list[str]:
    """What was found, what was left out, and the next commands."""
    skeleton, share = written.skeleton, written.labelled
    pairs = skeleton.sides.count("left")
    least = min(share, key=lambda name: share[name])
    text = [
        f"{dataset.tool}: {written.num_pictures:,} pictures, {written.num_instances:,} instances of"
        f" {dataset.category}, {skeleton.num_keypoints} keypoints,"
        f" {sum(share.values()) / len(share):.0%} of them labelled"
        f" (least: {least}, {share[least]:.0%})",
        f"keypoints: {', '.join(skeleton.keypoint_names)}",
        f"{pairs} pairs of left and right, {len(skeleton.limbs)} limbs",
    ]
    if written.num_grown:
        text.append(
            f"{written.num_grown:,} boxes are the extent of the keypoints, and were enlarged by"
            f" {_BOX_MARGIN.value:g} of their longer side on each side (--box_margin)"
        )
    text += [f"note: {line}" for line in dataset.left_out.lines()]
    num_copied = written.num_pictures - written.num_linked
    how = [f"{written.num_linked:,} hard links"] * bool(written.num_linked)
    how += [f"{num_copied:,} copies"] * bool(num_copied)
    output = shlex.quote(_OUTPUT.value)
    return [
        *text,
        f"pictures: {' and '.join(how)}",
        f"written: {_OUTPUT.value}",
        f"next: mspn split {output}{_how_to_split(dataset)}",
        f"then: mspn train --config {shlex.quote(str(pathlib.Path(_OUTPUT.value, 'config.py')))}"
        f" --workdir runs/{skeleton.name}",
    ]


def _how_to_split(dataset: Dataset) -> str:
    """Flags of `mspn split` that fit: the export's own subsets, or its folders."""
    subsets = {picture.subset.lower()[:3] for picture in dataset.pictures}
    if {"tra", "val"} <= subsets:  # train, Train, train2017; val, valid, Validation
        return " --by subset"
    folders = {picture.name.rpartition("/")[0] for picture in dataset.pictures}
    return " --by group --val 0.2" if len(folders) > 1 else " --val 0.2"
