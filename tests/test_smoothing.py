"""The One-Euro filter: jitter goes, motion stays."""

import numpy as np

from mspn_jax.people import People
from mspn_jax.skeletons import COCO
from mspn_jax.smoothing import FORGET_S, RISE_HZ, SLOW_HZ, SPEED_HZ, Smoother

PER_SECOND = 25


def person(xy, scores=1.0, size=100.0) -> People:
    """One person with all 17 joints at a point."""
    return People(
        boxes_xywh=np.array([[0, 0, 0.4 * size, size]]),
        box_scores=np.ones(1),
        keypoints_image_xy=np.broadcast_to(np.asarray(xy, float), (1, 17, 2)).copy(),
        keypoint_scores=np.broadcast_to(np.asarray(scores, float), (1, 17)).copy(),
        skeleton=COCO,
        person_scores=np.ones(1),
        ids=np.array([7]),
    )


def smoothed(track, size=100.0, step=1 / PER_SECOND) -> np.ndarray:
    """(T, 2) positions of a joint, one a frame, after smoothing."""
    smoother = Smoother()
    return np.array(
        [smoother.update(person(xy, size=size), i * step)[0, 3] for i, xy in enumerate(track)]
    )


def one_euro(values, step, scale):
    """The paper's algorithm for one coordinate, written plainly."""

    def weight(cutoff):
        return 1 / (1 + 1 / (2 * np.pi * cutoff) / step)

    x, speed, out = values[0], 0.0, [values[0]]
    for value in values[1:]:
        speed += weight(SPEED_HZ) * ((value - x) / step - speed)
        x += weight(SLOW_HZ + RISE_HZ * abs(speed) / scale) * (value - x)
        out.append(x)
    return out


def test_it_is_the_papers_filter():
    values = np.random.default_rng(0).normal(0, 5, 40).cumsum()
    track = np.stack([values, np.zeros(40)], 1)
    for size, step in ((100.0, 0.04), (300.0, 0.1)):
        ours = smoothed(track, size, step)
        np.testing.assert_allclose(ours[:, 0], one_euro(values, step, size), rtol=1e-9)


def test_jitter_is_less_and_motion_hardly_late():
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 2, (200, 2))
    assert smoothed(noise)[50:].std() < 0.6 * noise[50:].std()
    running = np.arange(100)[:, None] * [8.0, 0]  # two statures a second
    assert np.abs(smoothed(running) - running)[20:].max() < 8  # less than a frame late


def test_a_larger_person_is_smoothed_alike():
    track = np.random.default_rng(2).normal(0, 2, (50, 2)).cumsum(0)
    np.testing.assert_allclose(smoothed(3 * track, size=300.0), 3 * smoothed(track))


def test_a_joint_that_was_not_found_starts_again():
    smoother = Smoother()
    smoother.update(person((0, 0)), 0.0)
    assert (smoother.update(person((50, 0), 0.5), 0.04)[0] == (50, 0)).all()  # not found
    assert (smoother.update(person((9, 0)), 0.08)[0] == (9, 0)).all()  # nothing to smooth with
    assert (smoother.update(person((19, 0)), 0.12)[0, :, 0] < 18).all()


def test_a_person_who_was_away_starts_again():
    smoother = Smoother()
    for first, away, is_smooth in ((0.0, FORGET_S - 0.1, True), (10.0, FORGET_S + 0.1, False)):
        smoother.update(person((0, 0)), first)
        xy = smoother.update(person((10, 0)), first + away)[0, 0]
        assert (xy[0] < 10) == is_smooth


def test_nobody_is_nobody():
    people = person((0, 0))[:0]
    assert Smoother().update(people, 0.0).shape == (0, 17, 2)
