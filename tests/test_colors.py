"""Colors of crops: against Python's colorsys, and only where they are asked for."""

import colorsys
import dataclasses
import itertools

import numpy as np
import pytest

from mspn_jax.data import augment, pipeline
from mspn_jax.data.records import open_records
from mspn_jax.skeletons import COCO
from mspn_jax.synthetic import people

CROP_HW = (64, 48)
COLORED = augment.Settings(color_probability=1.0)


def changed(rgb: np.ndarray, color: tuple[float, ...]) -> np.ndarray:
    """Colors (N, 3), before they are rounded and clipped."""
    (matrix,) = augment.color_matrices(np.array([color], float))
    return rgb @ matrix[:, :3].T + matrix[:, 3]


def by_hand(rgb: np.ndarray, color: tuple[float, ...]) -> np.ndarray:
    """The same, one pixel after the other."""
    brightness, contrast, saturation, hue_deg = color
    results = []
    for pixel in rgb / 255:
        y, i, q = colorsys.rgb_to_yiq(*pixel)
        size, angle = np.hypot(i, q), np.arctan2(q, i) + np.radians(hue_deg)
        small = 0.05 * size * saturation  # beside mid grey: colorsys clips at 0 and 1
        red_green_blue = colorsys.yiq_to_rgb(0.5, small * np.cos(angle), small * np.sin(angle))
        pixel = y + (np.array(red_green_blue) - 0.5) / 0.05
        results.append(255 * brightness * (0.5 + contrast * (pixel - 0.5)))
    return np.array(results)


def some_colors() -> np.ndarray:
    steps = (0, 60, 128, 200, 255)
    return np.array(list(itertools.product(steps, repeat=3)), np.uint8)


@pytest.mark.parametrize(
    "color",
    [
        (1, 1, 1, 0),
        (1.3, 1, 1, 0),
        (0.7, 1, 1, 0),
        (1, 1.3, 1, 0),
        (1, 0.7, 1, 0),
        (1, 1, 1.5, 0),
        (1, 1, 0, 0),
        (1, 1, 1, 15),
        (1, 1, 1, -90),
        (0.8, 1.2, 1.4, -12),
    ],
)
def test_colors_are_those_of_colorsys(color):
    rgb = some_colors()
    np.testing.assert_allclose(changed(rgb, color), by_hand(rgb, color), atol=1e-9)


def test_grey_has_no_hue():
    grey = np.repeat(np.arange(0, 256, 5, dtype=np.uint8)[:, None], 3, 1)
    for color in ((1, 1, 2, 0), (1, 1, 0, 0), (1, 1, 1, 120)):
        np.testing.assert_allclose(changed(grey, color), grey, atol=1e-9)


def sampled(settings: augment.Settings, count: int = 4000) -> augment.Augmentation:
    visibility = np.ones((count, 17), np.float32)
    rng = np.random.default_rng(3)
    return augment.sample(rng, visibility, COCO.is_upper_body, COCO.flip_permutation, settings)


def test_colors_are_sampled_within_their_range_and_as_often_as_is_asked():
    limits = dict(brightness=0.2, contrast=0.3, saturation=0.6, hue_deg=25.0)
    color = sampled(augment.Settings(color_probability=0.25, **limits)).color
    differs = (color != augment.SAME_COLORS).any(1)
    assert differs.mean() == pytest.approx(0.25, abs=0.02)
    change = color[differs] - augment.SAME_COLORS
    low, high = change.min(0), change.max(0)
    for k, limit in enumerate(limits.values()):
        assert -limit <= low[k] < -0.98 * limit and 0.98 * limit < high[k] <= limit
    np.testing.assert_allclose(np.corrcoef(change.T), np.eye(4), atol=0.15)


def test_everything_else_is_sampled_as_without_colors():
    """The generator's later numbers are the same, too."""
    without, with_colors = (np.random.default_rng(3) for _ in range(2))
    for _ in range(2):
        plain, colored = (
            augment.sample(
                rng, np.ones((100, 17)), COCO.is_upper_body, COCO.flip_permutation, settings
            )
            for rng, settings in ((without, augment.Settings()), (with_colors, COLORED))
        )
        assert (plain.color == augment.SAME_COLORS).all()
        for field in dataclasses.fields(augment.Augmentation):
            a, b = (getattr(each, field.name) for each in (plain, colored))
            assert np.array_equal(a, b) == (field.name != "color")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn")
    people.write_dataset(root, {"train2017": 20})
    return open_records(root=root, split="train2017", skeleton=COCO, only_with_people=True)


def take(records, settings, count=4, **arguments):
    batches = pipeline.training_batches(
        records, COCO, crop_hw=CROP_HW, batch_size=8, seed=5, settings=settings, **arguments
    )
    return list(itertools.islice(batches, count))


def test_crops_of_batches_have_the_colors_of_their_person(records):
    """Each crop without colors, recolored here, is the crop with colors; keypoints stay."""
    settings = dataclasses.replace(COLORED, color_probability=0.5)
    plain, colored = take(records, augment.Settings()), take(records, settings)
    order = pipeline.Order(records, COCO, settings, 5)
    chunks = 128  # batches of 8 in a chunk
    everyone = order.take(0, 8 * chunks).augmentation.color
    kinds = set()
    for i, (before, after) in enumerate(zip(plain, colored, strict=True)):
        np.testing.assert_array_equal(before.keypoints_crop_xy, after.keypoints_crop_xy)
        for row in range(8):
            color = everyone[row * chunks + i]
            expected = by_hand(before.crops[row].reshape(-1, 3)[::37], tuple(color))
            crop = after.crops[row].reshape(-1, 3)[::37]
            np.testing.assert_allclose(crop, np.clip(expected, 0, 255), atol=1.01)  # rounded
            kinds.add((color == augment.SAME_COLORS).all())
    assert kinds == {True, False}


def test_colors_depend_on_seed_and_step_alone(records):
    whole = take(records, COLORED, 6)
    later = take(records, COLORED, 3, first_step=3, num_threads=3)
    shares = [take(records, COLORED, 6, process=p, num_processes=2) for p in range(2)]
    for batch, other in zip(whole[3:], later, strict=True):
        np.testing.assert_array_equal(batch.crops, other.crops)
    for batch, *parts in zip(whole, *shares, strict=True):
        together = np.concatenate([part.crops for part in parts])
        np.testing.assert_array_equal(batch.crops, together)
