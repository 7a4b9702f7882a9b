"""Predictor's time per picture, from a JPEG's bytes and boxes to keypoints.

    python benchmarks/predict.py [--stages 1] [--people 1 5 30] [--dtype float32] [--checkpoint DIR]
    python benchmarks/predict.py --beside [--people 1 8 32]

The picture is decoded once, and all its people are given together. In turn, the predictor is called
once for each person. The network is a published variant with new weights, or a checkpoint's first
stages. --beside adds, on a CPU in float32: the predictor computed by JAX; the file of `mspn export
--format onnx --with-decode` on onnxruntime, used as in docs/export.md with all people in one batch,
with threads that wait and with threads that spin; and on OpenVINO, if it is installed. Seconds are
from weights in memory, for the file from its bytes, to the first person's keypoints.
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
from benchmarks.timing import in_turn, ratio, spread
from benchmarks.workload import new_network
from mspn_jax import Predictor, backends, geometry
from mspn_jax.crops import cut, decode_picture
from mspn_jax.export import formats
from mspn_jax.skeletons import COCO
from mspn_jax.weights import published
from mspn_jax.weights.description import Description

PICTURE_HW = (480, 640)

Find = Callable[[np.ndarray, np.ndarray], Any]  # image_rgb, boxes_xywh -> keypoints and scores


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--stages", type=int, nargs="+", default=[1], help="1 to 4")
    parser.add_argument("--people", type=int, nargs="+", default=[1, 5, 30], help="in the picture")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--no_flip_test", action="store_true")
    parser.add_argument("--checkpoint", help="whose network --stages stops early")
    parser.add_argument("--backend", choices=backends.BACKENDS, help="by default as in Predictor")
    parser.add_argument("--beside", action="store_true", help="also JAX, and the exported file")
    args = parser.parse_args()

    report = Report(args.json)
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (24, 32, 3), np.uint8), PICTURE_HW[::-1])
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    for num_stages in args.stages:
        deployment = new_deployment(num_stages, args)
        ours, first_s = ready(functools.partial(new_predictor, deployment, args.backend), image)
        beside = ways_beside(deployment) if args.beside else {}
        others = {name: ready(new, image) for name, new in beside.items()}
        for count in args.people:
            height, width = PICTURE_HW
            low, high = (0, 0, 40, 80), (width / 2, height / 2) * 2
            boxes_xywh = rng.uniform(low, high, (count, 4))
            ways = new_ways(
                ours, {name: find for name, (find, _) in others.items()}, jpeg, boxes_xywh
            )
            found = {name: way()[0] for name, way in ways.items()}
            seconds = in_turn(ways, args.repeats)
            report.row(
                stages=num_stages,
                people=count,
                flip_test="no" if args.no_flip_test else "yes",
                dtype=args.dtype,
                backend=ours.backend,
                first_s=first_s,
                milliseconds_a_picture=spread([1000 * t for t in seconds["together"]]),
                people_per_s=spread([count / t for t in seconds["together"]]),
                one_by_one_over_together=ratio(seconds["one by one"], seconds["together"]),
            )
            for name, (_, its_first_s) in others.items():
                report.row(
                    people=count,
                    beside=name,
                    first_s=its_first_s,
                    milliseconds_a_picture=spread([1000 * t for t in seconds[name]]),
                    its_time_over_ours=ratio(seconds[name], seconds["together"]),
                    pixels_apart=float(np.abs(found[name] - found["together"]).max()),
                )


def new_ways(
    ours: Predictor, others: dict[str, Find], jpeg: bytes, boxes_xywh: np.ndarray
) -> dict[str, Callable[[], Any]]:
    """The ways to the keypoints and scores of a picture."""

    def one_by_one() -> Any:
        people = [ours(decode_picture(jpeg), box_xywh[None]) for box_xywh in boxes_xywh]
        return tuple(map(np.concatenate, zip(*people)))

    return {
        "together": lambda: ours(decode_picture(jpeg), boxes_xywh),
        "one by one": one_by_one,
    } | {
        name: lambda find=find: find(decode_picture(jpeg), boxes_xywh)
        for name, find in others.items()
    }


def ready(new: Callable[[], Any], image: np.ndarray) -> tuple[Any, float]:
    """What finds people, and the seconds until it has found the first."""
    start = time.perf_counter()
    find = new()
    find(image, np.array([[0.0, 0.0, 40.0, 80.0]]))
    return find, time.perf_counter() - start


def new_deployment(num_stages: int, args: argparse.Namespace) -> formats.Deployment:
    """The network and what is asked of it."""
    if args.checkpoint:
        description, variables, _ = published.load(args.checkpoint)
    else:
        network = new_network(num_stages, args.dtype, args.quick)
        names = ("num_stages", "num_keypoints", "blocks_per_unit", "stem_channels", "unit_channels")
        model = {name: getattr(network.model, name) for name in names}
        description = Description("random", model, COCO, network.crop_hw)
        variables = network.variables
    return formats.Deployment(
        description,
        variables,
        num_stages,
        flip_test=not args.no_flip_test,
        with_decode=True,
        batch_size=None,
        dtype=jnp.dtype(args.dtype),
    )


def new_predictor(deployment: formats.Deployment, backend: str | None) -> Predictor:
    return Predictor(
        deployment.description,
        deployment.variables,
        deployment.flip_test,
        num_stages=deployment.num_stages,
        dtype=deployment.dtype,
        backend=backend,
    )


def ways_beside(deployment: formats.Deployment) -> dict[str, Callable[[], Find]]:
    """What makes each of the others."""
    data = formats.to_onnx(deployment)
    ways: dict[str, Callable[[], Find]] = {
        "JAX": lambda: new_predictor(deployment, "jax"),
        "file": lambda: of_file(deployment, formats.open_onnx(data)),
        "file, spinning": lambda: of_file(deployment, open_spinning(data)),
    }
    if importlib.util.find_spec("openvino"):
        ways["file, OpenVINO"] = lambda: of_file(deployment, open_with_openvino(data))
    return ways


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
