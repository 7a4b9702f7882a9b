"""One person: the points of a body in a pose, and the clothes to draw.

Before it is turned, a body faces along z and its left side is at positive x. The origin is between
the hips, and the unit is about its stature.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from mspn_jax.synthetic import bodies
from mspn_jax.synthetic.bodies import Body, Part, Points
from mspn_jax.synthetic.canvas import Color, Rng, sample_color
from mspn_jax.synthetic.poses import Pose

LENGTHS = {
    "shin": 0.24,
    "thigh": 0.24,
    "hip": 0.075,
    "trunk": 0.28,
    "shoulder": 0.115,
    "neck": 0.045,
    "upper_arm": 0.165,
    "forearm": 0.15,
    "hand": 0.035,
    "foot": 0.09,
    "head": 0.115,
}
SIDES = {"left": 1, "right": -1}
HEAD = {  # on a head of radius 1
    "head": (0, 0, 0),
    "jaw": (0, 0.45, 0.2),
    "hair": (0, -0.25, -0.3),
    "nape": (0, 0.75, -0.5),
    "nose": (0, 0.15, 1.0),
    "mouth": (0, 0.6, 0.8),
    "left_eye": (0.38, -0.1, 0.8),
    "right_eye": (-0.38, -0.1, 0.8),
    "left_ear": (1.0, 0.05, 0),
    "right_ear": (-1.0, 0.05, 0),
}
FRONT = {  # level as a share of the trunk's length, distance forward
    "throat": (1, 0),
    "collar": (1, 0.035),
    "breast": (0.82, 0.05),
    "belly": (0.25, 0.05),
}
# A point is visible, and labelled, if it is this many radii of the head nearer than its middle: a
# nose sticks out, the far ear vanishes in a three-quarter view.
FACE_LIMITS = {
    "left_eye": 0.05,
    "right_eye": 0.05,
    "mouth": 0.05,
    "nose": -0.1,
    "left_ear": -0.4,
    "right_ear": -0.4,
}


def sample_lengths(rng: Rng) -> dict[str, float]:
    lengths = {name: length * rng.uniform(0.87, 1.13) for name, length in LENGTHS.items()}
    lengths["head"] *= rng.choice((1.0, 1.0, 1.25))  # every third is a child
    return lengths


def body_points(pose: Pose, lengths: Mapping[str, float]) -> Points:
    """The joints, and the other points that drawing needs, turned toward the viewer."""
    upper, lower = {}, {}
    for (side, sign), arm, leg in zip(SIDES.items(), pose.arms, pose.legs, strict=True):
        upper |= {f"{side}_{name}": xyz for name, xyz in _arm(sign, arm, lengths).items()}
        lower |= {f"{side}_{name}": xyz for name, xyz in _leg(sign, leg, lengths).items()}
    for name, (level, forward) in FRONT.items():
        upper[name] = np.array([0, -level * lengths["trunk"], forward])
    turn, nod = pose.head
    head_rotation = lengths["head"] * bodies.turn(turn) @ bodies.bow(nod)
    top_of_neck = upper["throat"] - [0, lengths["neck"], 0]
    for name, xyz in HEAD.items():
        upper[name] = top_of_neck + head_rotation @ xyz - [0, lengths["head"], 0]

    camera = bodies.roll(pose.roll) @ bodies.bow(pose.pitch) @ bodies.turn(pose.view)
    bent = camera @ bodies.bow(pose.lean)
    return {name: camera @ xyz for name, xyz in lower.items()} | {
        name: bent @ xyz for name, xyz in upper.items()
    }


def _arm(sign: int, arm: Float[np.ndarray, "4"], lengths: Mapping[str, float]) -> Points:
    swing, spread, elbow, fold = arm
    forearm = _direction(sign, swing + elbow, spread + fold)
    points = {
        "waist": np.array([sign * 0.06, -0.2 * lengths["trunk"], 0]),
        "shoulder": np.array([sign * lengths["shoulder"], -lengths["trunk"], 0]),
    }
    upper_arm = _direction(sign, swing, spread)
    points["elbow"] = points["shoulder"] + lengths["upper_arm"] * upper_arm
    points["wrist"] = points["elbow"] + lengths["forearm"] * forearm
    points["hand"] = points["wrist"] + lengths["hand"] * forearm
    return points


def _leg(sign: int, leg: Float[np.ndarray, "3"], lengths: Mapping[str, float]) -> Points:
    swing, spread, knee = leg
    shin = _direction(sign, swing - knee, spread / 2)
    foot = _direction(sign, swing - knee + np.radians(75), spread + np.radians(12))
    points = {"hip": np.array([sign * lengths["hip"], 0, 0])}
    points["knee"] = points["hip"] + lengths["thigh"] * _direction(sign, swing, spread)
    points["ankle"] = points["knee"] + lengths["shin"] * shin
    points["toes"] = points["ankle"] + lengths["foot"] * foot
    return points


def _direction(sign: int, swing: float, spread: float) -> Float[np.ndarray, "3"]:
    """A limb hangs down at 0, swings forward, and spreads to the side that `sign` gives."""
    down = np.cos(spread) * np.array([0, np.cos(swing), np.sin(swing)])
    return down + [sign * np.sin(spread), 0, 0]


WHITE, BLACK = np.full(3, 245.0), np.full(3, 20.0)
# No skin has one of these colors: hair tells the back of a head from a face.
HAIR_COLORS = ((25, 22, 22), (65, 42, 25), (225, 185, 60), (190, 75, 15), (165, 165, 175))


class Look(NamedTuple):
    """Colors and clothes of a person."""

    skin: Color
    hair: Color
    shirt: Color
    trousers: Color
    trim: Color
    shoes: Color
    sleeves: str  # none, short or long
    has_long_trousers: bool
    stoutness: float  # the unit of radii, except on the head


def sample_look(rng: Rng) -> Look:
    skin = np.array([1, 0.76, 0.62]) * rng.uniform(90, 255) + rng.uniform(-8, 8, 3)
    hair = np.array(HAIR_COLORS[rng.choice(len(HAIR_COLORS))]) * rng.uniform(0.7, 1.1)
    shirt, trousers, trim, shoes = (sample_color(rng) for _ in range(4))
    return Look(
        *(skin, hair, shirt, trousers, trim, shoes),
        sleeves=rng.choice(("none", "short", "long")),
        has_long_trousers=rng.random() < 0.65,
        stoutness=rng.uniform(1.2, 1.6),
    )


def sample_person(rng: Rng, pose: Pose, stature: float) -> Body:
    """A person in this pose, `stature` pixels tall."""
    lengths = sample_lengths(rng)
    points = body_points(pose, lengths)
    head = lengths["head"]
    seen_face = [
        name
        for name, limit in FACE_LIMITS.items()
        if points[name][2] - points["head"][2] > limit * head
    ]
    look = sample_look(rng)
    parts = [
        *(part for side in SIDES for part in _limb_parts(points, look, side)),
        *_trunk_parts(rng, points, look),
        *_head_parts(rng, look, head, seen_face),
    ]
    return Body(points, parts, stature, turned_away=frozenset(FACE_LIMITS.keys() - seen_face))


def _limb_parts(points: Points, look: Look, side: str) -> list[Part]:
    """An arm and a leg; a short sleeve adds its hem to `points`."""
    shoulder, elbow, wrist = (f"{side}_{joint}" for joint in ("shoulder", "elbow", "wrist"))
    hip, knee, ankle = (f"{side}_{joint}" for joint in ("hip", "knee", "ankle"))
    arm_color = look.shirt if look.sleeves == "long" else look.skin
    shin_color = look.trousers if look.has_long_trousers else look.skin
    blob = partial(bodies.blob, unit=look.stoutness)

    upper_arm = [blob(f"{shoulder} {elbow}", (0.034, 0.027), arm_color)]
    if look.sleeves == "short":
        cuff = _hem(points, f"{side}_cuff", shoulder, elbow, 0.55)
        upper_arm.append(blob(f"{shoulder} {cuff}", (0.037, 0.034), look.shirt))
    hand = blob(f"{wrist} {side}_hand", (0.02, 0.022), look.skin)
    forearm = blob(f"{elbow} {wrist}", (0.027, 0.02), arm_color)
    thigh = blob(f"{hip} {knee}", (0.056, 0.039), look.trousers)
    shin = blob(f"{knee} {ankle}", (0.037, 0.024), shin_color)
    shoe = blob(f"{ankle} {side}_toes", (0.026, 0.02), look.shoes)
    return [
        Part(upper_arm, (shoulder, elbow), 0.01),
        Part([hand, forearm], (elbow, wrist), 0.012),
        Part([thigh], (hip, knee)),
        Part([shin], (knee, ankle), -0.002),
        Part([shoe], (ankle,), -0.004),
    ]


def _trunk_parts(rng: Rng, points: Points, look: Look) -> list[Part]:
    """Trunk and neck, perhaps with stripes, buttons and a skirt; adds their ends to `points`."""
    blob = partial(bodies.blob, unit=look.stoutness)
    shoulders, hips = ("left_shoulder", "right_shoulder"), ("left_hip", "right_hip")
    corners = "left_shoulder right_shoulder left_waist right_waist"
    trunk = [blob(corners, (0.04, 0.04, 0.056, 0.056), look.shirt)]
    for stripe in range(1, rng.choice((1, 4), p=(0.65, 0.35))):
        ends = [
            _hem(points, f"{side}_stripe{stripe}", f"{side}_shoulder", f"{side}_waist", stripe / 4)
            for side in SIDES
        ]
        trunk.append(blob(" ".join(ends), (0.012, 0.012), look.trim))
    parts = [
        Part([blob("left_hip right_hip", (0.057, 0.057), look.trousers)], hips, -0.012),
        Part(trunk, shoulders + hips, -0.01),
        Part([blob("throat head", (0.032, 0.032), look.skin)], nearer=-0.005),
        Part([blob("collar breast", (0.022, 0.006), look.skin)]),  # open at the front only
    ]
    if rng.random() < 0.6:
        parts.append(Part([blob("breast belly", (0.008, 0.008), look.trim)]))  # buttons
    if rng.random() < 0.15:
        hems = [
            _hem(points, f"{side}_skirt", f"{side}_hip", f"{side}_knee", 0.75) for side in SIDES
        ]
        skirt = blob(" ".join((*hips, *hems)), (0.058, 0.058, 0.06, 0.06), look.trim)
        parts.append(Part([skirt], hips, 0.03))
    return parts


def _hem(points: Points, name: str, start: str, end: str, fraction: float) -> str:
    """Adds a point between two others, and returns its name."""
    points[name] = points[start] + fraction * (points[end] - points[start])
    return name


def _head_parts(rng: Rng, look: Look, head: float, seen_face: Sequence[str]) -> list[Part]:
    """Face, hair and ears of a head of radius `head`."""
    blob = partial(bodies.blob, unit=head)
    features = (
        ("left_eye", 0.17, WHITE),
        ("left_eye", 0.1, BLACK),
        ("right_eye", 0.17, WHITE),
        ("right_eye", 0.1, BLACK),
        ("mouth", 0.13, 0.6 * look.skin),
        ("nose", 0.14, 0.75 * look.skin),
    )
    face = [
        blob("head jaw", (0.98, 0.66), look.skin),
        *(blob(name, (radius,), color) for name, radius, color in features if name in seen_face),
    ]
    hair = blob("hair nape", (1.07, rng.choice((0.45, 0.8), p=(0.6, 0.4))), look.hair)
    on_face = tuple(FACE_LIMITS)
    return [
        Part(face, on_face),
        Part([hair], on_face, 0.1 * head),
        *(
            Part([blob(ear, (0.22,), 0.75 * look.skin)], on_face, 0.4 * head)
            for ear in ("left_ear", "right_ear")
            if ear in seen_face
        ),
    ]
