"""Predictor's time per picture, from a JPEG's bytes and boxes to keypoints.

    python benchmarks/predict.py [--stages 1] [--people 1 5 30] [--dtype float32] [--checkpoint DIR]

The picture is decoded once, and all its people go to the device together. In turn, the predictor is
called once for each person. The network is a published variant with new weights, or a checkpoint's
first stages.
"""

import argparse
import pathlib
import sys

import cv2
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks.report import Report, new_parser
from benchmarks.timing import in_turn, ratio, spread
from benchmarks.workload import new_network
from mspn_jax import Predictor
from mspn_jax.crops import decode_picture
from mspn_jax.skeletons import COCO
from mspn_jax.weights.description import Description

PICTURE_HW = (480, 640)


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--stages", type=int, nargs="+", default=[1], help="1 to 4")
    parser.add_argument("--people", type=int, nargs="+", default=[1, 5, 30], help="in the picture")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--no_flip_test", action="store_true")
    parser.add_argument("--checkpoint", help="whose network --stages stops early")
    args = parser.parse_args()

    report = Report(args.json)
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (24, 32, 3), np.uint8), PICTURE_HW[::-1])
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    for num_stages in args.stages:
        predictor = new_predictor(num_stages, args)
        for count in args.people:
            height, width = PICTURE_HW
            low, high = (0, 0, 40, 80), (width / 2, height / 2) * 2
            boxes_xywh = rng.uniform(low, high, (count, 4))

            def together(boxes_xywh=boxes_xywh, predictor=predictor) -> None:
                predictor(decode_picture(jpeg), boxes_xywh)

            def one_by_one(boxes_xywh=boxes_xywh, predictor=predictor) -> None:
                for box_xywh in boxes_xywh:
                    predictor(decode_picture(jpeg), box_xywh[None])

            seconds = in_turn({"together": together, "one by one": one_by_one}, args.repeats)
            report.row(
                stages=num_stages,
                people=count,
                flip_test="no" if args.no_flip_test else "yes",
                dtype=args.dtype,
                milliseconds_a_picture=spread([1000 * t for t in seconds["together"]]),
                people_per_s=spread([count / t for t in seconds["together"]]),
                one_by_one_over_together=ratio(seconds["one by one"], seconds["together"]),
            )


def new_predictor(num_stages: int, args: argparse.Namespace) -> Predictor:
    flip_test, dtype = not args.no_flip_test, jnp.dtype(args.dtype)
    if args.checkpoint:
        return Predictor.load(args.checkpoint, flip_test, num_stages=num_stages, dtype=dtype)
    network = new_network(num_stages, args.dtype, args.quick)
    names = ("num_stages", "num_keypoints", "blocks_per_unit", "stem_channels", "unit_channels")
    model = {name: getattr(network.model, name) for name in names}
    description = Description("random", model, COCO, network.crop_hw)
    return Predictor(description, network.variables, flip_test, dtype=dtype)


if __name__ == "__main__":
    main()
