"""The order of training: against a plain version, and its properties for several data sets."""

import dataclasses
import itertools

import numpy as np
import pytest

from mspn_jax.data import augment
from mspn_jax.data.order import Order, Share, Stretch
from mspn_jax.data.records import PeopleColumns, Records
from mspn_jax.skeletons import COCO

SEED = 5
ALONE = [1, 3, 2, 1, 4, 1, 2]  # people of each picture
OTHERS = [[2, 1, 2], [1] * 11, [3, 0, 4, 1, 1]]


def records_of(num_people: list[int]) -> Records:
    """Records of pictures with so many people each, who have different keypoints labelled."""
    rng = np.random.default_rng(0)
    total, count = sum(num_people), len(num_people)
    return Records(
        folder=None,
        source=[{}] * count,
        image_ids=np.arange(count),
        image_hw=np.full((count, 2), 100),
        num_people=np.array(num_people),
        people=PeopleColumns(
            boxes_xyxy=np.zeros((total, 4), np.float32),
            keypoints_image_xy=np.zeros((total, 17, 2), np.float32),
            visibility=rng.integers(0, 3, (total, 17)).astype(np.float32),
        ),
        unreadable=(),
    )


def order_of(num_people: list[int], shares=(), seed: int = SEED) -> Order:
    return Order(records_of(num_people), COCO, augment.Settings(), seed, shares)


def mixed(*weights: float) -> tuple[Order, list[int], list[int]]:
    """An order of `ALONE` and `OTHERS`; the people of each, in all and in an epoch."""
    sets = [ALONE, *OTHERS][: len(weights)]
    totals = list(map(sum, sets))
    counts = [round(weight * total) for weight, total in zip(weights, totals)]
    shares = [Share(len(each), count) for each, count in zip(sets, counts)]
    return order_of(list(itertools.chain(*sets)), shares), totals, counts


def assert_same(stretch: Stretch, other: Stretch) -> None:
    for name in ("records", "rows"):
        np.testing.assert_array_equal(getattr(stretch, name), getattr(other, name))
    for field in dataclasses.fields(augment.Augmentation):
        a, b = (getattr(each.augmentation, field.name) for each in (stretch, other))
        np.testing.assert_array_equal(a, b)


def test_one_data_set_is_in_the_order_that_is_written_out_here():
    """Runs resume only if this order stays: epoch by epoch, one permutation and one sample."""
    records = records_of(ALONE)
    starts = np.cumsum([0, *ALONE])
    pictures, rows, augmentations = [], [], []
    for epoch in range(4):
        rng = np.random.default_rng([SEED, epoch])
        order = rng.permutation(len(ALONE))
        sampled = augment.sample(
            rng,
            records.people.visibility,
            COCO.is_upper_body,
            COCO.flip_permutation,
            augment.Settings(),
        )
        for picture in order:
            for row in range(starts[picture], starts[picture + 1]):
                pictures.append(picture)
                rows.append(row)
                augmentations.append(sampled[row : row + 1])
    stream = order_of(ALONE).take(0, 4 * sum(ALONE))
    expected = Stretch(
        np.array(pictures), np.array(rows), augment.Augmentation.concatenated(augmentations)
    )
    assert_same(stream, expected)
    assert stream.augmentation.half_body.any() and stream.augmentation.flip.any()


WEIGHTS = (1.0, 0.4, 2.0, 1 / 3)


def test_any_stretch_is_that_of_the_whole_stream():
    order, _, counts = mixed(*WEIGHTS)
    whole = order.take(0, 200)
    assert order.per_epoch == sum(counts)
    for start, stop in ((0, 1), (7, 90), (199, 200), (120, 200)):
        assert_same(mixed(*WEIGHTS)[0].take(start, stop), whole[start:stop])


def test_weights_are_exact():
    """Every epoch has the same number of each; every pass has everyone once, in any weight."""
    order, totals, counts = mixed(*WEIGHTS)
    assert totals == [14, 5, 11, 9] and counts == [14, 2, 22, 3]
    epochs = 90  # a multiple of every pass: 2 of 5, 3 of 9
    rows = order.take(0, epochs * order.per_epoch).rows
    ends = np.cumsum(totals)
    data_set = np.searchsorted(ends, rows, side="right")
    for i, (total, count) in enumerate(zip(totals, counts)):
        for epoch in np.split(data_set, epochs):
            assert (epoch == i).sum() == count
        sequence = rows[data_set == i]
        for everyone in np.split(sequence, epochs * count // total):
            assert sorted(everyone.tolist()) == list(range(ends[i] - total, ends[i]))


def test_the_people_of_a_picture_stay_together():
    """Each picture of a data set is decoded once a pass: an epoch does not part its people."""
    order, _, _ = mixed(1.0, 2.0, 2.0)
    for epoch in range(5):
        records = order.take(epoch * order.per_epoch, (epoch + 1) * order.per_epoch).records
        runs = [record for record, _ in itertools.groupby(records.tolist())]
        # A picture may end one pass and begin the next.
        assert 7 + 2 * 3 + 2 * 11 - 2 <= len(runs) <= 7 + 2 * 3 + 2 * 11


def test_pictures_are_shuffled_among_those_of_the_others():
    """The place of each in an epoch is uniform, and so the means of all data sets are equal."""
    order, totals, _ = mixed(1.0, 2.0, 1.0)
    epochs = 800
    rows = order.take(0, epochs * order.per_epoch).rows.reshape(epochs, -1)
    data_set = np.searchsorted(np.cumsum(totals), rows, side="right")
    place = np.broadcast_to(np.arange(order.per_epoch), rows.shape)
    for i in range(3):
        mean = place[data_set == i].mean() / (order.per_epoch - 1)
        assert mean == pytest.approx(0.5, abs=0.02)
        assert (data_set[:, :2] == i).any() and (data_set[:, -2:] == i).any()
    assert len({tuple(epoch) for epoch in data_set}) > epochs / 2


def test_data_sets_are_sampled_independently():
    """The first has the order that it has alone. Two equal ones have different orders."""
    order, totals, counts = mixed(*WEIGHTS)
    stream = order.take(0, 10 * order.per_epoch)
    assert_same(
        stream[np.flatnonzero(stream.rows < totals[0])], order_of(ALONE).take(0, 10 * counts[0])
    )
    total = sum(ALONE)
    twins = order_of(ALONE + ALONE, [Share(len(ALONE), total)] * 2).take(0, 2 * total)
    first, second = (twins[np.flatnonzero(twins.rows // total == i)] for i in (0, 1))
    assert first.rows.tolist() != (second.rows - total).tolist()
    assert set(first.augmentation.scale) & set(second.augmentation.scale) == set()


def test_the_seed_changes_the_order():
    order, other = (order_of(ALONE, seed=seed).take(0, sum(ALONE)) for seed in (5, 6))
    assert order.rows.tolist() != other.rows.tolist()
