"""Keypoints -> heatmaps and back, on the device.

A cell of a heatmap covers `stride` x `stride` crop pixels. Encoding truncates, cell =
int(keypoint / stride), so decoding adds half a cell. Source: mmpose's MegviiHeatmap.
"""

import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32, Int

PEAK = 255.0  # a target's value at its keypoint
KERNEL_SIZES = (15, 11, 9, 7, 5)  # of the target levels, coarse to fine, in cells
DECODE_KERNEL_SIZE = 5
NO_KEYPOINT_XY = -1.0  # the position decoded from an empty map, in cells
NO_KEYPOINT_SCORE = 0.5  # and its score
LOG_FLOOR = 1e-10  # of a blurred map, before its logarithm


def target_levels(num_stages: int, num_units: int, num_levels: int) -> list[range]:
    """The target level that each unit of each stage learns: `levels[stage][unit]`.

    The last stage learns the last (finest) `num_units` levels, every other stage the first ones.
    """
    first = range(num_units)
    last = range(num_levels - num_units, num_levels)
    return [first] * (num_stages - 1) + [last]


@functools.cache
def _gaussian_table(size: int, kernel_size: int) -> Float32[np.ndarray, "size size"]:
    """Row k: an impulse at cell k, blurred with reflect-101 borders and scaled to 1 at k.

    The kernels are OpenCV's: for sizes 5, 7 and 9 a fixed table, not the formula.
    """
    impulses = np.eye(size)
    kernel = cv2.getGaussianKernel(kernel_size, 0)
    blurred = cv2.sepFilter2D(
        impulses, cv2.CV_64F, kernel, np.ones(1), borderType=cv2.BORDER_REFLECT_101
    )
    return (blurred / blurred.diagonal()[:, None]).astype(np.float32)


def encode(
    keypoints_crop_xy: Float[jax.Array, "B K 2"],
    visibility: Float[jax.Array, "B K"] | Int[jax.Array, "B K"],
    crop_hw: tuple[int, int],
    heatmap_hw: tuple[int, int],
    kernel_sizes: tuple[int, ...] = KERNEL_SIZES,
) -> tuple[Float[jax.Array, "B L H W K"], Float[jax.Array, "B K"]]:
    """Draws the target heatmaps.

    Args:
      keypoints_crop_xy: crop pixels.
      visibility: COCO's 0, 1 or 2; 1 (labelled, hidden) counts like 2.
      crop_hw, heatmap_hw: sizes of the two frames.
      kernel_sizes: the Gaussian of each level, in cells.

    Returns:
      targets: the product of two blurred impulses with reflected borders, 255 at the keypoint's
        cell. Near a border other cells exceed 255. All zero where the keypoint's weight is 0.
      keypoint_weights: min(visibility, 1), 0 where the cell lies outside the map. Keypoints up
        to one cell left of or above the map truncate into cell 0 and count.
    """
    stride_xy = np.array([crop_hw[1] / heatmap_hw[1], crop_hw[0] / heatmap_hw[0]], np.float32)
    cells = jnp.trunc(keypoints_crop_xy / stride_xy).astype(jnp.int32)
    inside = _inside(cells, heatmap_hw)
    keypoint_weights = jnp.minimum(visibility, 1).astype(keypoints_crop_xy.dtype)
    keypoint_weights = jnp.where(
        keypoint_weights < 0.5, keypoint_weights, keypoint_weights * inside
    )
    has_target = inside & (keypoint_weights >= 0.5)
    cells = jnp.where(has_target[..., None], cells, 0)

    rows, columns = (  # (L, H, H) and (L, W, W)
        jnp.asarray(np.stack([_gaussian_table(size, kernel) for kernel in kernel_sizes]))
        for size in heatmap_hw
    )
    across = jnp.moveaxis(columns[:, cells[..., 0]], 2, 3)  # (L, B, W, K)
    down = rows[:, cells[..., 1]] * jnp.where(has_target, PEAK, 0.0)[..., None]
    down = jnp.moveaxis(down, 2, 3)  # (L, B, H, K)
    # Level by level: XLA can then compute each where the loss reads it, instead of storing all.
    levels = [y[:, :, None] * x[:, None] for y, x in zip(down, across, strict=True)]
    return jnp.stack(levels, axis=1), keypoint_weights


def decode(
    heatmaps: Float[jax.Array, "B H W K"],
    stride: int = 4,
    kernel_size: int = DECODE_KERNEL_SIZE,
    decoding: str = "quarter",
    merged: bool = False,
) -> tuple[Float[jax.Array, "B K 2"], Float[jax.Array, "B K"]]:
    """The keypoint of each map: the maximum of the blurred map, refined by less than a cell.

    Args:
      heatmaps: on the 0..255 scale.
      stride: crop pixels per cell.
      kernel_size: the Gaussian blur before the maximum, in cells.
      decoding: "quarter", the reference's: a quarter cell towards the higher neighbour of each
        axis. Or "dark" (Zhang et al., arXiv 1910.06278): to the maximum of the second-order Taylor
        expansion of the blurred map's logarithm.
      merged: whether the maps are those of `merge_flipped`. With "dark" x is then half a crop
        pixel less (see `_dark`); the reference leaves this out.

    Returns:
      keypoints_crop_xy: crop pixels. With "quarter", as in the reference, a maximum on the border,
        or next to the left or top border, is moved neither by the quarter nor by half a cell. With
        "dark" a maximum on the border, or without a clear peak, gives the middle of its cell.
      keypoint_scores: maximum / 255 + 0.5: 0.5 for an empty map, about 1.5 for a perfect one.

    A map without a positive maximum, before or after the blur, has its keypoint at
    (-stride, -stride) and a score of at most 0.5. (The reference returns the maximum of an
    upside-down map, or NaN, for some of these.)
    """
    check_decoding(decoding)
    batch, height, width, num_keypoints = heatmaps.shape
    maximum = heatmaps.max((1, 2))
    blurred = _blur(heatmaps, kernel_size)
    flat = blurred.reshape(batch, height * width, num_keypoints)
    best = flat.argmax(1)  # (B, K), the first of equals in row-major order
    x, y = best % width, best // width
    # The maximum and its eight neighbours.
    steps = np.array([[-1], [0], [1]])
    rows = jnp.clip(y[:, None] + steps, 0, height - 1)  # (B, 3, K)
    columns = jnp.clip(x[:, None] + steps, 0, width - 1)
    cells = (rows[:, :, None] * width + columns[:, None]).reshape(batch, 9, num_keypoints)
    around = jnp.take_along_axis(flat, cells, axis=1).reshape(batch, 3, 3, num_keypoints)
    cells_xy = jnp.stack([x, y], axis=-1)
    offset_xy = _OFFSETS[decoding](around, cells_xy, (height, width))
    if merged and decoding == "dark":
        offset_xy -= np.array([0.5 / stride, 0.0], np.float32)
    found = (maximum > 0) & (around[:, 1, 1] > 0)
    keypoints_crop_xy = stride * jnp.where(found[..., None], cells_xy + offset_xy, NO_KEYPOINT_XY)
    peak = jnp.where(found, maximum, jnp.minimum(maximum, 0.0))
    return keypoints_crop_xy, peak / PEAK + NO_KEYPOINT_SCORE


def check_decoding(decoding: str) -> None:
    """Raises ValueError if there is no such decoding."""
    if decoding not in DECODINGS:
        raise ValueError(f"decoding is {decoding!r}, and must be {' or '.join(DECODINGS)}")


def _quarter(
    around: Float[jax.Array, "B 3 3 K"],
    cells_xy: Int[jax.Array, "B K 2"],
    heatmap_hw: tuple[int, int],
) -> Float[jax.Array, "B K 2"]:
    """From the cell to the keypoint, in cells. `around` is the blurred map around the maximum."""
    slope = jnp.stack(
        [around[:, 1, 2] - around[:, 1, 0], around[:, 2, 1] - around[:, 0, 1]], axis=-1
    )
    moved = ((cells_xy > 1) & (cells_xy < np.array(heatmap_hw[::-1]) - 1)).all(-1)
    return jnp.where(moved[..., None], 0.25 * jnp.sign(slope) + 0.5, 0.0)


def _dark(
    around: Float[jax.Array, "B 3 3 K"],
    cells_xy: Int[jax.Array, "B K 2"],
    heatmap_hw: tuple[int, int],
) -> Float[jax.Array, "B K 2"]:
    """From the cell to the keypoint, in cells: half a cell and -(Hessian)^-1 gradient.

    The paper's targets have their peak at the keypoint itself, so its decoding adds nothing. Here
    the peak is at the truncated position, on average half a cell before the keypoint. A network
    that is unsure between cells gives a mixture of their targets, whose center is half a cell
    before the mean of the keypoint. So half a cell stays. Merged maps need less on x: a mirrored
    crop has pixel x at W - 1 - x, so that its peak, mirrored back, is on average a pixel nearer to
    the keypoint; the mean of both maps, half a pixel.

    The blur is the paper's, a Gaussian like that of the targets: the finest level's, 5 cells. It
    is wide enough: a target reaches 2 cells, so that its logarithm has no second neighbours; the
    blurred target reaches 4. The paper also scales the blurred map to the raw maximum. Derivatives
    of a logarithm do not change by that, so it is left out.
    """
    log = jnp.log(jnp.maximum(around, LOG_FLOOR))
    center, left, right = log[:, 1, 1], log[:, 1, 0], log[:, 1, 2]
    above, below = log[:, 0, 1], log[:, 2, 1]
    slope_x, slope_y = 0.5 * (right - left), 0.5 * (below - above)
    curve_xx, curve_yy = left - 2 * center + right, above - 2 * center + below
    curve_xy = 0.25 * (log[:, 2, 2] - log[:, 0, 2] - log[:, 2, 0] + log[:, 0, 0])
    determinant = curve_xx * curve_yy - curve_xy**2
    divisor = jnp.where(determinant > 0, determinant, 1.0)
    step_x = (curve_xy * slope_y - curve_yy * slope_x) / divisor
    step_y = (curve_xy * slope_x - curve_xx * slope_y) / divisor
    step_xy = jnp.stack([step_x, step_y], axis=-1)
    # The curves of a maximum are not positive, so it is a peak if the determinant is positive.
    is_peak = (determinant > 0) & (jnp.abs(step_xy) < 1).all(-1)
    is_inner = ((cells_xy > 0) & (cells_xy < np.array(heatmap_hw[::-1]) - 1)).all(-1)
    return jnp.where((is_peak & is_inner)[..., None], step_xy, 0.0) + 0.5


_OFFSETS = {"quarter": _quarter, "dark": _dark}
DECODINGS = tuple(_OFFSETS)


def _blur(heatmaps: Float[jax.Array, "B H W K"], kernel_size: int) -> Float[jax.Array, "B H W K"]:
    """Gaussian blur with zeros beyond the borders, one axis after the other.

    Mirrored cells are added before they are weighted, so a symmetric peak stays bit-symmetric:
    no rounding error decides its quarter-cell shift.
    """
    kernel = cv2.getGaussianKernel(kernel_size, 0)[:, 0].tolist()
    reach = kernel_size // 2
    for axis in (1, 2):
        size = heatmaps.shape[axis]
        padded = jnp.pad(heatmaps, [(reach, reach) if a == axis else (0, 0) for a in range(4)])

        def shifted(offset: int, padded=padded, axis=axis, size=size):
            return jax.lax.slice_in_dim(padded, reach + offset, reach + offset + size, axis=axis)

        heatmaps = kernel[reach] * heatmaps + sum(
            kernel[reach + i] * (shifted(-i) + shifted(i)) for i in range(1, reach + 1)
        )
    return heatmaps


def merge_flipped(
    heatmaps: Float[jax.Array, "B H W K"],
    heatmaps_of_mirrored: Float[jax.Array, "B H W K"],
    flip_permutation: Int[np.ndarray, "K"],
) -> Float[jax.Array, "B H W K"]:
    """The mean of the maps and of the mirrored crops' maps, mirrored back, left and right swapped.

    Args:
      flip_permutation: for each keypoint, the index of its mirror image (`Skeleton`).
    """
    return 0.5 * (heatmaps + heatmaps_of_mirrored[:, :, ::-1][..., flip_permutation])


def _inside(
    cells_xy: Int[jax.Array, "B K 2"], heatmap_hw: tuple[int, int]
) -> Bool[jax.Array, "B K"]:
    return ((cells_xy >= 0) & (cells_xy < np.array(heatmap_hw[::-1]))).all(-1)
