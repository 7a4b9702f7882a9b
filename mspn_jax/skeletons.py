"""What a person, or an animal, is: the names, order, symmetry and limbs of the keypoints.

`COCO`, `MPII` and `CROWDPOSE` are built in. Any other skeleton is a json file with the same names
as the class's own:

    {"name": "quadruped",
     "keypoint_names": ["nose", "left_paw", "right_paw"],
     "limbs": [["nose", "left_paw"], ["nose", "right_paw"]],
     "oks_sigmas": [0.03, 0.06, 0.06],
     "upper_body": ["nose"]}

`limbs`, `upper_body` and `oks_sigmas` may be left out: no line joins the joints, there is no
half-body augmentation, and every sigma is `DEFAULT_SIGMA`.
"""

import dataclasses
import functools
import itertools
import json
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from mspn_jax.errors import SkeletonError

_MIRROR = {"left": "right", "right": "left", "l": "r", "r": "l"}
SIGMAS = (0.0001, 1)  # the range of oks_sigmas
# Between COCO's eyes (0.025) and hips (0.107). Sigmas change AP, not training.
DEFAULT_SIGMA = 0.05
_WORDS = re.compile(r"[^\W_]+")


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """A set of K keypoints in a fixed order.

    Attributes:
      name: how configs, records and messages call it.
      keypoint_names: K names. A word left or right in one (or l or r; words are parted by `_`,
        `-`, `.` or a space) makes it the mirror image of the name with that word exchanged.
      limbs: pairs of keypoint indices to draw a line between.
      oks_sigmas: K falloffs of COCO's object keypoint similarity, as fractions of sqrt(area).
      upper_body: names of the keypoints that half-body augmentation counts as the upper half.

    Raises:
      SkeletonError: sigmas, limbs or names do not fit each other, or a sigma is out of range.
    """

    name: str
    keypoint_names: tuple[str, ...]
    limbs: tuple[tuple[int, int], ...]
    oks_sigmas: tuple[float, ...]
    upper_body: tuple[str, ...] = ()

    def __post_init__(self):
        if not re.fullmatch(r"[\w-]+", self.name):
            self._refuse("needs a name of letters, digits, _ and -: records are named after it")
        if not self.keypoint_names:
            self._refuse("has no keypoint_names")
        twice = sorted({n for n in self.keypoint_names if self.keypoint_names.count(n) > 1})
        if twice:
            self._refuse(f"names {', '.join(twice)} twice: every keypoint needs a name of its own")
        low, high = SIGMAS
        is_sigma = [low <= sigma <= high for sigma in self.oks_sigmas]
        if len(is_sigma) != self.num_keypoints or not all(is_sigma):
            self._refuse(
                f"needs {self.num_keypoints} oks_sigmas, one a keypoint, from {low} to {high}, and"
                f" has {list(self.oks_sigmas)}: COCO's go from 0.025 (eyes) to 0.107 (hips); 0.05"
                " for all will do if nobody has measured them"
            )
        unknown = sorted(set(self.upper_body) - set(self.keypoint_names))
        if unknown:
            self._refuse(f"has {', '.join(unknown)} in upper_body, but not in keypoint_names")
        missing = [n for n in map(mirror_name, self.keypoint_names) if n not in self.keypoint_names]
        if missing:
            self._refuse(f"lacks {', '.join(missing)}, the mirror image of a keypoint it has")

    def _refuse(self, what: str):
        raise SkeletonError(f"skeleton {self.name!r} {what}")

    @property
    def num_keypoints(self) -> int:
        return len(self.keypoint_names)

    @functools.cached_property
    def flip_permutation(self) -> Int[np.ndarray, "K"]:
        """Keypoint k of a mirrored picture is keypoint `flip_permutation[k]` of the picture."""
        names = self.keypoint_names
        return np.array([names.index(mirror_name(name)) for name in names])

    @functools.cached_property
    def is_upper_body(self) -> Bool[np.ndarray, "K"]:
        """Whether each keypoint belongs to the upper body."""
        return np.array([name in self.upper_body for name in self.keypoint_names])

    @functools.cached_property
    def sides(self) -> tuple[str, ...]:
        """K of "left", "right" and "middle": by the first word of a name that says a side."""
        return tuple(map(_side, self.keypoint_names))

    def to_json(self) -> dict[str, Any]:
        """What a skeleton file holds, limbs by their joints' names."""
        names = self.keypoint_names
        return dataclasses.asdict(self) | {"limbs": [[names[a], names[b]] for a, b in self.limbs]}

    @classmethod
    def from_json(cls, content: Any) -> "Skeleton":
        """The inverse of `to_json`.

        Raises:
          SkeletonError: something is missing, unknown, or does not fit the rest.
        """
        if not isinstance(content, Mapping):
            raise SkeletonError("not a skeleton: a json object is needed")
        known = [field.name for field in dataclasses.fields(cls)]
        required = ["name", "keypoint_names"]
        missing = [key for key in required if key not in content]
        unknown = sorted(set(content) - set(known))
        if missing or unknown:
            faults = [f"lacks {', '.join(missing)}"] * bool(missing)
            faults += [f"does not know {', '.join(unknown)}"] * bool(unknown)
            raise SkeletonError(
                f"not a skeleton: {'; '.join(faults)}. It holds {', '.join(required)} and, if"
                " wanted, limbs, oks_sigmas and upper_body"
            )
        name = content["name"]
        if not isinstance(name, str):
            raise SkeletonError("name must be a string")
        names = _tuple(content, "keypoint_names", "names", str)
        limbs = _tuple(content, "limbs", "pairs of names", list, tuple)
        if not all(len(limb) == 2 for limb in limbs):
            raise SkeletonError(f"skeleton {name!r}: a limb is a pair of names")
        strangers = sorted({str(joint) for limb in limbs for joint in limb if joint not in names})
        if strangers:
            raise SkeletonError(
                f"skeleton {name!r} has limbs to {', '.join(strangers)}, which keypoint_names does"
                " not list"
            )
        sigmas = _tuple(content, "oks_sigmas", "numbers, one a keypoint", int, float)
        if "oks_sigmas" not in content:
            sigmas = (DEFAULT_SIGMA,) * len(names)
        try:
            sigmas = tuple(map(float, sigmas))
        except OverflowError:
            raise SkeletonError(f"oks_sigmas must be from {SIGMAS[0]} to {SIGMAS[1]}") from None
        return cls(
            name=name,
            keypoint_names=names,
            limbs=tuple((names.index(a), names.index(b)) for a, b in limbs),
            oks_sigmas=sigmas,
            upper_body=_tuple(content, "upper_body", "names", str),
        )


def read(path: str | os.PathLike) -> Skeleton:
    """A skeleton from its json file.

    Raises:
      SkeletonError: the file does not exist, is not json, or holds no skeleton; it is named.
    """
    try:
        with open(path, "rb") as file:
            return Skeleton.from_json(json.load(file))
    except OSError as error:
        raise SkeletonError(f"{path}: {error.strerror}") from None
    except SkeletonError as error:
        raise SkeletonError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise SkeletonError(f"{path}: not json ({error})") from None


def mirror_name(name: str) -> str:
    """left_ear -> right_ear, paw_r -> paw_l, Left-Front -> Right-Front; nose stays nose.

    Every word that says a side is exchanged, so that doing it twice gives the name back.
    """

    def mirrored(word: re.Match) -> str:
        other = _MIRROR.get(word[0].lower(), word[0])
        if other == word[0] or word[0].islower():
            return other
        return other.upper() if word[0].isupper() else other.capitalize()

    return _WORDS.sub(mirrored, name)


def _side(name: str) -> str:
    for word in _WORDS.findall(name.lower()):
        if word in _MIRROR:
            return {"l": "left", "r": "right"}.get(word, word)
    return "middle"


def _tuple(content: Mapping[str, Any], key: str, what: str, *types: type) -> tuple[Any, ...]:
    """A list of a json, empty if it is missing."""
    values = content.get(key, [])
    if not isinstance(values, list | tuple) or not all(type(v) in types for v in values):
        raise SkeletonError(f"{key} must be a list of {what}")
    return tuple(values)


def _left_and_right(*joints: str) -> tuple[str, ...]:
    return tuple(f"{side}_{joint}" for joint in joints for side in ("left", "right"))


_COCO_UPPER_BODY = ("nose", *_left_and_right("eye", "ear", "shoulder", "elbow", "wrist"))

COCO = Skeleton(
    name="coco",
    keypoint_names=(*_COCO_UPPER_BODY, *_left_and_right("hip", "knee", "ankle")),
    limbs=(
        (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8),
        (7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
    ),
    oks_sigmas=(
        0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062,
        0.107, 0.107, 0.087, 0.087, 0.089, 0.089,
    ),
    upper_body=_COCO_UPPER_BODY,
)  # fmt: skip

# MPII goes up the right side and down the left one, of the legs and then of the arms. The sigmas
# are those of mmpose 1.3.2; MPII's own metric has none.
_MPII_LEG = {"ankle": 0.089, "knee": 0.083, "hip": 0.107}
_MPII_TRUNK = dict.fromkeys(("pelvis", "thorax", "upper_neck", "head_top"), 0.026)
_MPII_ARM = {"wrist": 0.062, "elbow": 0.072, "shoulder": 0.179}
_MPII_LEGS, _MPII_ARMS = (
    (*(f"right_{joint}" for joint in limb), *(f"left_{joint}" for joint in reversed(limb)))
    for limb in (_MPII_LEG, _MPII_ARM)
)
MPII = Skeleton(
    name="mpii",
    keypoint_names=(*_MPII_LEGS, *_MPII_TRUNK, *_MPII_ARMS),
    limbs=(
        *itertools.pairwise((0, 1, 2, 6, 3, 4, 5)),
        *itertools.pairwise((6, 7, 8, 9)),
        *itertools.pairwise((10, 11, 12, 8, 13, 14, 15)),
    ),
    oks_sigmas=(
        *_MPII_LEG.values(),
        *reversed(_MPII_LEG.values()),
        *_MPII_TRUNK.values(),
        *_MPII_ARM.values(),
        *reversed(_MPII_ARM.values()),
    ),
    upper_body=("thorax", "upper_neck", "head_top", *_MPII_ARMS),
)

# The sigmas are those of CrowdPose's own evaluation.
_CROWDPOSE_SIGMAS = {
    "shoulder": 0.079,
    "elbow": 0.072,
    "wrist": 0.062,
    "hip": 0.107,
    "knee": 0.087,
    "ankle": 0.089,
}
CROWDPOSE = Skeleton(
    name="crowdpose",
    keypoint_names=(*_left_and_right(*_CROWDPOSE_SIGMAS), "head", "neck"),
    limbs=(
        *itertools.pairwise((10, 8, 6, 7, 9, 11)),
        *itertools.pairwise((4, 2, 0, 1, 3, 5)),
        *((0, 6), (1, 7), (12, 13), (0, 13), (1, 13)),
    ),
    oks_sigmas=(*(s for s in _CROWDPOSE_SIGMAS.values() for _ in range(2)), 0.079, 0.079),
    upper_body=(*_left_and_right("shoulder", "elbow", "wrist"), "head", "neck"),
)

SKELETONS = {skeleton.name: skeleton for skeleton in (COCO, MPII, CROWDPOSE)}
