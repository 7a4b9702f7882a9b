"""Files to deploy a trained network by, StableHLO or ONNX, and the card that goes with each.

A file takes crops (B, H, W, 3) uint8 RGB. Normalisation, flip test and, if asked for, decoding are
in it; cutting crops out of pictures and putting keypoints back is `geometry.py`'s, and the card has
the numbers for it.
"""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

import mspn_jax
from mspn_jax import heatmaps, inference
from mspn_jax.errors import ExportError
from mspn_jax.folding import for_inference
from mspn_jax.model import MEAN_RGB, STD_RGB, STRIDE
from mspn_jax.synthetic import people
from mspn_jax.weights.description import Description

PLATFORMS = ("cpu", "cuda", "tpu")
# What a file may differ by from the live network before it is refused: of the highest heatmap
# value, of a score, and of a coordinate in crop pixels. Where two neighbours of a peak are equal to
# the last bits the coordinate can fall half a cell apart, so of those nearly all must hold.
HEATMAP_TOLERANCE, SCORE_TOLERANCE, PIXEL_TOLERANCE = 1e-4, 1e-4, 0.01
PIXELS_THAT_HOLD = 0.98

Outputs = Sequence[Any]
Run = Callable[[UInt8[np.ndarray, "B H W 3"]], Outputs]


@dataclasses.dataclass(frozen=True)
class Deployment:
    """What a file is to compute, of a checkpoint.

    Attributes:
      variables: as `checkpoints.load` returns them.
      num_stages: stop after so many; None: all.
      flip_test: average with the mirrored crops' heatmaps.
      with_decode: give keypoints_crop_xy (B, K, 2) and keypoint_scores (B, K), else heatmaps
        (B, H / 4, W / 4, K).
      batch_size: B; None: any.
      dtype: what convolutions compute in.
    """

    description: Description
    variables: Any
    num_stages: int | None = None
    flip_test: bool = True
    with_decode: bool = False
    batch_size: int | None = 1
    dtype: Any = jnp.float32

    @property
    def output_names(self) -> tuple[str, ...]:
        return ("keypoints_crop_xy", "keypoint_scores") if self.with_decode else ("heatmaps",)

    def network(self) -> tuple[Any, Any]:
        """The folded network and its variables."""
        model = self.description.new_model(dtype=self.dtype)
        return for_inference(model, self.variables, self.num_stages)

    def live(self) -> Any:
        """The function of crops itself, jitted, with its weights in it."""
        model, variables = self.network()
        flip_permutation = self.description.new_skeleton().flip_permutation

        def run(crops):
            maps = inference.predict_heatmaps(
                model, variables, crops, flip_permutation, self.flip_test
            )
            return heatmaps.decode(maps, STRIDE) if self.with_decode else (maps,)

        return jax.jit(run)


def to_stablehlo(deployment: Deployment) -> bytes:
    """For `jax.export.deserialize(...).call(crops)`, on any of the `PLATFORMS`."""
    batch: Any = deployment.batch_size
    if batch is None:
        (batch,) = jax.export.symbolic_shape("B")
    crops = jax.ShapeDtypeStruct((batch, *deployment.description.crop_hw, 3), jnp.uint8)
    return bytes(jax.export.export(deployment.live(), platforms=PLATFORMS)(crops).serialize())


def to_onnx(deployment: Deployment) -> bytes:
    """For any ONNX runtime.

    Raises:
      ImportError: the package onnx is not installed.
      ExportError: bfloat16, whose convolutions ONNX runtimes do not have.
    """
    from mspn_jax.export.onnx_graph import onnx_model

    if deployment.dtype != jnp.float32:
        raise ExportError(
            "bfloat16 convolutions are not in onnxruntime: export float32, and let the tool that"
            " deploys it choose a smaller type"
        )
    description = deployment.description
    model, variables = deployment.network()
    skeleton = description.new_skeleton()
    return onnx_model(
        model, variables["params"], crop_hw=description.crop_hw,
        with_decode=deployment.with_decode,
        flip_permutation=skeleton.flip_permutation if deployment.flip_test else None,
        batch_size=deployment.batch_size,
        properties={"variant": description.variant, "skeleton": skeleton.name},
    )  # fmt: skip


def open_stablehlo(data: bytes) -> Run:
    return jax.jit(jax.export.deserialize(bytearray(data)).call)


def open_onnx(data: bytes) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return lambda crops: session.run(None, {"crops": crops})


FORMATS = {"stablehlo": (to_stablehlo, open_stablehlo), "onnx": (to_onnx, open_onnx)}


def write(path: str | os.PathLike, deployment: Deployment, format: str) -> dict[str, float]:
    """Writes a file that was read back and found to compute what the network does, or none.

    Args:
      format: of `FORMATS`.

    Returns:
      The largest differences from the live network that were seen.

    Raises:
      ExportError: it computes something else, or cannot be made.
      ImportError: onnx or onnxruntime is not installed.
    """
    path = pathlib.Path(path)
    make, open_file = FORMATS[format]
    data = make(deployment)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        partial.write_bytes(data)
        differences = compare(open_file(partial.read_bytes()), deployment)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return differences


def compare(run: Run, deployment: Deployment) -> dict[str, float]:
    """The largest differences of a file from the live network, on drawn people.

    Raises:
      ExportError: they are more than rounding's.
    """
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
            found, expected = np.asarray(found), np.asarray(expected)
            if found.shape != expected.shape:
                raise ExportError(f"its {name} are {found.shape}, the network's {expected.shape}")
            apart = np.abs(found - expected)
            apart = np.where(np.isfinite(apart), apart, np.inf)
            if name == "heatmaps":
                apart = apart / np.abs(expected).max()
                good = apart.max() <= HEATMAP_TOLERANCE
            elif name == "keypoint_scores":
                good = apart.max() <= SCORE_TOLERANCE
            else:
                good = (apart <= PIXEL_TOLERANCE).mean() >= PIXELS_THAT_HOLD
            differences[name] = max(differences[name], float(apart.max()))
            if not good:
                raise ExportError(
                    f"its {name} are up to {apart.max():.3g} from the live network's: not kept"
                )
    return differences


def card(
    path: str | os.PathLike,
    deployment: Deployment,
    format: str,
    differences: dict[str, float],
    metrics: dict[str, float] | None,
) -> dict[str, Any]:
    """What a user of the file must know, and may ask.

    Args:
      metrics: COCO's figures of the checkpoint, where it was evaluated: those of its whole network
        in its own evaluation, and so not of a file with fewer stages.
    """
    description, skeleton = deployment.description, deployment.description.new_skeleton()
    height, width = description.crop_hw
    num_keypoints, batch = skeleton.num_keypoints, deployment.batch_size or "B"
    shapes = {
        "keypoints_crop_xy": [batch, num_keypoints, 2],
        "keypoint_scores": [batch, num_keypoints],
        "heatmaps": [batch, height // STRIDE, width // STRIDE, num_keypoints],
    }
    all_stages = description.model["num_stages"]
    num_stages = deployment.num_stages or all_stages
    return {
        "file": pathlib.Path(path).name,
        "format": format,
        "sha256": hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest(),
        "made_by": f"mspn_jax {mspn_jax.__version__}, jax {jax.__version__}",
        "variant": description.variant,
        "source": description.source,
        "stages": num_stages,
        "stages_of_checkpoint": all_stages,
        "metrics_of_checkpoint": metrics if num_stages == all_stages else None,
        "input": {"name": "crops", "dtype": "uint8", "shape": [batch, height, width, 3],
                  "colours": "RGB"},
        "outputs": {
            name: {"dtype": "float32", "shape": shapes[name]} for name in deployment.output_names
        },
        "compute_dtype": jnp.dtype(deployment.dtype).name,
        "flip_test": deployment.flip_test,
        "mean_rgb": MEAN_RGB,  # applied inside, as the std
        "std_rgb": STD_RGB,
        "crop_hw": description.crop_hw,
        "padding": description.padding,
        "stride": STRIDE,
        "heatmap_peak": heatmaps.PEAK,
        "keypoint_names": skeleton.keypoint_names,
        "skeleton": skeleton.to_json(),
        "flip_permutation": skeleton.flip_permutation.tolist(),
        "largest_differences_from_the_network": differences,
    }  # fmt: skip
