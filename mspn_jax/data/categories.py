"""The category of a json that a skeleton describes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from mspn_jax.data.coco import PERSON
from mspn_jax.data.fields import CATEGORY
from mspn_jax.data.schema import ERROR, NOTE, WARNING, Findings, read_columns, some
from mspn_jax.skeletons import Skeleton


def find(rows: list[Any], skeleton: Skeleton, findings: Findings) -> int | None:
    """The id of the category that has the skeleton's keypoints.

    Where no category names its keypoints, it is the only category, or COCO's person.

    Args:
      rows: the json's `categories`.

    Returns:
      None, and adds a finding, where the category has other keypoints than the skeleton, or the
      same in another order.
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
    """Adds what there is to say about annotations of other categories than the skeleton's.

    Args:
      rows: the json's `categories`.
    """
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
