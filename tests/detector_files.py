"""ONNX files of detectors in all layouts: made up, or a real one with more nodes."""

import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mspn_jax.detector.outputs import STRIDES, cells

INPUT_HW = (64, 96)
ALL = 85  # columns, with COCO's classes


def save(
    path: pathlib.Path,
    outputs: dict[str, np.ndarray],
    *,
    input_shape: tuple = (1, 3, *INPUT_HW),
    input_type: int = TensorProto.FLOAT,
    weights: tuple[str, ...] = (),
) -> None:
    """A file that returns `outputs` for every picture, with unused weights of these names."""
    nodes, constants = [helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0)], []
    nodes.append(helper.make_node("Sub", ["mean", "mean"], ["zero"]))
    for name, value in outputs.items():
        constants.append(numpy_helper.from_array(value, f"{name}_value"))
        kind = constants[-1].data_type
        nodes.append(helper.make_node("Cast", ["zero"], [f"{name}_zero"], to=kind))
        nodes.append(helper.make_node("Add", [f"{name}_value", f"{name}_zero"], [name]))
    constants += [numpy_helper.from_array(np.zeros(1, np.float32), name) for name in weights]
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("images", input_type, input_shape)],
        [
            helper.make_tensor_value_info(name, constant.data_type, constant.dims)
            for name, constant in zip(outputs, constants)
        ],
        constants,
    )
    write(path, graph)


def write(path: pathlib.Path, graph: onnx.GraphProto, opset: int = 17) -> None:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    onnx.save(model, path)


def raw(*people: tuple, num_classes: int = 80) -> np.ndarray:
    """YOLOX's raw output for (stride, column, row, x, y, w, h, objectness, {class: score})."""
    rows, first = [], {}
    for stride in STRIDES:
        first[stride] = sum(len(each) for each in rows)
        rows.append(np.zeros((INPUT_HW[0] // stride * (INPUT_HW[1] // stride), 5 + num_classes)))
    output = np.concatenate(rows)
    for stride, column, row, x, y, w, h, objectness, classes in people:
        cell = first[stride] + row * (INPUT_HW[1] // stride) + column
        output[cell, :4] = x / stride - column, y / stride - row, *np.log((w / stride, h / stride))
        output[cell, 4] = objectness
        for label, score in classes.items():
            output[cell, 5 + label] = score
    return output[None].astype(np.float32)


def decoded(output: np.ndarray) -> np.ndarray:
    """The same with centers and sizes in pixels."""
    cells_xy, strides = cells(INPUT_HW)
    output = output.copy()
    output[0, :, :2] = (output[0, :, :2] + cells_xy) * strides
    output[0, :, 2:4] = np.exp(output[0, :, 2:4]) * strides
    return output


def dynamic(path: pathlib.Path) -> None:
    """A file for pictures of any size that returns one box: their right lower quarter."""
    constants = [
        numpy_helper.from_array(np.array(value), name)
        for name, value in (
            ("sides", np.array([3, 2])),
            ("half", np.float32([0.5, 0.5])),
            ("score", np.float32([0.9])),
            ("shape", np.array([1, 1, 5])),
            ("labels_value", np.zeros((1, 1), np.int64)),
            ("bbox_head.multi_level_conv_cls.0.weight", np.zeros(1, np.float32)),
        )
    ]
    nodes = [
        helper.make_node("Shape", ["images"], ["image_shape"]),
        helper.make_node("Gather", ["image_shape", "sides"], ["size"]),
        helper.make_node("Cast", ["size"], ["bottom_right"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["bottom_right", "half"], ["middle"]),
        helper.make_node("Concat", ["middle", "bottom_right", "score"], ["row"], axis=0),
        helper.make_node("Reshape", ["row", "shape"], ["dets"]),
        helper.make_node("Identity", ["labels_value"], ["labels"]),
    ]
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, "h", "w"])],
        [
            helper.make_tensor_value_info("labels", TensorProto.INT64, ["batch", "n"]),
            helper.make_tensor_value_info("dets", TensorProto.FLOAT, ["batch", "n", 5]),
        ],
        constants,
    )
    write(path, graph)


class Extended:
    """A real file in the layout `raw`, to which nodes of its opset, 11, are added."""

    def __init__(self, source: pathlib.Path):
        self.model = onnx.load(source)
        self.graph = self.model.graph
        shape = [side.dim_value for side in self.graph.input[0].type.tensor_type.shape.dim]
        self.input_hw = (shape[2], shape[3])

    def constant(self, value: np.ndarray, name: str) -> str:
        self.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes) -> str:
        self.graph.node.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def columns(self, source: str, first: int, last: int, output: str) -> str:
        """A slice of the last axis."""
        ends = [
            self.constant(np.array([x]), f"{output}_{x}_{i}") for i, x in enumerate((first, last))
        ]
        return self.node(
            "Slice", [source, *ends, self.constant(np.array([2]), f"{output}_axis")], output
        )

    def decode(self) -> None:
        """The layout `decoded`."""
        cells_xy, strides = (x.astype(np.float32)[None] for x in cells(self.input_hw))
        self.constant(cells_xy, "cells"), self.constant(strides, "strides")
        source = self.graph.output[0].name
        offsets = self.columns(source, 0, 2, "offsets")
        self.node("Mul", [self.node("Add", [offsets, "cells"], "moved"), "strides"], "centers")
        sizes = self.node("Exp", [self.columns(source, 2, 4, "log_sizes")], "sizes_in_cells")
        self.node("Mul", [sizes, "strides"], "sizes")
        rest = self.columns(source, 4, ALL, "rest")
        self.node("Concat", ["centers", "sizes", rest], "decoded", axis=2)
        self.returns(decoded=(TensorProto.FLOAT, [1, len(strides[0]), ALL]))

    def suppress(self, *, min_score: float, nms_threshold: float) -> None:
        """The layout `nms`, with the names of mmdeploy's outputs and of a layer of YOLOX."""
        self.decode()
        self.constant(np.zeros(1, np.float32), "bbox_head.multi_level_conv_cls.0.weight")
        boxes = self.columns("decoded", 0, 4, "boxes_cxcywh")
        scores = self.node(
            "Mul",
            [
                self.columns("decoded", 4, 5, "objectness"),
                self.columns("decoded", 5, ALL, "of_class"),
            ],
            "scores",
        )
        by_class = self.node("Transpose", [scores], "scores_by_class", perm=[0, 2, 1])
        limits = [
            self.constant(np.array([10_000]), "most"),
            self.constant(np.float32([nms_threshold]), "iou"),
            self.constant(np.float32([min_score]), "least"),
        ]
        # picture, class and box of each that stays
        found = self.node(
            "NonMaxSuppression", [boxes, by_class, *limits], "found", center_point_box=1
        )
        self.constant(np.array(1), "one"), self.constant(np.array([0, 2]), "picture_and_box")
        labels = self.node("Gather", [found, "one"], "flat_labels", axis=1)
        which = self.node("Gather", [found, "picture_and_box"], "which", axis=1)
        kept = self.node("GatherND", [boxes, which], "kept")
        kept_scores = self.node("GatherND", [by_class, found], "kept_scores")
        column = self.node("Unsqueeze", [kept_scores], "score_column", axes=[1])
        halves = np.float32([[1, 0, 1, 0], [0, 1, 0, 1], [-0.5, 0, 0.5, 0], [0, -0.5, 0, 0.5]])
        corners = self.node("MatMul", [kept, self.constant(halves, "to_corners")], "corners")
        rows = self.node("Concat", [corners, column], "rows", axis=1)
        self.node("Unsqueeze", [rows], "dets", axes=[0])
        self.node("Unsqueeze", [labels], "labels", axes=[0])
        self.returns(dets=(TensorProto.FLOAT, [1, "n", 5]), labels=(TensorProto.INT64, [1, "n"]))

    def returns(self, **outputs: tuple[int, list]) -> None:
        del self.graph.output[:]
        for name, (kind, shape) in outputs.items():
            self.graph.output.append(helper.make_tensor_value_info(name, kind, shape))

    def save(self, path: pathlib.Path) -> pathlib.Path:
        onnx.save(self.model, path)
        return path
