"""The order of training: an endless stream of people, each with an augmentation.

The order is a pure function of the seed. A pass over a data set shuffles its pictures, keeps the
people of a picture together, and samples an augmentation for everyone. The passes of a data set,
one after another, are its sequence of people. An epoch takes the next people of each sequence, as
many as `Share.per_epoch` says, and interleaves their pictures at random. With one data set, an
epoch is by default a pass.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from mspn_jax.data import augment
from mspn_jax.data.records import Records
from mspn_jax.data.rows import Rows
from mspn_jax.skeletons import Skeleton


class Share(NamedTuple):
    """What an epoch takes of a data set.

    Attributes:
      num_pictures: of the data set. Its records follow those of the data set before it.
      per_epoch: how many people an epoch takes.
    """

    num_pictures: int
    per_epoch: int


@dataclasses.dataclass(frozen=True)
class Stretch(Rows):
    """N people of the stream.

    Attributes:
      records: the index of each one's record.
      rows: the row of each in `Records.people`.
      augmentation: one for each.
    """

    records: Int[np.ndarray, "N"]
    rows: Int[np.ndarray, "N"]
    augmentation: augment.Augmentation


class Order:
    """The endless stream of people, epoch after epoch.

    Args:
      shares: of every data set, in the order of their records. By default there is one data set,
        and an epoch shows everyone once.
    """

    def __init__(
        self,
        records: Records,
        skeleton: Skeleton,
        settings: augment.Settings,
        seed: int,
        shares: Sequence[Share] = (),
    ):
        shares = shares or [Share(len(records.num_people), int(records.num_people.sum()))]
        ends = np.cumsum([share.num_pictures for share in shares])
        self.seed = seed
        self.per_epoch = sum(share.per_epoch for share in shares)
        self.taken = [share.per_epoch for share in shares]
        self.sequences = [
            _Sequence(records, slice(end - share.num_pictures, end), skeleton, settings, (seed, i))
            for i, (share, end) in enumerate(zip(shares, ends.tolist()))
        ]
        self.nth_epoch = functools.lru_cache(maxsize=2)(self._epoch)

    def take(self, start: int, stop: int) -> Stretch:
        """The people at these positions of the stream."""
        return _taken(self.nth_epoch, self.per_epoch, start, stop)

    def _epoch(self, epoch: int) -> Stretch:
        parts = [
            sequence.take(epoch * count, (epoch + 1) * count)
            for sequence, count in zip(self.sequences, self.taken)
        ]
        everyone = Stretch.concatenated(parts)
        is_first = np.diff(everyone.records, prepend=-1) != 0  # of their picture
        sequence_of_picture = np.repeat(np.arange(len(parts)), self.taken)[is_first]
        rng = np.random.default_rng([self.seed, epoch, len(parts)])
        turns = rng.permutation(sequence_of_picture)  # the data set of the picture at each place
        place = np.argsort(turns, kind="stable")  # the place of each picture
        return everyone[np.argsort(place[np.cumsum(is_first) - 1], kind="stable")]


class _Sequence:
    """The people of one data set, whose records are the interval `pictures`, pass after pass."""

    def __init__(
        self,
        records: Records,
        pictures: slice,
        skeleton: Skeleton,
        settings: augment.Settings,
        seed: tuple[int, int],
    ):
        self.num_people = records.num_people[pictures]
        self.first_record = pictures.start
        self.first_row = int(records.num_people[: pictures.start].sum())
        self.total = int(self.num_people.sum())
        self.visibility = records.people.visibility[self.first_row : self.first_row + self.total]
        self.skeleton = skeleton
        self.settings = settings
        self.seed = seed
        self.nth_pass = functools.lru_cache(maxsize=2)(self._pass)

    def take(self, start: int, stop: int) -> Stretch:
        return _taken(self.nth_pass, self.total, start, stop)

    def _pass(self, number: int) -> Stretch:
        seed, data_set = self.seed
        rng = np.random.default_rng([seed, number, data_set])
        order = rng.permutation(len(self.num_people))
        augmentation = augment.sample(
            rng,
            self.visibility,
            self.skeleton.is_upper_body,
            self.skeleton.flip_permutation,
            self.settings,
        )
        counts = self.num_people[order]
        first = (np.cumsum(self.num_people) - self.num_people)[order]  # row of each picture
        rows = np.arange(self.total) + np.repeat(first - (np.cumsum(counts) - counts), counts)
        records = np.repeat(order, counts)
        return Stretch(self.first_record + records, self.first_row + rows, augmentation[rows])


def _taken(nth: Callable[[int], Stretch], length: int, start: int, stop: int) -> Stretch:
    """The people at positions of a stream of epochs, or of passes, of `length` people."""
    parts = []
    while start < stop:
        number, first = divmod(start, length)
        parts.append(nth(number)[first : first + stop - start])
        start += len(parts[-1])
    return Stretch.concatenated(parts)
