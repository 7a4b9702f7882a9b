"""Predictor's time per picture, from a JPEG's bytes and boxes to keypoints.

    python benchmarks/predict.py [--stages 1] [--people 1 5 30] [--dtype float32] [--checkpoint DIR]
    python benchmarks/predict.py --beside [--people 1 8 32]

The picture is decoded once, and all its people are given together. In turn, the same predictor is
called once for each person. The network is a published variant with new weights, or a checkpoint's
first stages. --beside adds, on a CPU in float32: the predictor computed by JAX; the file of `mspn
export --format onnx --with-decode` on onnxruntime, used as in docs/export.md with all people in one
batch, with threads that wait and with threads that spin; and on OpenVINO, if it is installed.
`first s` is from weights in memory, for the file from its bytes, to the first person's keypoints.
"""

import argparse
import functools
import importlib.util
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import cv2
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks.report import Report, new_parser
from benchmarks.timing import in_turn, pace, ratio, spread
from benchmarks.workload import describe, new_network
from mspn_jax import Predictor, geometry
from mspn_jax.crops import cut, decode_picture
from mspn_jax.export import formats
from mspn_jax.weights import published

PICTURE_HW = (480, 640)
OURS = "Predictor"

Find = Callable[[np.ndarray, np.ndarray], Any]  # image_rgb, boxes_xywh -> keypoints and scores


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--stages", type=int, nargs="+", default=[1], help="1 to 4")
    parser.add_argument("--people", type=int, nargs="+", default=[1, 5, 30], help="in the picture")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--no_flip_test", action="store_true")
    parser.add_argument("--checkpoint", help="whose network --stages stops early")
    parser.add_argument("--beside", action="store_true", help="also JAX, and the exported file")
    args = parser.parse_args()

    report = Report(args.json)
    rng = np.random.default_rng(0)
    height, width = PICTURE_HW
    image = cv2.resize(rng.integers(0, 256, (24, 32, 3), np.uint8), (width, height))
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    for num_stages in args.stages:
        finders: dict[str, Find] = {}
        first_s: dict[str, float] = {}
        for name, new in new_finders(num_stages, args).items():
            start = time.perf_counter()
            finders[name] = new()
            finders[name](image, np.array([[0.0, 0.0, 40.0, 80.0]]))
            first_s[name] = time.perf_counter() - start
        finders["one call a person"] = functools.partial(one_by_one, finders[OURS])
        for count in args.people:
            low, high = (0, 0, 40, 80), (width / 2, height / 2) * 2
            boxes_xywh = rng.uniform(low, high, (count, 4))
            ways = {
                name: lambda find=find, boxes=boxes_xywh: find(decode_picture(jpeg), boxes)
                for name, find in finders.items()
            }
            found = {name: way()[0] for name, way in ways.items()}
            seconds = in_turn(ways, args.repeats)
            for name, find in finders.items():
                report.row(
                    stages=num_stages,
                    people=count,
                    flip_test="no" if args.no_flip_test else "yes",
                    dtype=args.dtype,
                    way=name,
                    backend=getattr(find, "backend", None),
                    first_s=first_s.get(name),
                    milliseconds_a_picture=spread([1000 * t for t in seconds[name]]),
                    people_per_s=pace(count, seconds[name]),
                    time_over_ours=ratio(seconds[name], seconds[OURS]),
                    pixels_apart=float(np.abs(found[name] - found[OURS]).max()),
                )


def new_finders(num_stages: int, args: argparse.Namespace) -> dict[str, Callable[[], Find]]:
    """What makes ours, and with --beside the others."""
    deployment = new_deployment(num_stages, args)
    finders = {OURS: lambda: new_predictor(deployment)}
    if args.beside:
        data = formats.to_onnx(deployment)
        finders |= {
            "JAX": lambda: new_predictor(deployment, "jax"),
            "file": lambda: of_file(deployment, formats.open_onnx(data)),
            "file, spinning": lambda: of_file(deployment, open_spinning(data)),
        }
        if importlib.util.find_spec("openvino"):
            finders["file, OpenVINO"] = lambda: of_file(deployment, open_with_openvino(data))
    return finders


def new_deployment(num_stages: int, args: argparse.Namespace) -> formats.Deployment:
    """The network and what is asked of it."""
    if args.checkpoint:
        description, variables, _ = published.load(args.checkpoint)
    else:
        network = new_network(num_stages, args.dtype, args.quick)
        description, variables = describe(network), network.variables
    return formats.Deployment(
        description,
        variables,
        num_stages,
        flip_test=not args.no_flip_test,
        with_decode=True,
        batch_size=None,
        dtype=jnp.dtype(args.dtype),
    )


def new_predictor(deployment: formats.Deployment, backend: str | None = None) -> Predictor:
    return Predictor(
        deployment.description,
        deployment.variables,
        deployment.flip_test,
        num_stages=deployment.num_stages,
        dtype=deployment.dtype,
        backend=backend,
    )


def one_by_one(predictor: Find, image: np.ndarray, boxes_xywh: np.ndarray) -> Any:
    people = [predictor(image, box_xywh[None]) for box_xywh in boxes_xywh]
    return tuple(map(np.concatenate, zip(*people)))


def of_file(deployment: formats.Deployment, run: formats.Run) -> Find:
    """Crops, the file, and back to the picture, as in docs/export.md."""
    crop_hw, padding = deployment.description.crop_hw, deployment.description.padding

    def find(image: np.ndarray, boxes_xywh: np.ndarray) -> Any:
        region = geometry.crop_regions(geometry.boxes_xywh_to_xyxy(boxes_xywh), padding, crop_hw)
        crops = np.empty((len(boxes_xywh), *crop_hw, 3), np.uint8)
        for crop, image_to_crop in zip(crops, geometry.image_to_crop(*region, 0.0, crop_hw)):
            cut(image, image_to_crop, False, crop)
        keypoints_crop_xy, keypoint_scores = run(crops)
        return geometry.crop_to_image(keypoints_crop_xy, *region, crop_hw), keypoint_scores

    return find


def open_spinning(data: bytes) -> formats.Run:
    """As by default, but the threads stop spinning at the end of a call, for the next way."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return lambda crops: session.run(None, {"crops": crops})


def open_with_openvino(data: bytes) -> formats.Run:
    import openvino

    core = openvino.Core()
    # By default a CPU with bfloat16 or float16 computes in it.
    compiled = core.compile_model(core.read_model(data), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda crops: list(compiled(crops).values())


if __name__ == "__main__":
    main()
