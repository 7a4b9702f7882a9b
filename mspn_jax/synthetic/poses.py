"""Poses of people, sampled: standing, walking, sitting, waving ..."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from mspn_jax.synthetic.canvas import Rng

# Share of the people, then ranges in degrees. A limb hangs at 0; it swings forward and spreads
# sideways. The forearm swings (elbow) and spreads (fold) beyond the upper arm.
RAISED_ARM = (0.16, (-10, 20), (130, 178), (0, 10), (-15, 60))
ARMS = (  # share, swing, spread, elbow, fold
    RAISED_ARM,
    (0.28, (-20, 20), (4, 25), (0, 40), (-12, 8)),  # hanging
    (0.16, (-45, 50), (4, 25), (20, 105), (-15, 5)),  # walking
    (0.10, (-30, 5), (30, 55), (0, 30), (-115, -75)),  # hand on the hip
    (0.13, (-10, 30), (55, 105), (0, 20), (40, 115)),  # waving
    (0.12, (-15, 25), (70, 110), (0, 20), (-25, 25)),  # stretched out sideways
    (0.05, (50, 130), (0, 30), (0, 60), (-30, 10)),  # reaching forward
)
# The trunk leans forward; the knee bends the shin backward. Rare kinds are rare on purpose: a first
# run has only minutes to learn them all.
STANCES = (  # share, lean, swing, spread, knee
    (0.54, (-5, 10), (-8, 8), (1, 14), (0, 10)),  # standing
    (0.28, (-3, 20), (-35, 50), (0, 10), (0, 75)),  # walking, running
    (0.10, (-10, 15), (-15, 40), (15, 45), (10, 90)),  # jumping
    (0.06, (-8, 25), (65, 95), (3, 28), (60, 105)),  # sitting
    (0.01, (5, 40), (80, 125), (5, 35), (100, 145)),  # crouching
    (0.01, (35, 95), (-15, 15), (2, 18), (0, 20)),  # bending
)
# Share, mean (to either side) and standard deviation in degrees.
VIEWS = ((0.64, 0, 12), (0.14, 40, 10), (0.04, 90, 10), (0.18, 180, 12))  # 0 is from the front
ROLLS = ((0.96, 0, 6), (0.025, 35, 10), (0.01, 90, 12), (0.005, 180, 10))  # 180 is a handstand


class Pose(NamedTuple):
    """Angles in radians; the left arm and the left leg come first."""

    arms: Sequence[Float[np.ndarray, "4"]]  # swing, spread, elbow, fold
    legs: Sequence[Float[np.ndarray, "3"]]  # swing, spread, knee
    lean: float
    head: tuple[float, float]  # turned sideways, nodding
    view: float  # the body turned about its long axis: 0 faces the viewer, pi shows its back
    pitch: float  # how far from above the viewer looks
    roll: float  # the body turned within the picture


def sample_pose(rng: Rng) -> Pose:
    roll = _around(rng, ROLLS)
    on_hands = abs(roll) > np.radians(140)
    lean, *leg = _pick(rng, STANCES)
    lean, turn, nod, pitch = _within(rng, [lean, (-35, 35), (-15, 20), (0, 20)])
    return Pose(
        arms=[_within(rng, RAISED_ARM[1:] if on_hands else _pick(rng, ARMS)) for _ in range(2)],
        legs=[_within(rng, leg) for _ in range(2)],
        lean=lean,
        head=(turn, nod),
        view=_around(rng, VIEWS),
        pitch=pitch,
        roll=roll,
    )


def _pick(rng: Rng, table: Sequence[tuple]) -> tuple:
    """Samples a row by its share, and returns the rest of the row."""
    return table[rng.choice(len(table), p=[row[0] for row in table])][1:]


def _within(rng: Rng, ranges_deg: Sequence[tuple[int, int]]) -> Float[np.ndarray, " N"]:
    return np.radians(rng.uniform(*np.transpose(ranges_deg)))


def _around(rng: Rng, table: Sequence[tuple]) -> float:
    mean, deviation = _pick(rng, table)
    return np.radians(rng.choice((-1, 1)) * mean + rng.normal(0, deviation))
