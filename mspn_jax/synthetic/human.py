"""Figures of drawn people: a pose, the points of a body in it, and the parts to draw.

A figure is a set of named 3-D points, x to the right, y down, z toward the viewer, so that
foreshortening, what hides what, and the person's left and right all follow from turning one body.
Before it is turned, a body faces along z and its left side is at positive x; the origin is between
the hips, the unit about its stature.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mspn_jax.skeletons import COCO
from mspn_jax.synthetic.canvas import Color, Rng, sample_color

Points = dict[str, np.ndarray]  # name -> (3,)

# --- pose: angles -----------------------------------------------------------------------------

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
# The trunk leans forward; the knee bends the shin backward.
# Rare kinds are rare on purpose: a first run has minutes to learn them all.
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
    """Angles in radians; of arms and legs, the left one first."""

    arms: Sequence[np.ndarray]  # swing, spread, elbow, fold
    legs: Sequence[np.ndarray]  # swing, spread, knee
    lean: float
    head: Sequence[float]  # turned sideways, nodding
    view: float  # the body turned about its long axis: 0 faces the viewer, pi shows its back
    pitch: float  # how far from above the viewer looks
    roll: float  # the body turned within the picture


def _pick(rng: Rng, table: Sequence[tuple]) -> tuple:
    """A row without its share."""
    return table[rng.choice(len(table), p=[row[0] for row in table])][1:]


def _within(rng: Rng, *ranges_deg: tuple[float, float]) -> np.ndarray:
    return np.radians(rng.uniform(*np.transpose(ranges_deg)))


def _around(rng: Rng, table: Sequence[tuple]) -> float:
    mean, deviation = _pick(rng, table)
    return np.radians(rng.choice((-1, 1)) * mean + rng.normal(0, deviation))


def sample_pose(rng: Rng) -> Pose:
    roll = _around(rng, ROLLS)
    on_hands = abs(roll) > np.radians(140)
    lean, *leg = _pick(rng, STANCES)
    (lean, turn, nod, pitch) = _within(rng, lean, (-35, 35), (-15, 20), (0, 20))
    return Pose(
        arms=[_within(rng, *(RAISED_ARM[1:] if on_hands else _pick(rng, ARMS))) for _ in range(2)],
        legs=[_within(rng, *leg) for _ in range(2)],
        lean=lean,
        head=(turn, nod),
        view=_around(rng, VIEWS),
        pitch=pitch,
        roll=roll,
    )


# --- figure: points, and the parts drawn on them ------------------------------------------------

LENGTHS = {
    "shin": 0.24, "thigh": 0.24, "hip": 0.075, "trunk": 0.28, "shoulder": 0.115, "neck": 0.045,
    "upper_arm": 0.165, "forearm": 0.15, "hand": 0.035, "foot": 0.09, "head": 0.115,
}  # fmt: skip
SIDES = {"left": 1, "right": -1}
HEAD = {  # on a head of radius 1
    "head": (0, 0, 0), "jaw": (0, 0.45, 0.2), "hair": (0, -0.25, -0.3), "nape": (0, 0.75, -0.5),
    "nose": (0, 0.15, 1.0), "mouth": (0, 0.6, 0.8),
    "left_eye": (0.38, -0.1, 0.8), "right_eye": (-0.38, -0.1, 0.8),
    "left_ear": (1.0, 0.05, 0), "right_ear": (-1.0, 0.05, 0),
}  # fmt: skip
WHITE, BLACK = np.full(3, 245.0), np.full(3, 20.0)
# None of them a skin's: hair tells the back of a head from a face.
HAIR_COLORS = ((25, 22, 22), (65, 42, 25), (225, 185, 60), (190, 75, 15), (165, 165, 175))
# These are seen, and as keypoints labelled, unless they lie further behind the middle of the head
# than this, in its radii: a nose sticks out, the far ear vanishes in a three-quarter view.
FACE_LIMITS = {"left_eye": 0.05, "right_eye": 0.05, "mouth": 0.05, "nose": -0.1,
               "left_ear": -0.4, "right_ear": -0.4}  # fmt: skip


def _bow(angle: float) -> np.ndarray:
    """Rotation that takes up to forward, and forward to down."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, s], [0, -s, c]])


def _turn(angle: float) -> np.ndarray:
    """Rotation that takes forward to the right."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def _roll(angle: float) -> np.ndarray:
    """Rotation within the picture, clockwise."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def sample_lengths(rng: Rng) -> dict[str, float]:
    lengths = {name: length * rng.uniform(0.87, 1.13) for name, length in LENGTHS.items()}
    lengths["head"] *= rng.choice((1.0, 1.0, 1.25))  # every third is a child
    return lengths


def body_points(pose: Pose, lengths: Mapping[str, float]) -> Points:
    """The joints, and the other points that drawing needs, turned toward the viewer."""
    upper, lower = {}, {}
    for (side, sign), arm, leg in zip(SIDES.items(), pose.arms, pose.legs, strict=True):

        def bone(length: str, swing: float, spread: float, sign: int = sign) -> np.ndarray:
            down = np.cos(spread) * np.array([0, np.cos(swing), np.sin(swing)])
            return lengths[length] * (down + [sign * np.sin(spread), 0, 0])

        swing, spread, elbow, fold = arm
        forearm = (swing + elbow, spread + fold)
        upper[f"{side}_shoulder"] = np.array([sign * lengths["shoulder"], -lengths["trunk"], 0])
        upper[f"{side}_elbow"] = upper[f"{side}_shoulder"] + bone("upper_arm", swing, spread)
        upper[f"{side}_wrist"] = upper[f"{side}_elbow"] + bone("forearm", *forearm)
        upper[f"{side}_hand"] = upper[f"{side}_wrist"] + bone("hand", *forearm)
        upper[f"{side}_waist"] = np.array([sign * 0.06, -0.2 * lengths["trunk"], 0])

        swing, spread, knee = leg
        foot = (swing - knee + np.radians(75), spread + np.radians(12))
        lower[f"{side}_hip"] = np.array([sign * lengths["hip"], 0, 0])
        lower[f"{side}_knee"] = lower[f"{side}_hip"] + bone("thigh", swing, spread)
        lower[f"{side}_ankle"] = lower[f"{side}_knee"] + bone("shin", swing - knee, spread / 2)
        lower[f"{side}_toes"] = lower[f"{side}_ankle"] + bone("foot", *foot)

    for name, level, forward in (("throat", 1, 0), ("collar", 1, 0.035), ("breast", 0.82, 0.05),
                                 ("belly", 0.25, 0.05)):  # fmt: skip
        upper[name] = np.array([0, -level * lengths["trunk"], forward])
    turn, nod = pose.head
    head_rotation = lengths["head"] * _turn(turn) @ _bow(nod)
    top_of_neck = upper["throat"] - [0, lengths["neck"], 0]
    for name, xyz in HEAD.items():
        upper[name] = top_of_neck + head_rotation @ xyz - [0, lengths["head"], 0]

    camera = _roll(pose.roll) @ _bow(pose.pitch) @ _turn(pose.view)
    bent = camera @ _bow(pose.lean)
    return {name: camera @ xyz for name, xyz in lower.items()} | {
        name: bent @ xyz for name, xyz in upper.items()
    }


class Blob(NamedTuple):
    """The convex hull of circles: a limb of two, a trunk of four, an eye of one."""

    centers: Sequence[str]  # names of points
    radii: np.ndarray
    color: Color


class Part(NamedTuple):
    """Blobs drawn one over the other, and the keypoints that can be seen on them."""

    blobs: Sequence[Blob]
    shows: Sequence[str] = ()
    nearer: float = 0.0  # added to the depth of the first blob, by which the parts are ordered


class Figure(NamedTuple):
    points: Points
    parts: Sequence[Part]
    seen_face: frozenset[str]
    stature: float  # in pixels
    origin_xy: np.ndarray = np.zeros(2)  # of the points, in the picture
    keypoint_names: Sequence[str] = COCO.keypoint_names

    def xy(self, names: Iterable[str] | None = None) -> np.ndarray:
        """(N, 2) image coordinates of points, by default the keypoints."""
        names = self.keypoint_names if names is None else names
        return self.origin_xy + self.stature * np.array([self.points[name][:2] for name in names])


def sample_figure(rng: Rng, pose: Pose, stature: float) -> Figure:
    """Somebody in this pose."""
    lengths = sample_lengths(rng)
    points = body_points(pose, lengths)
    depth_in_head = {name: points[name][2] - points["head"][2] for name in FACE_LIMITS}
    seen_face = frozenset(
        name for name, limit in FACE_LIMITS.items() if depth_in_head[name] > limit * lengths["head"]
    )
    return Figure(points, dress(rng, points, lengths["head"], seen_face), seen_face, stature)


def dress(rng: Rng, points: Points, head: float, seen_face: frozenset[str]) -> list[Part]:
    """The flesh and clothes of a body with a head of radius `head`; adds hems to `points`."""
    skin = np.array([1, 0.76, 0.62]) * rng.uniform(90, 255) + rng.uniform(-8, 8, 3)
    hair = np.array(HAIR_COLORS[rng.choice(len(HAIR_COLORS))]) * rng.uniform(0.7, 1.1)
    shirt, trousers, trim, shoes = (sample_color(rng) for _ in range(4))
    sleeves = rng.choice(("none", "short", "long"))
    arm_color = shirt if sleeves == "long" else skin
    shin_color = trousers if rng.random() < 0.65 else skin
    stoutness = rng.uniform(1.2, 1.6)

    def blob(centers: str, radii: Sequence[float], color: Color, unit: float = stoutness) -> Blob:
        return Blob(centers.split(), unit * np.array(radii), color)

    def hem(name: str, start: str, end: str, fraction: float) -> str:
        points[name] = points[start] + fraction * (points[end] - points[start])
        return name

    parts = []
    for side in SIDES:
        shoulder, elbow, wrist = (f"{side}_{joint}" for joint in ("shoulder", "elbow", "wrist"))
        hip, knee, ankle = (f"{side}_{joint}" for joint in ("hip", "knee", "ankle"))
        upper_arm = [blob(f"{shoulder} {elbow}", (0.034, 0.027), arm_color)]
        if sleeves == "short":
            cuff = hem(f"{side}_cuff", shoulder, elbow, 0.55)
            upper_arm.append(blob(f"{shoulder} {cuff}", (0.037, 0.034), shirt))
        hand = blob(f"{wrist} {side}_hand", (0.02, 0.022), skin)
        forearm = blob(f"{elbow} {wrist}", (0.027, 0.02), arm_color)
        thigh = blob(f"{hip} {knee}", (0.056, 0.039), trousers)
        shin = blob(f"{knee} {ankle}", (0.037, 0.024), shin_color)
        shoe = blob(f"{ankle} {side}_toes", (0.026, 0.02), shoes)
        parts += [
            Part(upper_arm, (shoulder, elbow), 0.01),
            Part([hand, forearm], (elbow, wrist), 0.012),
            Part([thigh], (hip, knee)),
            Part([shin], (knee, ankle), -0.002),
            Part([shoe], (ankle,), -0.004),
        ]

    shoulders, hips = ("left_shoulder", "right_shoulder"), ("left_hip", "right_hip")
    trunk = [blob("left_shoulder right_shoulder left_waist right_waist",
                  (0.04, 0.04, 0.056, 0.056), shirt)]  # fmt: skip
    for stripe in range(1, rng.choice((1, 4), p=(0.65, 0.35))):
        ends = [hem(f"{side}_stripe{stripe}", f"{side}_shoulder", f"{side}_waist", stripe / 4)
                for side in SIDES]  # fmt: skip
        trunk.append(blob(" ".join(ends), (0.012, 0.012), trim))
    parts += [
        Part([blob("left_hip right_hip", (0.057, 0.057), trousers)], hips, -0.012),
        Part(trunk, shoulders + hips, -0.01),
        Part([blob("throat head", (0.032, 0.032), skin)], nearer=-0.005),
        Part([blob("collar breast", (0.022, 0.006), skin)]),  # only the front has an open collar
    ]
    if rng.random() < 0.6:
        parts.append(Part([blob("breast belly", (0.008, 0.008), trim)]))  # and buttons
    if rng.random() < 0.15:
        hems = [hem(f"{side}_skirt", f"{side}_hip", f"{side}_knee", 0.75) for side in SIDES]
        skirt = blob(" ".join((*hips, *hems)), (0.058, 0.058, 0.06, 0.06), trim)
        parts.append(Part([skirt], hips, 0.03))

    features = (
        ("left_eye", 0.17, WHITE), ("left_eye", 0.1, BLACK),
        ("right_eye", 0.17, WHITE), ("right_eye", 0.1, BLACK),
        ("mouth", 0.13, 0.6 * skin), ("nose", 0.14, 0.75 * skin),
    )  # fmt: skip
    face = [blob("head jaw", (0.98, 0.66), skin, head)]
    face += [blob(name, (radius,), color, head)
             for name, radius, color in features if name in seen_face]  # fmt: skip
    locks = blob("hair nape", (1.07, rng.choice((0.45, 0.8), p=(0.6, 0.4))), hair, head)
    on_face = tuple(FACE_LIMITS)
    parts += [Part(face, on_face), Part([locks], on_face, 0.1 * head)]
    parts += [Part([blob(ear, (0.22,), 0.75 * skin, head)], on_face, 0.4 * head)
              for ear in ("left_ear", "right_ear") if ear in seen_face]  # fmt: skip
    return parts
