"""The folded network and `heatmaps.decode` as an ONNX graph, written node by node.

ONNX's convolutions take NCHW, so arrays inside the graph are NCHW; inputs and outputs are as
everywhere else.
"""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import onnx
from jaxtyping import Float, Int
from onnx import helper, numpy_helper

from mspn_jax import heatmaps
from mspn_jax.model import MEAN_RGB, MSPN, NUM_UNITS, STD_RGB, STRIDE

OPSET = 18  # the first whose Resize takes a subset of the axes
IR_VERSION = 8  # of opset 18; newer ones are refused by older runtimes


Params = Mapping[str, Any]  # of a part of the folded network


class Graph:
    """A graph under construction. Every method adds nodes and returns the name of their output."""

    def __init__(self):
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        output = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype)
        return name

    def integers(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def conv(
        self,
        x: str,
        params: Mapping[str, Float[np.ndarray, "..."]],
        *,
        stride: int = 1,
        relu: bool = True,
    ) -> str:
        """`model.ConvBias`."""
        kernel = params["kernel"].transpose(3, 2, 0, 1)
        pad = kernel.shape[-1] // 2
        weights = self.constant(kernel), self.constant(params["bias"])
        x = self.add("Conv", x, *weights, strides=[stride, stride], pads=[pad] * 4)
        return self.add("Relu", x) if relu else x

    def resize_aligned(self, x: str, hw: tuple[int, int]) -> str:
        """`upsampling.upsample`: bilinear, with aligned corners."""
        how = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
        return self.add("Resize", x, "", "", self.integers(*hw), axes=[2, 3], **how)

    def mirror(self, x: str) -> str:
        """Reverses the columns of (B, C, H, W)."""
        end = np.iinfo(np.int64).min
        return self.add(
            "Slice", x, self.integers(-1), self.integers(end), self.integers(3), self.integers(-1)
        )


def onnx_model(
    model: MSPN,
    params: Params,
    *,
    crop_hw: tuple[int, int],
    flip_permutation: Int[np.ndarray, " K"] | None,
    with_decode: bool,
    batch_size: int | None,
    properties: dict[str, str],
) -> bytes:
    """The bytes of an ONNX file that computes `inference.estimate` of crops (B, H, W, 3) uint8 RGB.

    Args:
      model, params: folded, from `folding.for_inference`.
      flip_permutation: the skeleton's, for the flip test; None: no flip test.
      with_decode: outputs `keypoints_crop_xy` (B, K, 2) and `keypoint_scores` (B, K), else
        `heatmaps` (B, H / 4, W / 4, K), as from `inference.predict_heatmaps`.
      batch_size: B; None: any.
      properties: metadata of the file.
    """
    graph = Graph()
    x = graph.add("Cast", "crops", to=onnx.TensorProto.FLOAT)
    x = graph.add("Sub", x, graph.constant(MEAN_RGB))
    x = graph.add("Div", x, graph.constant(STD_RGB))
    x = graph.add("Transpose", x, perm=[0, 3, 1, 2])
    if flip_permutation is not None:
        x = graph.add("Concat", x, graph.mirror(x), axis=0)
    maps = _predict(graph, model, params, x, crop_hw)
    if flip_permutation is not None:
        maps = _merge_flipped(graph, maps, flip_permutation)

    batch = "B" if batch_size is None else batch_size
    heatmap_hw = (crop_hw[0] // STRIDE, crop_hw[1] // STRIDE)
    num_keypoints = model.num_keypoints
    if with_decode:
        keypoints, scores = _decode(graph, maps, heatmap_hw, num_keypoints)
        outputs = {
            "keypoints_crop_xy": (keypoints, [batch, num_keypoints, 2]),
            "keypoint_scores": (scores, [batch, num_keypoints]),
        }
    else:
        nhwc = graph.add("Transpose", maps, perm=[0, 2, 3, 1])
        outputs = {"heatmaps": (nhwc, [batch, *heatmap_hw, num_keypoints])}
    return _serialised(graph, [batch, *crop_hw, 3], outputs, properties)


def _serialised(
    graph: Graph,
    crops_shape: list[Any],
    outputs: Mapping[str, tuple[str, list[Any]]],
    properties: dict[str, str],
) -> bytes:
    """A file with the input `crops`; `outputs` map a name to a value and its shape.

    It is not run through onnx's checker, which copies all weights. The tests do that.
    """
    for name, (computed, _) in outputs.items():
        graph.nodes.append(helper.make_node("Identity", [computed], [name]))
    takes = helper.make_tensor_value_info("crops", onnx.TensorProto.UINT8, crops_shape)
    gives = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, (_, shape) in outputs.items()
    ]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "mspn", [takes], gives),
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="mspn_jax",
    )
    model.ir_version = IR_VERSION
    helper.set_model_props(model, properties)
    for name, value in graph.constants.items():  # `make_model` would copy all of them
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model.SerializeToString()


def _predict(graph: Graph, model: MSPN, params: Params, x: str, crop_hw: tuple[int, int]) -> str:
    """`MSPN.predict`: (B, 3, H, W) normalised -> heatmaps (B, K, h, w)."""
    x = graph.conv(x, params["stem"], stride=2)
    x = graph.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    skips: list[str] = []
    for s in range(model.num_stages):
        feature, x, skips = _stage(graph, model, params[f"stage{s}"], x, skips, crop_hw)
    head = f"stage{model.num_stages - 1}_head{NUM_UNITS - 1}"
    y = graph.conv(feature, params[f"{head}_hidden"])
    return graph.conv(y, params[f"{head}_out"], relu=False)  # the finest unit needs no resize


def _stage(
    graph: Graph, model: MSPN, params: Params, x: str, skips: list[str], crop_hw: tuple[int, int]
) -> tuple[str, str, list[str]]:
    """`model.Stage`: the finest feature, the next stage's input, and the skips to it.

    The last stage has neither: they are "" and [].
    """
    encoded = []
    for layer, num_blocks in enumerate(model.blocks_per_unit):
        for block in range(num_blocks):
            stride = 2 if layer > 0 and block == 0 else 1
            x = _bottleneck(graph, params[f"layer{layer + 1}_block{block}"], x, stride)
        if skips:
            x = graph.add("Add", x, skips[layer])
        encoded.append(x)

    next_skips = []
    y = ""
    for unit, x in enumerate(reversed(encoded)):
        name = f"unit{unit}"
        lateral = graph.conv(x, params[f"{name}_lateral"], relu=False)
        if y:
            stride = STRIDE * 2 ** (NUM_UNITS - 1 - unit)
            up = graph.conv(y, params[f"{name}_up"], relu=False)
            up = graph.resize_aligned(up, (crop_hw[0] // stride, crop_hw[1] // stride))
            lateral = graph.add("Add", lateral, up)
        y = graph.add("Relu", lateral)
        if "next_stage_input" in params:
            from_encoder = graph.conv(x, params[f"{name}_encoder_skip"])
            from_decoder = graph.conv(y, params[f"{name}_decoder_skip"])
            next_skips.append(graph.add("Add", from_encoder, from_decoder))
    next_x = graph.conv(y, params["next_stage_input"]) if next_skips else ""
    return y, next_x, next_skips[::-1]


def _bottleneck(graph: Graph, params: Params, x: str, stride: int) -> str:
    y = graph.conv(x, params["conv1"])
    y = graph.conv(y, params["conv2"], stride=stride)
    y = graph.conv(y, params["conv3"], relu=False)
    if "shortcut" in params:
        x = graph.conv(x, params["shortcut"], stride=stride, relu=False)
    return graph.add("Relu", graph.add("Add", x, y))


def _merge_flipped(graph: Graph, maps: str, flip_permutation: Int[np.ndarray, " K"]) -> str:
    """`heatmaps.merge_flipped`; the second half of the batch belongs to the mirrored crops."""
    halves = ["straight", "mirrored"]
    graph.nodes.append(helper.make_node("Split", [maps], halves, axis=0, num_outputs=2))
    renamed = graph.add(
        "Gather", graph.mirror("mirrored"), graph.integers(*flip_permutation.tolist()), axis=1
    )
    return graph.add("Mul", graph.add("Add", "straight", renamed), graph.constant(0.5))


def _decode(
    graph: Graph, maps: str, heatmap_hw: tuple[int, int], num_keypoints: int
) -> tuple[str, str]:
    """`heatmaps.decode`: (B, K, h, w) -> keypoints_crop_xy and keypoint_scores."""
    height, width = heatmap_hw
    zero = graph.constant(0.0)

    reach = heatmaps.DECODE_KERNEL_SIZE // 2
    kernel = cv2.getGaussianKernel(heatmaps.DECODE_KERNEL_SIZE, 0)
    blurred = graph.add("Reshape", maps, graph.integers(-1, 1, height, width))
    for kernel_hw, pads in ((kernel, (reach, 0, reach, 0)), (kernel.T, (0, reach, 0, reach))):
        blurred = graph.add("Conv", blurred, graph.constant(kernel_hw[None, None]), pads=pads)
    flat = graph.add("Reshape", blurred, graph.integers(-1, num_keypoints, height * width))

    best = graph.add("ArgMax", flat, axis=2)  # (B, K, 1), like x, y and what follows from them
    x = graph.add("Mod", best, graph.integers(width))
    y = graph.add("Div", best, graph.integers(width))

    def moved(position: str, by: int, size: int) -> str:
        position = graph.add("Add", position, graph.integers(by))
        limits = (graph.constant(limit, np.int64) for limit in (0, size - 1))
        return graph.add("Clip", position, *limits)

    def neighbour(dx: int, dy: int) -> str:
        row = graph.add("Mul", moved(y, dy, height), graph.integers(width))
        index = graph.add("Add", row, moved(x, dx, width))
        return graph.add("GatherElements", flat, index, axis=2)

    def inside(position: str, size: int) -> str:
        above = graph.add("Greater", position, graph.integers(1))
        return graph.add("And", above, graph.add("Less", position, graph.integers(size - 1)))

    slope_x = graph.add("Sub", neighbour(1, 0), neighbour(-1, 0))
    slope_y = graph.add("Sub", neighbour(0, 1), neighbour(0, -1))
    slope = graph.add("Concat", slope_x, slope_y, axis=2)
    shift = graph.add("Mul", graph.add("Sign", slope), graph.constant(0.25))
    shift = graph.add("Add", shift, graph.constant(0.5))
    refined = graph.add("And", inside(x, width), inside(y, height))
    cells = graph.add("Cast", graph.add("Concat", x, y, axis=2), to=onnx.TensorProto.FLOAT)
    cells = graph.add("Add", cells, graph.add("Where", refined, shift, zero))

    maximum = graph.add("ReduceMax", maps, graph.integers(2, 3), keepdims=0)  # (B, K)
    maximum = graph.add("Unsqueeze", maximum, graph.integers(2))
    found = graph.add(
        "And", graph.add("Greater", maximum, zero), graph.add("Greater", neighbour(0, 0), zero)
    )
    nowhere = graph.constant(heatmaps.NO_KEYPOINT_XY)
    keypoints = graph.add("Mul", graph.add("Where", found, cells, nowhere), graph.constant(STRIDE))
    peak = graph.add("Where", found, maximum, graph.add("Min", maximum, zero))
    scores = graph.add("Div", peak, graph.constant(heatmaps.PEAK))
    scores = graph.add("Add", scores, graph.constant(heatmaps.NO_KEYPOINT_SCORE))
    return keypoints, graph.add("Squeeze", scores, graph.integers(2))
