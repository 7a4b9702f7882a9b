"""What a person is: the names, order, symmetry and limbs of the keypoints."""

import dataclasses
import functools

import numpy as np


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """A set of K keypoints in a fixed order.

    Attributes:
      name: how configs and `model.json` call it.
      keypoint_names: K names; `left_x` and `right_x` are each other's mirror image.
      limbs: pairs of keypoint indices to draw a line between.
      oks_sigmas: K falloffs of COCO's object keypoint similarity, as fractions of sqrt(area).
      upper_body: names of the keypoints that half-body augmentation counts as the upper half.
    """

    name: str
    keypoint_names: tuple[str, ...]
    limbs: tuple[tuple[int, int], ...]
    oks_sigmas: tuple[float, ...]
    upper_body: tuple[str, ...]

    def __post_init__(self):
        if len(self.oks_sigmas) != self.num_keypoints:
            raise ValueError(
                f"skeleton {self.name!r} has {self.num_keypoints} keypoints"
                f" but {len(self.oks_sigmas)} sigmas"
            )
        self.flip_permutation  # noqa: B018  (an uneven pair is refused now, not at first use)

    @property
    def num_keypoints(self) -> int:
        return len(self.keypoint_names)

    @functools.cached_property
    def flip_permutation(self) -> np.ndarray:
        """(K,) int: keypoint k of a mirrored picture is keypoint `flip_permutation[k]` of it.

        Raises:
          ValueError: a `left_x` has no `right_x`, or the reverse.
        """
        swap = {"left": "right", "right": "left"}

        def mirror(name: str) -> str:
            side, _, rest = name.partition("_")
            return f"{swap[side]}_{rest}" if side in swap else name

        index = {name: i for i, name in enumerate(self.keypoint_names)}
        missing = [mirror(name) for name in index if mirror(name) not in index]
        if missing:
            raise ValueError(f"skeleton {self.name!r} lacks {missing}, the mirror of one it has")
        return np.array([index[mirror(name)] for name in self.keypoint_names])

    @functools.cached_property
    def is_upper_body(self) -> np.ndarray:
        """(K,) bool."""
        return np.array([name in self.upper_body for name in self.keypoint_names])


_COCO_UPPER_BODY = (
    "nose",
    *(f"{side}_{joint}"
      for joint in ("eye", "ear", "shoulder", "elbow", "wrist") for side in ("left", "right")),
)  # fmt: skip

COCO = Skeleton(
    name="coco",
    keypoint_names=(
        *_COCO_UPPER_BODY,
        *(f"{side}_{joint}" for joint in ("hip", "knee", "ankle") for side in ("left", "right")),
    ),
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

SKELETONS = {skeleton.name: skeleton for skeleton in (COCO,)}
