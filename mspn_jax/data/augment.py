"""One person's augmentation: `draw` chooses it, `apply` carries it out. The two meet in `Drawn`.

Source: mmpose 1.3.2 (RandomFlip, RandomHalfBody, RandomBBoxTransform, TopdownAffine).
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from mspn_jax import geometry

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much to augment. The defaults are the published configs'.

    Attributes:
      flip_probability: of mirroring left to right.
      half_body_probability: of keeping the upper or lower half, for people with at least
        `half_body_min_keypoints` labelled keypoints, where the skeleton names an upper body; the
        upper is preferred with
        `upper_body_probability`, and a half needs its own minimum of keypoints.
      half_body_padding: the region's size over the extent of its keypoints.
      shift: greatest shift, as a share of the region's size.
      scale: greatest change of the region's size, as a share of it.
      rotation_deg: greatest rotation.
    """

    flip_probability: float = 0.5
    half_body_probability: float = 0.3
    half_body_min_keypoints: int = 9
    upper_body_probability: float = 0.7
    min_upper_keypoints: int = 2
    min_lower_keypoints: int = 3
    half_body_padding: float = 1.5
    shift_probability: float = 0.3
    shift: float = 0.16
    scale_probability: float = 1.0
    scale: float = 0.5
    rotation_probability: float = 0.6
    rotation_deg: float = 80.0


NONE = Settings(
    flip_probability=0, half_body_probability=0, shift_probability=0, scale_probability=0,
    rotation_probability=0,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A choice, made.

    Attributes:
      flip: mirror picture and keypoints first.
      half_body: (K,) bool, the keypoints (of the mirrored person, if mirrored) to center on, or
        None for the whole box.
      shift_xy: in units of the region's size.
      scale: factor on the region's size.
      rotation_deg: of the region.
    """

    flip: bool = False
    half_body: Bool[Array, "K"] | None = None
    shift_xy: tuple[float, float] = (0.0, 0.0)
    scale: float = 1.0
    rotation_deg: float = 0.0


def draw(
    rng: np.random.Generator,
    visibility: Float[Array, "K"],
    is_upper_body: Bool[Array, "K"],
    flip_permutation: Array,
    settings: Settings,
) -> Drawn:
    """Chooses an augmentation for a person with these keypoints labelled.

    The same numbers are taken from `rng` whatever is chosen, but for the rejected ones of the
    truncated normals.
    """
    flip, half_body, prefer_upper, shift, scale, rotation = rng.random(6)
    normals = _truncated_normal(rng, 4)
    flip = flip < settings.flip_probability
    labelled = visibility[flip_permutation] > 0 if flip else visibility > 0
    return Drawn(
        flip=bool(flip),
        half_body=_draw_half_body(labelled, is_upper_body, half_body, prefer_upper, settings),
        shift_xy=tuple((settings.shift * normals[:2]).tolist())
        if shift < settings.shift_probability else (0.0, 0.0),
        scale=1 + settings.scale * float(normals[2]) if scale < settings.scale_probability else 1.0,
        rotation_deg=settings.rotation_deg * float(normals[3])
        if rotation < settings.rotation_probability else 0.0,
    )  # fmt: skip


def _draw_half_body(labelled, is_upper_body, chance, prefer_upper, settings: Settings):
    if chance >= settings.half_body_probability:
        return None
    if labelled.sum() < settings.half_body_min_keypoints or not is_upper_body.any():
        return None
    upper, lower = labelled & is_upper_body, labelled & ~is_upper_body
    enough_upper = upper.sum() >= settings.min_upper_keypoints
    enough_lower = lower.sum() >= settings.min_lower_keypoints
    if enough_upper and enough_lower:
        return upper if prefer_upper < settings.upper_body_probability else lower
    return upper if enough_upper else lower if enough_lower else None


def _truncated_normal(rng: np.random.Generator, count: int) -> Float[Array, "N"]:
    """Standard normals, drawn again until they lie in [-1, 1]."""
    values = rng.standard_normal(count)
    while (outside := np.abs(values) > 1).any():
        values[outside] = rng.standard_normal(outside.sum())
    return values


def apply(
    drawn: Drawn,
    keypoints_image_xy: Float[Array, "K 2"],
    visibility: Float[Array, "K"],
    box_xyxy: Float[Array, "4"],
    padding: float,
    image_width: int,
    crop_hw: tuple[int, int],
    flip_permutation: Array,
    half_body_padding: float,
) -> tuple[Float[Array, "2 3"], Float[Array, "K 2"], Float[Array, "K"]]:
    """Moves a person's region and keypoints.

    Args:
      box_xyxy: clipped to the picture.
      padding: the region's size over the box's.
      image_width: pixels.

    Returns:
      image_to_crop: from the picture, mirrored already if `drawn.flip`.
      keypoints_crop_xy and visibility, left and right swapped with the mirror.
    """
    center_xy, size_wh = geometry.crop_region(box_xyxy, padding)
    if drawn.flip:
        keypoints_image_xy = geometry.mirror_x(keypoints_image_xy, image_width)[flip_permutation]
        visibility = visibility[flip_permutation]
        center_xy = geometry.mirror_x(center_xy, image_width)
    if drawn.half_body is not None:
        kept_xy = keypoints_image_xy[drawn.half_body]
        center_xy = kept_xy.mean(0)
        size_wh = (kept_xy.max(0) - kept_xy.min(0)) * np.float32(half_body_padding)
    center_xy = center_xy + np.array(drawn.shift_xy, np.float32) * size_wh
    size_wh = geometry.fix_aspect(size_wh * np.float32(drawn.scale), crop_hw)
    image_to_crop = geometry.image_to_crop(center_xy, size_wh, drawn.rotation_deg, crop_hw)
    return image_to_crop, geometry.transform(image_to_crop, keypoints_image_xy), visibility
