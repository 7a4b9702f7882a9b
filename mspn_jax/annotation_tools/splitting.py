"""One split of a data set -> two, by picture, by group or as the export has it. Pictures stay."""

import collections
import os
import pathlib
import re
from typing import Any

import numpy as np

from mspn_jax.annotation_tools import parsing
from mspn_jax.data.coco import load_json
from mspn_jax.data.fields import IMAGE, IMAGE_OF
from mspn_jax.data.schema import Findings, read_columns
from mspn_jax.errors import DataError
from mspn_jax.storage import files

KINDS = ("picture", "group", "subset")
_OF_VALIDATION = ("val", "valid", "validation", "test")


def annotation_path(root: pathlib.Path, split: str) -> pathlib.Path:
    return root / "annotations" / f"person_keypoints_{split}.json"


def split(
    root: pathlib.Path,
    *,
    source: str,
    names: tuple[str, str],
    share: float,
    by: str = "picture",
    group: str = "",
    seed: int = 0,
    overwrite: bool = False,
) -> tuple[list[int], list[int], list[int]]:
    """Writes the jsons of two splits beside that of `source`.

    Args:
      names: of the first split, for training, and the second one.
      share: of the pictures that the second one gets, from 0 to 1.
      by: "picture"; "group": pictures of a group stay together; "subset": the second split has
        what the export calls val, valid, validation or test.
      group: a regular expression, whose first group, searched in a file name, is the group's name;
        "": the picture's folder.
      overwrite: replace files with other content.

    Returns:
      Pictures, groups and instances of each.

    Raises:
      DataError: the json is missing or wrong, no group or subset is found, or a split would be
        empty or is there already with other content.
    """
    file = annotation_path(root, source)
    content = parsing.mapping(load_json(file), str(file))
    images = parsing.items(content.get("images"), f"{file}: images")
    rows = parsing.items(content.get("annotations"), f"{file}: annotations")
    findings = Findings()
    image_ids = read_columns(images, IMAGE[:2], "image", findings)[0]["id"]
    of_image = read_columns(rows, [IMAGE_OF], "annotation", findings)[0]["image_id"]
    findings.raise_error(file)
    groups = [_group(image, by, group, file) for image in images]
    chosen = _of_subset(groups, file) if by == "subset" else _choose(groups, share, seed, file)
    counts: tuple[list[int], list[int], list[int]] = ([], [], [])
    texts = []
    for name, is_second in zip(names, (False, True)):
        is_mine = np.array([(each in chosen) == is_second for each in groups])
        mine = [images[i] for i in np.flatnonzero(is_mine)]
        annotated = [rows[i] for i in np.flatnonzero(np.isin(of_image, image_ids[is_mine]))]
        texts.append((name, content | {"images": mine, "annotations": annotated}))
        of_mine = {each for each in groups if (each in chosen) == is_second}
        for column, count in zip(counts, (len(mine), len(of_mine), len(annotated))):
            column.append(count)
    _write(root, texts, source, overwrite)
    return counts


def _group(image: dict[str, Any], by: str, pattern: str, file: pathlib.Path) -> str:
    name = image["file_name"]
    if by == "picture":
        return name
    if by == "subset":
        return str(image.get("subset") or "")
    if not pattern:
        return os.path.dirname(name)
    try:
        found = re.search(pattern, name)
    except re.error as error:
        raise DataError(f"--group {pattern!r} is not a regular expression: {error}") from None
    if found is None:
        raise DataError(f"{file}: --group {pattern!r} does not match picture {name!r}")
    return (found[1] if found.re.groups else found[0]) or ""


def _choose(groups: list[str], share: float, seed: int, file: pathlib.Path) -> set[str]:
    """Groups, in an order that follows from the seed, until their pictures are the share."""
    counts = collections.Counter(groups)
    if len(counts) < 2:
        what = "one group" if groups else "no pictures"
        raise DataError(
            f"{file}: there is {what} in it, which cannot be split; --group names groups by a"
            " regular expression, --by picture splits by pictures"
        )
    names = sorted(counts)
    np.random.default_rng(seed).shuffle(names)
    wanted = share * len(groups)
    chosen: set[str] = set()
    taken = 0
    for name in names[:-1]:  # one is left for training
        # The group that comes nearest, so that a large one does not make it far too much.
        if chosen and abs(taken + counts[name] - wanted) > abs(taken - wanted):
            continue
        chosen.add(name)
        taken += counts[name]
    return chosen


def _of_subset(groups: list[str], file: pathlib.Path) -> set[str]:
    chosen = {name for name in groups if name.lower().startswith(_OF_VALIDATION)}
    if not chosen or chosen == set(groups):
        there = ", ".join(sorted(set(groups))) or "none"
        raise DataError(
            f"{file}: its subsets are {there or 'none'}: expected one for training and val, valid"
            " or test; --by picture splits by pictures"
        )
    return chosen


def _write(
    root: pathlib.Path,
    texts: list[tuple[str, dict[str, Any]]],
    source: str,
    overwrite: bool,
) -> None:
    for name, content in texts:
        path = annotation_path(root, name)
        if name == source:
            raise DataError(
                f"{path}: is the split's source; give --train_name and --val_name other names"
            )
        if path.exists() and not overwrite and load_json(path) != content:
            raise DataError(
                f"{path}: is there already, with other pictures or annotations; --overwrite"
                " replaces it. Records and scores of the old split do not fit the new one"
            )
    for name, content in texts:
        files.write_json(annotation_path(root, name), content)
