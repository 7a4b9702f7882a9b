"""The detector on tiny ONNX models that answer what they are told to."""

import numpy as np
import pytest

from mspn_jax.detector import STRIDES, Detector, letterbox
from mspn_jax.errors import DataError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

INPUT_HW = (64, 96)


def write_model(path, answer: np.ndarray, input_shape=(1, 3, *INPUT_HW)) -> None:
    """A model that returns `answer`, plus the picture's mean minus itself."""
    helper, tensor = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Sub", ["mean", "mean"], ["zero"]),
        helper.make_node("Add", ["answer", "zero"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("images", tensor, input_shape)],
        [helper.make_tensor_value_info("output", tensor, answer.shape)],
        [onnx.numpy_helper.from_array(answer.astype(np.float32), "answer")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, path)


def says(*people) -> np.ndarray:
    """YOLOX's raw output for (stride, column, row, x, y, w, h, objectness, {class: score})."""
    rows, first = [], {}
    for stride in STRIDES:
        first[stride] = sum(len(r) for r in rows)
        rows.append(np.zeros((INPUT_HW[0] // stride * (INPUT_HW[1] // stride), 85)))
    output = np.concatenate(rows)
    for stride, column, row, x, y, w, h, objectness, classes in people:
        cell = first[stride] + row * (INPUT_HW[1] // stride) + column
        output[cell, :4] = x / stride - column, y / stride - row, *np.log((w / stride, h / stride))
        output[cell, 4] = objectness
        for label, score in classes.items():
            output[cell, 5 + label] = score
    return output[None]


def test_boxes_come_back_where_they_were_said_to_be(tmp_path):
    write_model(
        tmp_path / "m.onnx",
        says(
            (8, 3, 2, 30.0, 20.0, 12.0, 24.0, 0.9, {0: 0.8}),
            (8, 4, 2, 31.0, 20.0, 12.0, 24.0, 0.9, {0: 0.7}),  # the same person: suppressed
            (16, 1, 3, 20.0, 50.0, 10.0, 8.0, 0.9, {2: 0.9}),  # a car
            (32, 2, 1, 80.0, 50.0, 40.0, 20.0, 1.0, {0: 0.5}),  # reaches over the border
            (32, 0, 0, 16.0, 16.0, 9.0, 9.0, 0.5, {0: 0.5}),  # not sure enough
        ),
    )
    detector = Detector(tmp_path / "m.onnx")
    assert detector.input_hw == INPUT_HW
    boxes_xywh, scores = detector(np.zeros((128, 192, 3), np.uint8))  # twice the model's size
    np.testing.assert_allclose(scores, [0.72, 0.5], atol=1e-6)
    np.testing.assert_allclose(boxes_xywh, [[48, 16, 24, 48], [120, 80, 72, 40]], atol=1e-3)


def test_nobody_is_no_box(tmp_path):
    write_model(tmp_path / "m.onnx", says())
    boxes_xywh, scores = Detector(tmp_path / "m.onnx")(np.zeros((1, 1, 3), np.uint8))
    assert boxes_xywh.shape == (0, 4) and scores.shape == (0,)


def test_the_picture_is_put_at_the_top_left_in_blue_green_red():
    image = np.full((32, 32, 3), (10, 20, 30), np.uint8)
    pixels, scale = letterbox(image, INPUT_HW)
    assert scale == 2 and pixels.shape == (1, 3, *INPUT_HW) and pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels[0, :, 63, 63], (30, 20, 10))
    np.testing.assert_array_equal(pixels[0, :, 63, 64], (114, 114, 114))


def test_other_models_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"nowhere.onnx: no such file"):
        Detector(tmp_path / "nowhere.onnx")
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(DataError, match=r"text.onnx: onnxruntime cannot load it"):
        Detector(tmp_path / "text.onnx")
    write_model(tmp_path / "flat.onnx", says(), input_shape=(1, 3, 64))
    with pytest.raises(DataError, match=r"takes tensor\(float\) \[1, 3, 64\], but YOLOX takes"):
        Detector(tmp_path / "flat.onnx")
    write_model(tmp_path / "short.onnx", says()[:, :5])
    with pytest.raises(DataError, match=r"returns \(1, 5, 85\), but YOLOX returns \(1, 126, 85\)"):
        Detector(tmp_path / "short.onnx")(np.zeros((9, 9, 3), np.uint8))
