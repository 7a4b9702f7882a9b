"""People's augmentation: `draw` chooses it, `apply` carries it out. The two meet in `Drawn`.

Source: mmpose 1.3.2 (RandomFlip, RandomHalfBody, RandomBBoxTransform, TopdownAffine).
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

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
    """A choice, made, for one person or many.

    Attributes:
      flip: mirror picture and keypoints first.
      half_body: the keypoints (of the mirrored person, if mirrored) to center on; none of a
        person's for the whole box.
      shift_xy: in units of the region's size.
      scale: factor on the region's size.
      rotation_deg: of the region.
    """

    flip: Bool[Array, "*N"]
    half_body: Bool[Array, "*N K"]
    shift_xy: Float[Array, "*N 2"]
    scale: Float[Array, "*N"]
    rotation_deg: Float[Array, "*N"]

    def __getitem__(self, rows: slice | Array) -> "Drawn":
        return Drawn(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))


UNCHANGED = Drawn(*map(np.array, (False, False, 0.0, 1.0, 0.0)))


def draw(
    rng: np.random.Generator,
    visibility: Float[Array, "*N K"],
    is_upper_body: Bool[Array, "K"],
    flip_permutation: Array,
    settings: Settings,
) -> Drawn:
    """Chooses augmentations for people with these keypoints labelled.

    The same numbers are taken from `rng` whatever is chosen, but for the rejected ones of the
    truncated normals.
    """
    people = visibility.shape[:-1]
    flip, half_body, prefer_upper, shift, scale, rotation = rng.random((6, *people))
    shift_x, shift_y, resize, turn = _truncated_normal(rng, (4, *people))
    flip = flip < settings.flip_probability
    labelled = np.where(flip[..., None], visibility[..., flip_permutation], visibility) > 0
    shift_xy = settings.shift * np.stack([shift_x, shift_y], -1)
    return Drawn(
        flip=flip,
        half_body=_draw_half_body(labelled, is_upper_body, half_body, prefer_upper, settings),
        shift_xy=np.where((shift < settings.shift_probability)[..., None], shift_xy, 0.0),
        scale=np.where(scale < settings.scale_probability, 1 + settings.scale * resize, 1.0),
        rotation_deg=np.where(
            rotation < settings.rotation_probability, settings.rotation_deg * turn, 0.0
        ),
    )


def _draw_half_body(
    labelled, is_upper_body, chance, prefer_upper, settings: Settings
) -> Bool[Array, "*N K"]:
    upper, lower = labelled & is_upper_body, labelled & ~is_upper_body
    enough_upper = upper.sum(-1) >= settings.min_upper_keypoints
    enough_lower = lower.sum(-1) >= settings.min_lower_keypoints
    preferred = prefer_upper < settings.upper_body_probability
    chosen = np.where(
        (enough_upper & (preferred | ~enough_lower))[..., None],
        upper,
        lower & enough_lower[..., None],
    )
    enough = labelled.sum(-1) >= settings.half_body_min_keypoints
    wanted = (chance < settings.half_body_probability) & enough & is_upper_body.any()
    return chosen & wanted[..., None]


def _truncated_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Standard normals, drawn again until they lie in [-1, 1]."""
    values = rng.standard_normal(shape)
    while (outside := np.abs(values) > 1).any():
        values[outside] = rng.standard_normal(outside.sum())
    return values


def apply(
    drawn: Drawn,
    keypoints_image_xy: Float[Array, "*N K 2"],
    visibility: Float[Array, "*N K"],
    boxes_xyxy: Float[Array, "*N 4"],
    padding: float,
    image_width: int | Int[Array, "*N"],
    crop_hw: tuple[int, int],
    flip_permutation: Array,
    half_body_padding: float,
) -> tuple[Float[Array, "*N 2 3"], Float[Array, "*N K 2"], Float[Array, "*N K"]]:
    """Moves people's regions and keypoints.

    Args:
      boxes_xyxy: clipped to the picture.
      padding: the region's size over the box's.
      image_width: pixels.

    Returns:
      image_to_crop: from the picture, mirrored already if `drawn.flip`.
      keypoints_crop_xy and visibility, left and right swapped with the mirror.
    """
    center_xy, size_wh = geometry.crop_region(boxes_xyxy, padding)
    flip, image_width = drawn.flip[..., None], np.asarray(image_width)
    mirrored_xy = geometry.mirror_x(keypoints_image_xy, image_width[..., None])
    keypoints_image_xy = np.where(
        flip[..., None], mirrored_xy[..., flip_permutation, :], keypoints_image_xy
    )
    visibility = np.where(flip, visibility[..., flip_permutation], visibility)
    center_xy = np.where(flip, geometry.mirror_x(center_xy, image_width), center_xy)

    half_body = np.broadcast_to(drawn.half_body, visibility.shape)
    is_half = half_body.any(-1, keepdims=True)
    kept = (half_body | ~is_half)[..., None]  # of the others all, so that the mean is a number
    low = keypoints_image_xy.min(-2, where=kept, initial=np.inf)
    high = keypoints_image_xy.max(-2, where=kept, initial=-np.inf)
    center_xy = np.where(is_half, keypoints_image_xy.mean(-2, where=kept), center_xy)
    size_wh = np.where(is_half, (high - low) * np.float32(half_body_padding), size_wh)

    center_xy = center_xy + drawn.shift_xy.astype(np.float32) * size_wh
    size_wh = size_wh * drawn.scale.astype(np.float32)[..., None]
    size_wh = geometry.fix_aspect(size_wh, crop_hw)
    image_to_crop = geometry.image_to_crop(center_xy, size_wh, drawn.rotation_deg, crop_hw)
    return image_to_crop, geometry.transform(image_to_crop, keypoints_image_xy), visibility
