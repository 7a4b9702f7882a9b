"""Files to deploy a trained network, in StableHLO or ONNX, and the card beside each.

A file takes crops (B, H, W, 3) uint8 RGB. It contains normalisation, flip test and, if asked for,
decoding. Cutting crops out of pictures and mapping keypoints back is left to its user (`crops.py`
and `geometry.py` do it); the card has the numbers for it.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

import mspn_jax
from mspn_jax import heatmaps, inference
from mspn_jax.errors import ExportError
from mspn_jax.folding import Variables, for_inference
from mspn_jax.model import MEAN_RGB, MSPN, STD_RGB, STRIDE
from mspn_jax.onnx_session import new_session
from mspn_jax.storage import files
from mspn_jax.synthetic import people
from mspn_jax.weights.description import Description

PLATFORMS = ("cpu", "cuda", "tpu")
# Largest allowed difference between a file and the live network: as a fraction of the highest
# heatmap value, in scores, and in crop pixels. If two neighbours of a peak are equal to the last
# bits, a coordinate can differ by half a cell, so a small part of the coordinates may exceed it.
HEATMAP_TOLERANCE, SCORE_TOLERANCE, PIXEL_TOLERANCE = 1e-4, 1e-4, 0.01
SHARE_WITHIN_TOLERANCE = 0.98

Outputs = Sequence[Any]
Run = Callable[[UInt8[np.ndarray, "B H W 3"]], Outputs]


@dataclasses.dataclass(frozen=True)
class Deployment:
    """What a file computes."""

    description: Description  # of the network, from `checkpoints.load`
    variables: Variables
    num_stages: int | None = None  # stop after this many; None: all
    flip_test: bool = True  # average with the heatmaps of the mirrored crops
    # Return keypoints_crop_xy (B, K, 2) and keypoint_scores (B, K), else heatmaps (B, h, w, K).
    with_decode: bool = False
    batch_size: int | None = 1  # B; None: any
    dtype: Any = jnp.float32  # of the convolutions

    @property
    def output_names(self) -> tuple[str, ...]:
        return ("keypoints_crop_xy", "keypoint_scores") if self.with_decode else ("heatmaps",)

    def network(self) -> tuple[MSPN, Variables]:
        """The folded network and its variables."""
        model = self.description.new_model(dtype=self.dtype)
        return for_inference(model, self.variables, self.num_stages)

    def live(self) -> Any:
        """The jitted function of crops, with the weights as constants."""
        model, variables = self.network()
        flip_permutation = self.description.new_skeleton().flip_permutation

        def run(crops: UInt8[jax.Array, "B H W 3"]) -> Outputs:
            maps = inference.predict_heatmaps(
                model, variables, crops, flip_permutation, self.flip_test
            )
            return heatmaps.decode(maps, STRIDE) if self.with_decode else (maps,)

        return jax.jit(run)


def to_stablehlo(deployment: Deployment) -> bytes:
    """A file for `jax.export.deserialize(...).call(crops)` on any of the `PLATFORMS`."""
    batch: Any = deployment.batch_size
    if batch is None:
        (batch,) = jax.export.symbolic_shape("B")
    crops = jax.ShapeDtypeStruct((batch, *deployment.description.crop_hw, 3), jnp.uint8)
    return bytes(jax.export.export(deployment.live(), platforms=PLATFORMS)(crops).serialize())


def to_onnx(deployment: Deployment) -> bytes:
    """A file for any ONNX runtime, in float32. Needs onnx."""
    from mspn_jax.export.onnx_graph import onnx_model

    if deployment.dtype != jnp.float32:
        raise ExportError(
            "bfloat16 convolutions are not in onnxruntime: export float32, and choose a smaller"
            " type in the tool that deploys it"
        )
    description = deployment.description
    model, variables = deployment.network()
    skeleton = description.new_skeleton()
    return onnx_model(
        model,
        variables["params"],
        crop_hw=description.crop_hw,
        with_decode=deployment.with_decode,
        flip_permutation=skeleton.flip_permutation if deployment.flip_test else None,
        batch_size=deployment.batch_size,
        properties={"variant": description.variant, "skeleton": skeleton.name},
    )


def open_stablehlo(data: bytes) -> Run:
    return jax.jit(jax.export.deserialize(bytearray(data)).call)


def open_onnx(data: bytes) -> Run:
    session = new_session(data)
    return lambda crops: session.run(None, {"crops": crops})


FORMATS = {"stablehlo": (to_stablehlo, open_stablehlo), "onnx": (to_onnx, open_onnx)}


def write(path: str | os.PathLike, deployment: Deployment, format: str) -> dict[str, float]:
    """Writes a file, reads it back, and keeps it if it computes the same as the network.

    Returns the largest difference of each output, by its name, from the live network's.
    """
    make, open_file = FORMATS[format]
    data = make(deployment)
    with files.replaced(path) as partial:
        partial.write_bytes(data)
        return compare(open_file(partial.read_bytes()), deployment)


def compare(run: Run, deployment: Deployment) -> dict[str, float]:
    """The largest differences between a file and the live network, on drawn people."""
    live = deployment.live()
    sizes = [deployment.batch_size] if deployment.batch_size else [1, 3]
    differences = dict.fromkeys(deployment.output_names, 0.0)
    for size in sizes:
        pictures = [
            people.draw_picture(np.random.default_rng(i), deployment.description.crop_hw)[0]
            for i in range(size)
        ]
        crops = np.stack(pictures)
        for name, found, expected in zip(differences, run(crops), live(crops), strict=True):
            difference = _difference(name, np.asarray(found), np.asarray(expected))
            differences[name] = max(differences[name], difference)
    return differences


def _difference(
    name: str, found: Float[np.ndarray, "..."], expected: Float[np.ndarray, "..."]
) -> float:
    """The largest difference of one output; raises ExportError if it is too large."""
    if found.shape != expected.shape:
        raise ExportError(f"its {name} are {found.shape}, the network's {expected.shape}")
    apart = np.abs(found - expected)
    apart = np.where(np.isfinite(apart), apart, np.inf)
    if name == "heatmaps":
        apart = apart / np.abs(expected).max()
        is_same = apart.max() <= HEATMAP_TOLERANCE
    elif name == "keypoint_scores":
        is_same = apart.max() <= SCORE_TOLERANCE
    else:
        is_same = (apart <= PIXEL_TOLERANCE).mean() >= SHARE_WITHIN_TOLERANCE
    if not is_same:
        raise ExportError(
            f"its {name} differ by up to {apart.max():.3g} from the live network's: not kept"
        )
    return float(apart.max())


def card(
    path: str | os.PathLike,
    deployment: Deployment,
    format: str,
    *,
    differences: dict[str, float],
    metrics: dict[str, float] | None,
) -> dict[str, Any]:
    """What a user of a file needs to know, for json.

    The metrics of the checkpoint are those of the whole network, so the card of a file with fewer
    stages leaves them out.
    """
    description, skeleton = deployment.description, deployment.description.new_skeleton()
    height, width = description.crop_hw
    num_keypoints, batch = skeleton.num_keypoints, deployment.batch_size or "B"
    shapes = {
        "keypoints_crop_xy": [batch, num_keypoints, 2],
        "keypoint_scores": [batch, num_keypoints],
        "heatmaps": [batch, height // STRIDE, width // STRIDE, num_keypoints],
    }
    crops = {"name": "crops", "dtype": "uint8", "shape": [batch, height, width, 3]}
    all_stages = description.model["num_stages"]
    num_stages = deployment.num_stages or all_stages
    return {
        "file": pathlib.Path(path).name,
        "format": format,
        "sha256": files.sha256(path),
        "made_by": f"mspn_jax {mspn_jax.__version__}, jax {jax.__version__}",
        "variant": description.variant,
        "source": description.source,
        "stages": num_stages,
        "stages_of_checkpoint": all_stages,
        "metrics_of_checkpoint": metrics if num_stages == all_stages else None,
        "input": crops | {"colours": "RGB"},
        "outputs": {
            name: {"dtype": "float32", "shape": shapes[name]} for name in deployment.output_names
        },
        "compute_dtype": jnp.dtype(deployment.dtype).name,
        "flip_test": deployment.flip_test,
        "mean_rgb": MEAN_RGB,  # applied inside, like the std
        "std_rgb": STD_RGB,
        "crop_hw": description.crop_hw,
        "padding": description.padding,
        "stride": STRIDE,
        "heatmap_peak": heatmaps.PEAK,
        "keypoint_names": skeleton.keypoint_names,
        "skeleton": skeleton.to_json(),
        "flip_permutation": skeleton.flip_permutation.tolist(),
        "largest_differences_from_the_network": differences,
    }
