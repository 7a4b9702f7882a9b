"""Augmentation of people: `sample` makes an `Augmentation`, and `apply` applies it.

Source: mmpose 1.3.2 (RandomFlip, RandomHalfBody, RandomBBoxTransform, TopdownAffine). The published
configs change no colors.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from mspn_jax import geometry
from mspn_jax.data.rows import Rows


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much to augment. The defaults are those of the published configs.

    Attributes:
      flip_probability: of mirroring left to right.
      half_body_probability: of cropping the upper or lower half of a person with at least
        `half_body_min_keypoints` labelled keypoints, if the skeleton names an upper body.
      upper_body_probability: of preferring the upper half.
      min_upper_keypoints, min_lower_keypoints: labelled keypoints that a half needs.
      half_body_padding: size of a half's region over the extent of its keypoints.
      shift: largest shift, as a fraction of the region's size.
      scale: largest change of the region's size, as a fraction of it.
      rotation_deg: largest rotation.
      color_probability: of changing the colors of a crop.
      brightness, contrast, saturation: largest change of each, as a fraction of it.
      hue_deg: largest turn of the hue.
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
    color_probability: float = 0.0
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.5
    hue_deg: float = 15.0


@dataclasses.dataclass(frozen=True)
class Augmentation(Rows):
    """What was sampled for one person or many.

    Attributes:
      flip: mirror the picture and the keypoints first.
      half_body: the keypoints (of the mirrored person, if mirrored) to center on; all False for
        the whole box.
      shift_xy: in units of the region's size.
      scale: factor on the region's size.
      rotation_deg: of the region.
      color: factors on brightness, contrast and saturation, and the turn of the hue in degrees.
    """

    flip: Bool[np.ndarray, "*N"]
    half_body: Bool[np.ndarray, "*N K"]
    shift_xy: Float[np.ndarray, "*N 2"]
    scale: Float[np.ndarray, "*N"]
    rotation_deg: Float[np.ndarray, "*N"]
    color: Float[np.ndarray, "*N 4"]


SAME_COLORS = np.array([1.0, 1.0, 1.0, 0.0])
UNCHANGED = Augmentation(
    flip=np.array(False),
    half_body=np.array([False]),
    shift_xy=np.zeros(2),
    scale=np.array(1.0),
    rotation_deg=np.array(0.0),
    color=SAME_COLORS,
)


def sample(
    rng: np.random.Generator,
    visibility: Float[np.ndarray, "*N K"],
    is_upper_body: Bool[np.ndarray, "K"],
    flip_permutation: Int[np.ndarray, "K"],
    settings: Settings,
) -> Augmentation:
    """Samples augmentations for people with these keypoints labelled.

    Every choice takes the same numbers from `rng`, except for rejected samples of the truncated
    normals.
    """
    people = visibility.shape[:-1]
    chances = map(np.asarray, rng.random((6, *people)))  # for one person, arrays without axes
    flip, half_body, prefer_upper, shift, scale, rotation = chances
    shift_x, shift_y, resize, turn = _truncated_normal(rng, (4, *people))
    # Colors have a generator of their own, so that everything else is sampled as without them.
    (of_colors,) = rng.spawn(1)
    recolor = np.asarray(of_colors.random(people) < settings.color_probability)
    by = (settings.brightness, settings.contrast, settings.saturation, settings.hue_deg)
    color = SAME_COLORS + by * of_colors.uniform(-1, 1, (*people, 4))
    flip = np.asarray(flip < settings.flip_probability)
    labelled = np.where(flip[..., None], visibility[..., flip_permutation], visibility) > 0
    shift_xy = settings.shift * np.stack([shift_x, shift_y], -1)
    return Augmentation(
        flip=flip,
        half_body=_half_body(labelled, is_upper_body, half_body, prefer_upper, settings),
        shift_xy=np.where((shift < settings.shift_probability)[..., None], shift_xy, 0.0),
        scale=np.where(scale < settings.scale_probability, 1 + settings.scale * resize, 1.0),
        rotation_deg=np.where(
            rotation < settings.rotation_probability, settings.rotation_deg * turn, 0.0
        ),
        color=np.where(recolor[..., None], color, SAME_COLORS),
    )


def _half_body(
    labelled: Bool[np.ndarray, "*N K"],
    is_upper_body: Bool[np.ndarray, "K"],
    chance: Float[np.ndarray, "*N"],
    prefer_upper: Float[np.ndarray, "*N"],
    settings: Settings,
) -> Bool[np.ndarray, "*N K"]:
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


def _truncated_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
    """Standard normals, sampled again until they lie in [-1, 1]."""
    values = rng.standard_normal(shape)
    while (outside := np.abs(values) > 1).any():
        values[outside] = rng.standard_normal(outside.sum())
    return values


def apply(
    augmentation: Augmentation,
    keypoints_image_xy: Float[np.ndarray, "*N K 2"],
    visibility: Float[np.ndarray, "*N K"],
    boxes_xyxy: Float[np.ndarray, "*N 4"],
    *,
    padding: float,
    image_width: int | Int[np.ndarray, "*N"],
    crop_hw: tuple[int, int],
    flip_permutation: Int[np.ndarray, "K"],
    half_body_padding: float,
) -> tuple[Float[np.ndarray, "*N 2 3"], Float[np.ndarray, "*N K 2"], Float[np.ndarray, "*N K"]]:
    """Moves people's regions and keypoints.

    Args:
      boxes_xyxy: image pixels.
      padding: size of the region over the box's.
      image_width: pixels.

    Returns:
      image_to_crop: from the picture, which is mirrored already if `augmentation.flip`.
      keypoints_crop_xy and visibility, with left and right exchanged if mirrored.
    """
    center_xy, size_wh = geometry.padded_region(boxes_xyxy, padding)
    flip, image_width = augmentation.flip[..., None], np.asarray(image_width)
    mirrored_xy = geometry.mirror_x(keypoints_image_xy, image_width[..., None])
    keypoints_image_xy = np.where(
        flip[..., None], mirrored_xy[..., flip_permutation, :], keypoints_image_xy
    )
    visibility = np.where(flip, visibility[..., flip_permutation], visibility)
    center_xy = np.where(flip, geometry.mirror_x(center_xy, image_width), center_xy)

    half_body = np.broadcast_to(augmentation.half_body, visibility.shape)
    is_half = half_body.any(-1, keepdims=True)
    # All of a whole person's keypoints, since a mean over none is NaN.
    kept = (half_body | ~is_half)[..., None]
    low = keypoints_image_xy.min(-2, where=kept, initial=np.inf)
    high = keypoints_image_xy.max(-2, where=kept, initial=-np.inf)
    center_xy = np.where(is_half, keypoints_image_xy.mean(-2, where=kept), center_xy)
    size_wh = np.where(is_half, (high - low) * np.float32(half_body_padding), size_wh)

    center_xy = center_xy + augmentation.shift_xy.astype(np.float32) * size_wh
    size_wh = size_wh * augmentation.scale.astype(np.float32)[..., None]
    size_wh = geometry.fix_aspect(size_wh, crop_hw)
    image_to_crop = geometry.image_to_crop(center_xy, size_wh, augmentation.rotation_deg, crop_hw)
    return image_to_crop, geometry.transform(image_to_crop, keypoints_image_xy), visibility


# RGB -> luminance and two axes of color, YIQ as in Python's colorsys.
_YIQ = np.array(((0.3, 0.59, 0.11), (0.599, -0.2773, -0.3217), (0.213, -0.5251, 0.3121)))
_MID_GREY = 127.5


def color_matrices(color: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, "N 3 4"]:
    """Maps of RGB from 0 to 255, for `cv2.transform`.

    Turning the hue and scaling the saturation keep the luminance. Then the contrast scales the
    distance from mid grey, and the brightness everything.

    Args:
      color: as in `Augmentation`.
    """
    brightness, contrast, saturation, hue_deg = color.T
    turn = np.radians(hue_deg)
    of_yiq = np.zeros((len(color), 3, 3))
    of_yiq[:, 0, 0] = 1
    of_yiq[:, 1, 1] = of_yiq[:, 2, 2] = saturation * np.cos(turn)
    of_yiq[:, 2, 1] = saturation * np.sin(turn)
    of_yiq[:, 1, 2] = -of_yiq[:, 2, 1]
    of_rgb = np.linalg.inv(_YIQ) @ of_yiq @ _YIQ * (brightness * contrast)[:, None, None]
    added = np.broadcast_to((brightness * _MID_GREY * (1 - contrast))[:, None], (len(color), 3))
    return np.concatenate([of_rgb, added[..., None]], 2)
