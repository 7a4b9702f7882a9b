"""Splits annotations into training and validation: mspn split DIR --val 0.2

Reads DIR/annotations/person_keypoints_all.json and writes person_keypoints_train.json and
person_keypoints_val.json beside it. Pictures stay where they are. The same seed gives the same
split.
"""

import pathlib
import re

from absl import flags

from mspn_jax.annotation_tools import splitting
from mspn_jax.errors import UsageError

_VAL = flags.DEFINE_float(
    "val", 0.2, "share of the pictures for validation", lower_bound=0.0001, upper_bound=0.9999
)
_BY = flags.DEFINE_enum(
    "by",
    "picture",
    splitting.KINDS,
    "picture; group: pictures of a video or subject stay together; subset: as the export has it",
)
_GROUP = flags.DEFINE_string(
    "group",
    "",
    "a regular expression whose first (...) in a file name is the group; empty: the folder",
)
_SEED = flags.DEFINE_integer("seed", 0, "of the choice", lower_bound=0)
_SOURCE = flags.DEFINE_string("source", "all", "the split to read")
_TRAIN_NAME = flags.DEFINE_string("train_name", "train", "what to call the first one")
_VAL_NAME = flags.DEFINE_string("val_name", "val", "what to call the second one")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace splits with other content")


def main(folders: list[str]) -> None:
    if len(folders) != 1:
        raise UsageError("name one folder: mspn split data/mine --val 0.2")
    names = (_TRAIN_NAME.value, _VAL_NAME.value)
    if len({*names, _SOURCE.value}) < 3 or not all(names):
        raise UsageError("--train_name, --val_name and --source must be three names")
    if not all(re.fullmatch(r"[\w.-]+", name) for name in names):  # of files
        raise UsageError("--train_name, --val_name: may have only letters, digits, _, - and .")
    by = "group" if _GROUP.value and _BY.value == "picture" else _BY.value
    pictures, groups, instances = splitting.split(
        pathlib.Path(folders[0]),
        source=_SOURCE.value,
        names=names,
        share=_VAL.value,
        by=by,
        group=_GROUP.value,
        seed=_SEED.value,
        overwrite=_OVERWRITE.value,
    )
    for k, name in enumerate(names):
        of_groups = f" of {groups[k]:,} groups" if by == "group" else ""
        print(f"{name}: {pictures[k]:,} pictures{of_groups}, {instances[k]:,} annotations")
