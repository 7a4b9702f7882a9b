"""What a training run is about to see: its crops, their keypoints, and the targets of them."""

import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from mspn_jax import heatmaps
from mspn_jax.data.pipeline import TrainingBatch
from mspn_jax.drawing import FAINT_SCORE, FULL_SCORE, annotate_people, overlay_heatmaps
from mspn_jax.model import STRIDE
from mspn_jax.reports import page
from mspn_jax.reports.page import Figures
from mspn_jax.skeletons import Skeleton
from mspn_jax.storage.files import write_json

OPACITY = np.array([0.0, 0.45, 1.0])  # of keypoints not labelled, hidden, visible


def write(
    folder: str | os.PathLike,
    batches: Iterable[TrainingBatch],
    num_people: int,
    skeleton: Skeleton,
    about: dict[str, str | int],
) -> None:
    """Writes browse.html, one row a person, and browse.json with the figures in it.

    Args:
      batches: of `pipeline.training_batches`.
      num_people: how many to show, from the first on.
      about: what this is of, in the words to show.
    """
    strips, people = [], []
    for strip, figures in rows(batches, skeleton):
        strips.append(page.jpeg_uri(strip))
        people.append(figures)
        if len(people) == num_people:
            break
    figures = {"about": about, "kernel_sizes": list(heatmaps.KERNEL_SIZES), "people": people}
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "browse.json", figures)
    page.write(folder / "browse.html", "Training crops", parts(Figures(figures), strips))


def rows(
    batches: Iterable[TrainingBatch], skeleton: Skeleton
) -> Iterator[tuple[UInt8[np.ndarray, "H W 3"], dict[str, Any]]]:
    """For each person the crop with its keypoints beside the targets of every level, and figures.

    "without target" counts keypoints that are labelled but have none: they lie outside the crop.
    """
    for batch in batches:
        crop_hw = batch.crops.shape[1:3]
        heatmap_hw = (crop_hw[0] // STRIDE, crop_hw[1] // STRIDE)
        targets, keypoint_weights = jax.device_get(
            heatmaps.encode(
                jnp.asarray(batch.keypoints_crop_xy),
                jnp.asarray(batch.visibility),
                crop_hw,
                heatmap_hw,
            )
        )
        for i, crop in enumerate(batch.crops):
            visibility = batch.visibility[i].astype(int)
            scores = FAINT_SCORE + OPACITY[visibility] * (FULL_SCORE - FAINT_SCORE)
            drawn = annotate_people(crop, batch.keypoints_crop_xy[i][None], scores[None], skeleton)
            strip = overlay_heatmaps(crop[None], *targets[i].max(-1)[:, None])
            strip[:, : crop_hw[1]] = drawn
            counts = np.bincount(visibility, minlength=3)
            figures = {
                "visible": int(counts[2]),
                "hidden": int(counts[1]),
                "not labelled": int(counts[0]),
                "without target": int(((visibility > 0) & (keypoint_weights[i] == 0)).sum()),
            }
            yield strip, figures


def parts(figures: Figures, strips: list[str]) -> list[str]:
    """The page. `strips` are the rows' pictures, as URIs."""
    num_levels = len(figures.value("kernel_sizes"))
    kernels = ", ".join(figures(f"kernel_sizes/{level}") for level in range(num_levels))

    def caption(key: str) -> str:
        return ", ".join(f"{figures(f'{key}/{name}')} {name}" for name in figures.value(key))

    return [
        "<header><h1>Training crops</h1>",
        page.about(figures, "about"),
        "</header>",
        "<p>Straight from the training pipeline: augmented crops with their keypoints, the person's"
        " left in orange, their right in blue, hidden ones fainter. In a mirrored crop writing"
        " reads backwards, and the colours are still the person's own left and right. Beside each,"
        " the target heatmaps of all keypoints, level by level from coarse to fine (kernels of"
        f" {kernels} cells).</p>",
        "<p class='soft'>A keypoint has no target where it lies outside the crop.</p>",
        '<div class="rows">',
        *(
            f'<figure><img src="{strip}" alt="crop and targets">'
            f"<figcaption>{caption(f'people/{i}')}</figcaption></figure>"
            for i, strip in enumerate(strips)
        ),
        "</div>",
    ]
