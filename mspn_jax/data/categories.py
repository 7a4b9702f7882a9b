"""The category of a json that a skeleton describes, and the skeleton that a category describes."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from mspn_jax.data.coco import PERSON, SKELETON_FILE
from mspn_jax.data.fields import CATEGORY
from mspn_jax.data.schema import ERROR, NOTE, WARNING, Findings, read_columns, some
from mspn_jax.errors import DataError, SkeletonError
from mspn_jax.skeletons import DEFAULT_SIGMA, SKELETONS, Skeleton


def entry(category_id: int, name: str, skeleton: Skeleton) -> dict[str, Any]:
    """A skeleton as a category of a json."""
    return {
        "id": category_id,
        "name": name,
        "supercategory": name,
        "keypoints": list(skeleton.keypoint_names),
        "skeleton": [[a + 1, b + 1] for a, b in skeleton.limbs],  # COCO counts from 1
    }


def find(rows: list[Any], skeleton: Skeleton, findings: Findings) -> int | None:
    """The id of the category that has the skeleton's keypoints.

    Where no category names its keypoints, it is the only category, or COCO's person. Where the
    category has other keypoints, or the same in another order, it is None, and a finding is added.
    """
    columns, good = read_columns(rows, CATEGORY, "category", findings)
    ids, counts = np.unique(columns["id"][good], return_counts=True)
    findings.add(ERROR, "category", "id occurs more than once", ids[counts > 1])
    named = {i: names for i, names in zip(columns["id"].tolist(), columns["keypoints"]) if names}
    if not named:
        return int(columns["id"][0]) if len(rows) == 1 else PERSON
    for category_id, names in named.items():
        if names == skeleton.keypoint_names:
            return category_id
    category_id, names = next(iter(named.items()))
    findings.add(ERROR, "category", *_difference(category_id, names, skeleton))
    return None


def described(content: Any, file: str | os.PathLike, default: Skeleton | None = None) -> Skeleton:
    """The skeleton of a json's category with keypoints, by `new_skeleton`.

    It is `default` if no category lists keypoints, or one lists those of `default`.
    """
    rows = content.get("categories") if isinstance(content, Mapping) else None
    columns, good = read_columns(
        rows if isinstance(rows, list) else [], CATEGORY, "category", Findings()
    )
    named = [(row, names) for row, names in zip(rows or [], columns["keypoints"]) if names]
    if default and (not named or default.keypoint_names in (names for _, names in named)):
        return default
    if not named or len({names for _, names in named}) > 1 or not good.all():
        found = "several categories list different keypoints" if named else "no category lists any"
        raise DataError(
            f"{file}: the skeleton cannot be taken from 'categories': {found}."
            f" {SKELETON_FILE} in its root, or config.skeleton, says what it is"
        )
    row, names = named[0]
    try:
        limbs = limbs_of(row.get("skeleton") or [], len(names))
        return new_skeleton(str(row.get("name") or "annotated"), names, limbs)
    except SkeletonError as error:
        raise SkeletonError(
            f"{file}: {error}. {SKELETON_FILE} in its root, or config.skeleton, names another one"
        ) from None


def new_skeleton(
    name: str, keypoint_names: Sequence[str], limbs: Sequence[tuple[int, int]] = ()
) -> Skeleton:
    """A skeleton of named keypoints; limbs are pairs of indices from 0.

    Its sigmas and upper body are those of the built-in skeleton that has all the names. Without
    one the sigmas are `DEFAULT_SIGMA`, and the upper body is empty. Characters of the category's
    name that a skeleton's cannot have become _.
    """
    known = [s for s in SKELETONS.values() if set(keypoint_names) <= set(s.keypoint_names)]
    sigma = dict(zip(known[0].keypoint_names, known[0].oks_sigmas)) if known else {}
    return Skeleton(
        name=re.sub(r"[^\w-]", "_", name),
        keypoint_names=tuple(keypoint_names),
        limbs=tuple((a, b) for a, b in limbs),
        oks_sigmas=tuple(sigma.get(name, DEFAULT_SIGMA) for name in keypoint_names),
        upper_body=tuple(n for n in keypoint_names if known and n in known[0].upper_body),
    )


def limbs_of(pairs: Any, num_keypoints: int) -> list[tuple[int, int]]:
    """A category's `skeleton` as pairs of indices from 0.

    COCO counts from 1. Pairs that hold a 0 are counted from 0, as some tools write them.
    """
    is_pairs = isinstance(pairs, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(type(k) is int for k in pair)
        for pair in pairs
    )
    indices = [k for pair in pairs for k in pair] if is_pairs else [-1]
    first = 0 if 0 in indices else 1
    if indices and not first <= min(indices) <= max(indices) < first + num_keypoints:
        raise SkeletonError(
            "a category's 'skeleton' must be a list of pairs of keypoints, each from 1 to"
            f" {num_keypoints}"
        )
    return [(a - first, b - first) for a, b in pairs]


def _difference(
    category_id: int, names: Sequence[str], skeleton: Skeleton
) -> tuple[str, list[int], str]:
    """What differs between a category's keypoints and a skeleton's, as a finding."""
    expected = skeleton.keypoint_names
    if sorted(names) == sorted(expected):
        first = next(k for k, name in enumerate(names) if name != expected[k])
        return (
            f"its keypoints are those of skeleton {skeleton.name!r} in another order: keypoint"
            f" {first} is {names[first]} here and {expected[first]} there",
            [category_id],
            "Give the skeleton (and its oks_sigmas) the order of the json",
        )
    only_here = [name for name in names if name not in expected]
    only_there = [name for name in expected if name not in names]
    return (
        f"it has {len(names)} keypoints, and skeleton {skeleton.name!r} has {len(expected)} others"
        f" (only here: {some(only_here) or 'none'}; only there: {some(only_there) or 'none'})",
        [category_id],
        "config.skeleton names the file of the data's skeleton",
    )


def note_others(
    rows: list[Any],
    annotation_ids: Int[np.ndarray, "N"],
    category_ids: Int[np.ndarray, "N"],
    findings: Findings,
) -> None:
    """Adds what there is to say about annotations of other categories than the skeleton's."""
    columns, _ = read_columns(rows, CATEGORY, "category", Findings())
    named = {i for i, names in zip(columns["id"].tolist(), columns["keypoints"]) if names}
    for category_id in np.unique(category_ids).tolist():
        ids = annotation_ids[category_ids == category_id]
        if category_id in named:
            what = f"of category {category_id}, which has keypoints too, and left out"
            remedy = "One category is trained on and evaluated: give all people the same category"
            findings.add(WARNING, "annotation", what, ids, remedy)
        else:
            what = f"of category {category_id}, which has no keypoints, and left out"
            findings.add(NOTE, "annotation", what, ids)
