"""The bounds of doubts about a whole file, each from both sides."""

import numpy as np
import pytest

from mspn_jax.data.plausibility import find_doubts
from mspn_jax.data.schema import Findings


def doubts(box_xywh=(100, 100, 100, 200), keypoint_xy=(150, 150), *, odd=20, sound=0) -> list[str]:
    """The doubts about odd and sound people, each with one keypoint, in 400x400 pictures."""
    boxes = np.array([box_xywh] * odd + [(100, 100, 100, 200)] * sound, np.float64)
    keypoints = np.array([[keypoint_xy]] * odd + [[(150, 150)]] * sound, np.float64)
    visibility = np.full((odd + sound, 1), 2.0)
    findings = Findings()
    find_doubts(
        np.arange(odd + sound),
        boxes,
        keypoints,
        visibility,
        np.full((odd + sound, 2), 400),
        findings,
    )
    return [finding.what for finding in findings]


@pytest.mark.parametrize(
    "keypoint_xy, is_far", [((209, 150), False), ((211, 150), True), ((150, 79), True)]
)
def test_keypoints_a_tenth_of_the_box_outside_it(keypoint_xy, is_far):
    found = doubts(keypoint_xy=keypoint_xy)
    assert [("keypoints outside their box" in what) for what in found] == [True] * is_far


@pytest.mark.parametrize("width, is_beyond", [(339, False), (341, True)])
def test_boxes_a_tenth_of_the_picture_beyond_it(width, is_beyond):
    found = doubts((100, 100, width, 200), (250, 150))
    assert [("reach beyond their picture" in what) for what in found] == [True] * is_beyond


@pytest.mark.parametrize("height, is_tiny", [(1.0, True), (1.1, False)])
def test_boxes_of_a_pixel(height, is_tiny):
    found = doubts((0.5, 0.5, 0.4, height), (0.6, 0.6))
    assert [("at most one pixel" in what) for what in found] == [True] * is_tiny


@pytest.mark.parametrize("odd, is_said", [(2, False), (3, True)])
def test_a_doubt_takes_more_than_a_tenth_of_the_people(odd, is_said):
    assert bool(doubts(keypoint_xy=(300, 150), odd=odd, sound=20 - odd)) == is_said
