"""Several data sets as one: keypoints are matched by name, and records are concatenated."""

import bisect
import dataclasses
import itertools
import logging
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from mspn_jax.data.coco import DataSet
from mspn_jax.data.order import Share
from mspn_jax.data.records import PeopleColumns, Records, open_records
from mspn_jax.data.schema import some
from mspn_jax.errors import DataError
from mspn_jax.skeletons import Skeleton

log = logging.getLogger(__name__)


class Mixture(NamedTuple):
    """Data sets to train on.

    Attributes:
      records: of all data sets, with the keypoints of one skeleton.
      shares: of each data set, for `pipeline.training_batches`.
    """

    records: Records
    shares: tuple[Share, ...]

    @property
    def people_per_epoch(self) -> int:
        return sum(share.per_epoch for share in self.shares)


def open_mixture(
    data_sets: Sequence[tuple[DataSet, Skeleton]],
    skeleton: Skeleton,
    *,
    first_people: int = 0,
    records_dir: str | os.PathLike = "",
) -> Mixture:
    """Opens the records of data sets, each with its own skeleton, and gives them one skeleton.

    Keypoints that a data set lacks are unlabelled in it. Keypoints that the skeleton lacks are left
    out, and so are people without any other. With several data sets, a line is logged for each.

    Args:
      first_people, records_dir: of each data set, as in `open_records`.

    Raises:
      DataError: as `open_records`; or a data set shares no keypoint with the skeleton, or nobody
        in it has one; or two data sets would have their records in one folder.
      StorageError: as `open_records`.
    """
    for each, own in data_sets:
        check_shared(each, own, skeleton)
    opened = [
        open_records(
            root=each.root,
            split=each.split,
            skeleton=own,
            first_people=first_people,
            records_dir=records_dir,
            only_with_people=True,
        )
        for each, own in data_sets
    ]
    _check_folders([each for each, _ in data_sets], opened)
    parts, shares = [], []
    for (each, own), records in zip(data_sets, opened):
        part = _with_skeleton(records, own, skeleton)
        count = int(part.num_people.sum())
        if not count:
            raise DataError(f"{each}: nobody in it has a keypoint of skeleton {skeleton.name!r}")
        share = Share(len(part.num_people), max(1, round(each.weight * count)))
        if len(data_sets) > 1:
            log.info(
                "%s: %d people in %d pictures, weight %g: %d an epoch; %s",
                each,
                count,
                share.num_pictures,
                each.weight,
                share.per_epoch,
                describe_match(own, skeleton),
            )
        parts.append(part)
        shares.append(share)
    return Mixture(_joined(parts), tuple(shares))


def match(own: Skeleton, skeleton: Skeleton) -> Int[np.ndarray, "K"]:
    """The index in `own` of each of the skeleton's keypoints, by name; -1 of those it lacks."""
    index = {name: k for k, name in enumerate(own.keypoint_names)}
    return np.array([index.get(name, -1) for name in skeleton.keypoint_names])


def check_shared(data_set: DataSet, own: Skeleton, skeleton: Skeleton) -> None:
    """Raises DataError if a data set's own skeleton shares no keypoint with the skeleton."""
    if (match(own, skeleton) < 0).all():
        raise DataError(
            f"{data_set}: none of its keypoints ({some(own.keypoint_names)}) has the name of one of"
            f" skeleton {skeleton.name!r} ({some(skeleton.keypoint_names)}): keypoints are matched"
            " by their names"
        )


def describe_match(own: Skeleton, skeleton: Skeleton) -> str:
    """One line of what `match` finds."""
    lacking = [name for name in skeleton.keypoint_names if name not in own.keypoint_names]
    left_out = [name for name in own.keypoint_names if name not in skeleton.keypoint_names]
    shared = skeleton.num_keypoints - len(lacking)
    text = f"{shared} of the {skeleton.num_keypoints} keypoints of skeleton {skeleton.name!r}"
    if lacking:
        text += f"; not labelled: {', '.join(lacking)}"
    if left_out:
        text += f"; left out, since the skeleton lacks them: {', '.join(left_out)}"
    return text


def _with_skeleton(records: Records, own: Skeleton, skeleton: Skeleton) -> Records:
    """The records with another skeleton's keypoints, of the people who have one labelled."""
    columns = match(own, skeleton)
    people = dataclasses.replace(
        records.people,
        keypoints_image_xy=records.people.keypoints_image_xy[:, columns],
        visibility=records.people.visibility[:, columns] * (columns >= 0),
    )
    kept = (people.visibility > 0).any(1)
    picture = np.repeat(np.arange(len(records.num_people)), records.num_people)
    return dataclasses.replace(
        records,
        num_people=np.bincount(picture[kept], minlength=len(records.num_people)),
        people=people[kept],
    )


def _check_folders(data_sets: Sequence[DataSet], opened: Sequence[Records]) -> None:
    """Raises DataError if data sets of two roots, with the same json, have the same records."""
    first: dict[Any, DataSet] = {}
    for each, records in zip(data_sets, opened):
        other = first.setdefault(records.folder, each)
        if os.fspath(other.root) != os.fspath(each.root):
            raise DataError(
                f"{each}: its json is that of {other}, so that one folder, {records.folder}, would"
                " have the records of both. Rename a split, or leave config.data.records_dir empty"
            )


def _joined(parts: Sequence[Records]) -> Records:
    """All records, concatenated."""
    if len(parts) == 1:
        return parts[0]

    return Records(
        folder=None,
        source=_JoinedSource([part.source for part in parts]),
        image_ids=np.concatenate([part.image_ids for part in parts]),
        image_hw=np.concatenate([part.image_hw for part in parts]),
        num_people=np.concatenate([part.num_people for part in parts]),
        people=PeopleColumns.concatenated([part.people for part in parts]),
        unreadable=tuple(itertools.chain(*(part.unreadable for part in parts))),
    )


class _JoinedSource(Sequence):
    """Sources of records, concatenated."""

    def __init__(self, sources: Sequence[Sequence[dict[str, Any]]]):
        self.sources = sources
        self.starts = list(itertools.accumulate(map(len, sources), initial=0))

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, index):
        which = bisect.bisect_right(self.starts, index) - 1
        return self.sources[which][index - self.starts[which]]
