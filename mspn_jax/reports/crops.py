"""A page of training crops: what a training run is about to see, with keypoints and targets."""

import os
import pathlib
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from mspn_jax import heatmaps
from mspn_jax.data.pipeline import TrainingBatch
from mspn_jax.drawing import FAINT_SCORE, FULL_SCORE, annotate_people, overlay_heatmaps
from mspn_jax.model import STRIDE
from mspn_jax.reports import page
from mspn_jax.skeletons import Skeleton
from mspn_jax.storage.files import write_json

# From FAINT_SCORE (0) to FULL_SCORE (1), of keypoints not labelled, hidden, visible.
LEVELS = np.array([0.0, 0.15, 1.0])


def write(
    folder: str | os.PathLike,
    batches: Iterable[TrainingBatch],
    num_people: int,
    skeleton: Skeleton,
    about: dict[str, str | int],
) -> None:
    """Writes browse.html, a row for each of the first people, and browse.json with its numbers.

    `about` are names and values for the page's header.
    """
    strips, people = [], []
    for strip, counts in rows(batches, skeleton):
        strips.append(page.jpeg_uri(strip))
        people.append(counts)
        if len(people) == num_people:
            break
    content = {"about": about, "kernel_sizes": list(heatmaps.KERNEL_SIZES), "people": people}
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "browse.json", content)
    page.write(folder / "browse.html", "crops.html", **content, strips=strips)


def rows(
    batches: Iterable[TrainingBatch], skeleton: Skeleton
) -> Iterator[tuple[UInt8[np.ndarray, "H W 3"], dict[str, int]]]:
    """Yields for each person a strip, the crop and its targets by level, and keypoint counts.

    "without target" counts labelled keypoints that lie outside the crop.
    """
    for batch in batches:
        height, width = batch.crops.shape[1:3]
        targets, keypoint_weights = jax.device_get(
            heatmaps.encode(
                jnp.asarray(batch.keypoints_crop_xy),
                jnp.asarray(batch.visibility),
                (height, width),
                (height // STRIDE, width // STRIDE),
            )
        )
        for i, crop in enumerate(batch.crops):
            visibility = batch.visibility[i].astype(int)
            scores = FAINT_SCORE + LEVELS[visibility] * (FULL_SCORE - FAINT_SCORE)
            strip = overlay_heatmaps(crop[None], *targets[i].max(-1)[:, None])
            strip[:, :width] = annotate_people(
                crop, batch.keypoints_crop_xy[i][None], scores[None], skeleton
            )
            is_lost = (visibility > 0) & (keypoint_weights[i] == 0)
            yield (
                strip,
                {
                    "visible": int((visibility == 2).sum()),
                    "hidden": int((visibility == 1).sum()),
                    "not labelled": int((visibility == 0).sum()),
                    "without target": int(is_lost.sum()),
                },
            )
