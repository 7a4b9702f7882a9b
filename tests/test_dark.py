"""The decoding "dark" against the paper's formulas, and against peaks of known position."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mspn_jax import heatmaps

BINOMIAL = np.array([1, 4, 6, 4, 1]) / 16  # OpenCV's Gaussian kernel of size 5

decode = jax.jit(lambda maps: heatmaps.decode(maps, decoding="dark"))


def gaussian(center_xy, sigma=1.0, height=24, width=18, peak=255.0):
    """The value of a Gaussian at the centers of the cells."""
    y, x = np.mgrid[:height, :width]
    x, y = x - center_xy[0], y - center_xy[1]
    return peak * np.exp(-(x**2 + y**2) / (2 * sigma**2))


def decoded_cells(maps):
    """The positions of the peaks of (N, H, W) maps, in cells."""
    keypoints, _ = decode(jnp.asarray(np.moveaxis(maps, 0, -1)[None], jnp.float32))
    return np.asarray(keypoints)[0] / 4 - 0.5


def by_the_paper(heatmap):
    """Equations 6 to 10 of arXiv 1910.06278 in float64: the maximum m - D''(m)^-1 D'(m), in cells.

    It is m on the border, and where the step in a direction is a cell or more.
    """
    height, width = heatmap.shape
    blurred = np.zeros_like(heatmap)
    for y, x, i, j in itertools.product(range(height), range(width), range(-2, 3), range(-2, 3)):
        if 0 <= y + i < height and 0 <= x + j < width:
            blurred[y, x] += BINOMIAL[i + 2] * BINOMIAL[j + 2] * heatmap[y + i, x + j]
    y, x = np.unravel_index(blurred.argmax(), blurred.shape)
    plain = np.array([x, y], np.float64)
    if not (0 < x < width - 1 and 0 < y < height - 1):
        return plain
    p = np.log(np.maximum(blurred * heatmap.max() / blurred.max(), 1e-10))
    gradient = np.array([p[y, x + 1] - p[y, x - 1], p[y + 1, x] - p[y - 1, x]]) / 2
    xx, yy = np.diff(p[y, x - 1 : x + 2], 2)[0], np.diff(p[y - 1 : y + 2, x], 2)[0]
    xy = (p[y + 1, x + 1] - p[y + 1, x - 1] - p[y - 1, x + 1] + p[y - 1, x - 1]) / 4
    hessian = np.array([[xx, xy], [xy, yy]])
    if not (np.linalg.eigvalsh(hessian) < 0).all():
        return plain
    step = -np.linalg.solve(hessian, gradient)
    return plain + step if (np.abs(step) < 1).all() else plain


def test_it_is_the_papers():
    rng = np.random.default_rng(0)
    maps = []
    for _ in range(60):
        sigma_xy, tilt = rng.uniform(0.8, 2.5, 2), rng.uniform(-0.6, 0.6)
        y, x = np.mgrid[:24, :18]
        x, y = x - rng.uniform(-1, 18), y - rng.uniform(-1, 24)
        a, b = x / sigma_xy[0], y / sigma_xy[1]
        smooth = rng.uniform(20, 255) * np.exp(-(a**2 + b**2 - 2 * tilt * a * b) / 2)
        maps.append(smooth + rng.normal(0, rng.choice([0.01, 1, 8]), (24, 18)))
    expected = np.stack([by_the_paper(each) for each in maps])
    moved = (expected % 1 != 0).any(1)
    assert 30 < moved.sum() < 58  # some are on the border, or have no clear peak
    np.testing.assert_allclose(decoded_cells(np.stack(maps)), expected, atol=1e-4)


@pytest.mark.parametrize(("sigma", "within"), [(1.0, 0.01), (1.5, 0.003), (2.5, 0.003)])
def test_a_gaussian_has_its_own_center(sigma, within):
    centers = np.random.default_rng(1).uniform((5, 5), (12, 18), (200, 2))
    found = decoded_cells(np.stack([gaussian(center, sigma) for center in centers]))
    np.testing.assert_allclose(found, centers, atol=within)
    maps = np.stack([gaussian(center, sigma) for center in centers])
    quarters, _ = heatmaps.decode(jnp.asarray(np.moveaxis(maps, 0, -1)[None], jnp.float32))
    assert np.abs(np.asarray(quarters)[0] / 4 - 0.5 - centers).max() > 0.2


def test_a_target_gives_the_middle_of_its_cell():
    xy = np.random.default_rng(2).uniform(0, (71.9, 95.9), (1, 200, 2)).astype(np.float32)
    xy[0, :2] = [[0.5, 50], [71.5, 95.5]]
    targets, _ = heatmaps.encode(jnp.asarray(xy), jnp.ones((1, 200)), (96, 72), (24, 18), (5,))
    found, scores = decode(targets[:, 0])
    inner = ((xy >= 12) & (xy < (60, 84))).all(-1)  # the blur reaches 2 cells
    np.testing.assert_allclose(found[inner], 4 * np.floor(xy[inner] / 4) + 2, atol=1e-4)
    np.testing.assert_allclose(found[0, :2], [[2, 50], [70, 94]], atol=1e-4)  # on a border
    np.testing.assert_array_equal(scores, heatmaps.decode(targets[:, 0])[1])


@pytest.mark.parametrize("merged", [False, True])
def test_keypoints_of_mixed_targets_have_no_bias(merged):
    """A network unsure of a keypoint gives the mean target of all its possible positions."""
    rng = np.random.default_rng(3)

    def mixed(xy):
        ones = jnp.ones(xy.shape[:2])
        targets, _ = heatmaps.encode(jnp.asarray(xy), ones, (96, 72), (24, 18), (5,))
        return targets[:, 0].mean(-1, keepdims=True)

    for _ in range(5):
        xy = rng.normal(rng.uniform((30, 40), (40, 50)), 4.0, (1, 4000, 2)).astype(np.float32)
        maps = mixed(xy)
        if merged:
            maps = heatmaps.merge_flipped(maps, mixed(xy * (-1, 1) + (71, 0)), np.array([0]))
        found, _ = heatmaps.decode(maps, decoding="dark", merged=merged)
        np.testing.assert_allclose(found[0, 0], xy[0].mean(0), atol=0.1)  # half a cell is 2


def test_an_empty_map_is_as_for_the_quarter():
    maps = jnp.stack([jnp.zeros((24, 18)), -jnp.asarray(gaussian((9, 12)), jnp.float32)], -1)[None]
    for mine, other in zip(decode(maps), heatmaps.decode(maps), strict=True):
        np.testing.assert_array_equal(mine, other)
    merged = heatmaps.decode(maps, decoding="dark", merged=True)
    np.testing.assert_array_equal([decode(maps)[0], merged[0]], np.full((2, 1, 2, 2), -4))


@pytest.mark.parametrize(
    ("logarithms", "step_xy"),
    [
        ([[-3, -1, -3], [-1.0, 0, -0.5], [-3, -1, -3]], (1 / 6, 0)),
        ([[-9, -1, -0.1], [-1, 0, -0.8], [-0.1, -1, -9]], (0, 0)),  # a saddle
        ([[-3.8, -1, -0.1], [-1, 0, -0.8], [-0.1, -1, -3.8]], (0, 0)),  # a peak 1.1 cells away
        ([[-3, -1, -3], [-1e9, 0, -0.5], [-3, -1, -3]], (0.482226, 0)),  # a zero, as log 1e-10
    ],
)
def test_the_step_is_to_a_peak_within_a_cell(logarithms, step_xy):
    heatmap = np.zeros((1, 5, 5, 1), np.float32)
    heatmap[0, 1:4, 1:4, 0] = 100 * np.exp(logarithms)
    found, _ = heatmaps.decode(jnp.asarray(heatmap), stride=1, kernel_size=1, decoding="dark")
    np.testing.assert_allclose(found[0, 0], 2.5 + np.array(step_xy), atol=1e-5)


def test_there_is_no_other_decoding():
    with pytest.raises(ValueError, match="decoding is 'udp', and must be quarter or dark"):
        heatmaps.decode(jnp.zeros((1, 8, 6, 2)), decoding="udp")
