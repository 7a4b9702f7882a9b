"""Predictor's time per picture, from a JPEG's bytes and boxes to keypoints.

    python benchmarks/predict.py [--stages 1] [--people 1 5 30] [--dtype float32] [--checkpoint DIR]
    python benchmarks/predict.py --onnxruntime [--people 1 8]

The picture is decoded once, and all its people go to the device together. In turn, the predictor is
called once for each person. The network is a published variant with new weights, or a checkpoint's
first stages. With --onnxruntime the same predictor also runs on the CPU with export's ONNX file in
place of XLA. That needs mspn-jax[onnx] and float32.
"""

import argparse
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
from mspn_jax import Predictor
from mspn_jax.crops import decode_picture
from mspn_jax.export import formats
from mspn_jax.skeletons import COCO
from mspn_jax.weights import published
from mspn_jax.weights.description import Description

PICTURE_HW = (480, 640)


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--stages", type=int, nargs="+", default=[1], help="1 to 4")
    parser.add_argument("--people", type=int, nargs="+", default=[1, 5, 30], help="in the picture")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--no_flip_test", action="store_true")
    parser.add_argument("--checkpoint", help="whose network --stages stops early")
    parser.add_argument("--onnxruntime", action="store_true", help="beside XLA, on the CPU")
    args = parser.parse_args()

    report = Report(args.json)
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (24, 32, 3), np.uint8), PICTURE_HW[::-1])
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    for num_stages in args.stages:
        deployment = new_deployment(num_stages, args)
        ours, our_first_s = ready(new_predictor, deployment, image)
        theirs, their_first_s = None, 0.0
        if args.onnxruntime:
            theirs, their_first_s = ready(on_onnxruntime, deployment, image)
        for count in args.people:
            height, width = PICTURE_HW
            low, high = (0, 0, 40, 80), (width / 2, height / 2) * 2
            boxes_xywh = rng.uniform(low, high, (count, 4))
            ways = new_ways(ours, theirs, jpeg, boxes_xywh)
            found = {name: way()[0] for name, way in ways.items()}
            seconds = in_turn(ways, args.repeats)
            columns: dict[str, Any] = dict(
                stages=num_stages,
                people=count,
                flip_test="no" if args.no_flip_test else "yes",
                dtype=args.dtype,
                first_s=our_first_s,
                milliseconds_a_picture=spread([1000 * t for t in seconds["together"]]),
                people_per_s=spread([count / t for t in seconds["together"]]),
                one_by_one_over_together=ratio(seconds["one by one"], seconds["together"]),
            )
            if theirs is not None:
                columns |= dict(
                    onnxruntime_first_s=their_first_s,
                    onnxruntime_milliseconds=spread([1000 * t for t in seconds["onnxruntime"]]),
                    ours_over_onnxruntime_time=ratio(seconds["together"], seconds["onnxruntime"]),
                    pixels_apart=float(np.abs(found["onnxruntime"] - found["together"]).max()),
                )
            report.row(**columns)


def new_ways(
    ours: Predictor, theirs: Predictor | None, jpeg: bytes, boxes_xywh: np.ndarray
) -> dict[str, Callable[[], Any]]:
    """The ways to the keypoints and scores of a picture."""

    def one_by_one() -> Any:
        people = [ours(decode_picture(jpeg), box_xywh[None]) for box_xywh in boxes_xywh]
        return tuple(map(np.concatenate, zip(*people)))

    ways = {
        "together": lambda: ours(decode_picture(jpeg), boxes_xywh),
        "one by one": one_by_one,
    }
    if theirs is not None:
        ways["onnxruntime"] = lambda: theirs(decode_picture(jpeg), boxes_xywh)
    return ways


def ready(
    make: Callable[[formats.Deployment], Predictor],
    deployment: formats.Deployment,
    image: np.ndarray,
) -> tuple[Predictor, float]:
    """A predictor, and the seconds from weights in memory to its first person's keypoints."""
    start = time.perf_counter()
    predictor = make(deployment)
    predictor(image, [[0, 0, 40, 80]])
    return predictor, time.perf_counter() - start


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


def new_predictor(deployment: formats.Deployment) -> Predictor:
    return Predictor(
        deployment.description,
        deployment.variables,
        deployment.flip_test,
        num_stages=deployment.num_stages,
        dtype=deployment.dtype,
    )


def on_onnxruntime(deployment: formats.Deployment) -> Predictor:
    """A predictor whose batches onnxruntime computes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Its threads spin for a while after a run, and would slow the next way.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        formats.to_onnx(deployment), options, providers=["CPUExecutionProvider"]
    )
    predictor = new_predictor(deployment)
    predictor._estimate = lambda variables, crops: session.run(None, {"crops": crops})
    return predictor


if __name__ == "__main__":
    main()
