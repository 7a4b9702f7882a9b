"""The detector on made-up files with known outputs; names and devices."""

import dataclasses
import hashlib
import logging
import zipfile

import numpy as np
import pytest

import mspn_jax
from mspn_jax.detector import DETECTORS, Detector, letterbox, session
from mspn_jax.detector.classes import COCO_CLASSES
from mspn_jax.detector.outputs import recognise
from mspn_jax.errors import DataError, DownloadError, UsageError

pytest.importorskip("onnx")

import detector_files as files
from detector_files import INPUT_HW

BLACK = np.zeros((128, 192, 3), np.uint8)  # twice the size of the made up networks
PEOPLE = files.raw(
    (8, 3, 2, 30.0, 20.0, 12.0, 24.0, 0.9, {0: 0.8}),
    (8, 4, 2, 31.0, 20.0, 12.0, 24.0, 0.9, {0: 0.7}),  # the same person: suppressed
    (16, 1, 3, 20.0, 50.0, 10.0, 8.0, 0.9, {2: 0.9}),  # a car
    (32, 2, 1, 80.0, 50.0, 40.0, 20.0, 1.0, {0: 0.5}),  # reaches over the border
    (32, 0, 0, 16.0, 16.0, 9.0, 9.0, 0.5, {0: 0.5}),  # not sure enough
)
YOLOX_LAYER, RTMDET_LAYER = "bbox_head.multi_level_conv_cls.0.weight", "bbox_head.rtm_cls.0.weight"
DETS = np.float32(  # the score is not in order, and the last box is beyond the border
    [[[60, 40, 100, 60, 0.5], [24, 8, 36, 32, 0.72], [10, 40, 20, 50, 0.9], [200, 0, 210, 9, 0.9]]]
)
LABELS = np.array([[0, 0, 2, 0]])


@pytest.fixture
def made(tmp_path):
    def make(outputs, **options):
        files.save(tmp_path / "m.onnx", outputs, **options)
        return tmp_path / "m.onnx"

    return make


@pytest.mark.parametrize("layout", ["raw", "decoded", "nms"])
@pytest.mark.parametrize("is_told", [False, True])
def test_boxes_come_back_where_they_were_said_to_be(made, layout, is_told):
    outputs = {
        "raw": {"output": PEOPLE},
        "decoded": {"output": files.decoded(PEOPLE)},
        "nms": {"dets": DETS, "labels": LABELS},
    }
    detector = Detector(
        made(outputs[layout], weights=(YOLOX_LAYER,)), layout=layout if is_told else None
    )
    assert (detector.input_hw, detector.layout, detector.normalisation) == (
        INPUT_HW,
        layout,
        "none",
    )
    boxes_xywh, scores = detector(BLACK)
    np.testing.assert_allclose(scores, [0.72, 0.5], atol=1e-6)
    np.testing.assert_allclose(boxes_xywh, [[48, 16, 24, 48], [120, 80, 72, 40]], atol=1e-3)


def test_a_layout_that_is_told_is_taken_at_its_word(made):
    path = made({"output": files.decoded(PEOPLE)})
    boxes_xywh, _ = Detector(path, layout="raw", min_score=0.7)(BLACK)
    np.testing.assert_array_equal(boxes_xywh, [[0, 0, 192, 128]])  # decoded twice: beyond all sides
    with pytest.raises(DataError, match=r"m.onnx: returns .* is needed for layout nms"):
        Detector(path, layout="nms", normalisation="none")(BLACK)
    with pytest.raises(UsageError, match="layout 'end2end': must be one of raw, decoded, nms"):
        Detector(path, layout="end2end")


def test_boxes_by_their_corners_are_not_taken_for_centers():
    rng = np.random.default_rng(0)
    sizes = rng.uniform(2, 8, (1, 126, 2))  # in cells
    output = files.decoded(np.concatenate([rng.random((1, 126, 2)), np.log(sizes)], 2))
    output[..., :2] -= output[..., 2:] / 2
    rows = np.concatenate([output, np.ones((1, 126, 81))], 2)
    with pytest.raises(DataError, match=r"neither YOLOX's raw nor its decoded"):
        recognise([rows], INPUT_HW)


def test_options(made):
    path = made({"output": PEOPLE})
    assert Detector(path, min_score=0.2)(BLACK)[1] == pytest.approx([0.72, 0.5, 0.25])
    assert Detector(path, top_k=1)(BLACK)[1] == pytest.approx([0.72])
    assert Detector(path, nms_threshold=0.95)(BLACK)[1] == pytest.approx([0.72, 0.63, 0.5])
    for name in ("car", 2):
        boxes_xywh, scores = Detector(path, class_name=name)(BLACK)
        assert scores == pytest.approx([0.81])
        np.testing.assert_allclose(boxes_xywh, [[30, 92, 20, 16]], atol=1e-3)
    for options, message in (
        ({"class_name": "persn"}, "class_name 'persn': not one of COCO's 80 .* mean 'person'"),
        ({"class_name": -1}, "class_name -1: an index cannot be negative"),
        ({"min_score": 1.5}, "min_score 1.5: must be from 0 to 1"),
        ({"nms_threshold": -0.1}, "nms_threshold -0.1"),
        ({"top_k": 0}, "top_k 0: must be at least 1"),
        ({"input_hw": (64, 64)}, "input_hw 64, 64: .*m.onnx takes only 64, 96"),
        ({"input_hw": (60, 96)}, "input_hw 60, 96: must be multiples of 32"),
        ({"normalisation": "mean"}, "normalisation 'mean': must be one of none, rtmdet"),
    ):
        with pytest.raises(UsageError, match=message):
            Detector(path, **options)


def test_files_of_other_classes_than_cocos(made, tmp_path):
    assert len(COCO_CLASSES) == len(set(COCO_CLASSES)) == 80
    one = made({"output": files.raw((8, 3, 2, 30, 20, 12, 24, 0.9, {0: 0.9}), num_classes=1)})
    assert len(Detector(one)(BLACK)[0]) == 1
    with pytest.raises(DataError, match=r"has 1 classes, so none with index 16 \(dog\)"):
        Detector(one, class_name="dog")
    three = made({"output": files.raw((8, 3, 2, 30, 20, 12, 24, 0.9, {1: 0.9}), num_classes=3)})
    assert len(Detector(three, class_name=1)(BLACK)[0]) == 1
    with pytest.raises(DataError, match=r"has 3 classes, which are not COCO's: give class_name as"):
        Detector(three)
    without_labels = made({"dets": DETS}, weights=(YOLOX_LAYER,))
    assert Detector(without_labels)(BLACK)[1] == pytest.approx([0.9, 0.72, 0.5])


def test_nobody_is_no_box(made):
    dets = {"dets": np.zeros((1, 0, 5), np.float32), "labels": np.zeros((1, 0), np.int64)}
    for outputs in ({"output": files.raw()}, dets):
        path = made(outputs, weights=(YOLOX_LAYER,))
        boxes_xywh, scores = Detector(path)(np.zeros((1, 1, 3), np.uint8))
        assert boxes_xywh.shape == (0, 4) and scores.shape == (0,)


def test_numbers_that_are_not_finite_are_no_box(made):
    output = PEOPLE.copy()
    output[0, np.argmax(output[0, :, 4] == 1), 2] = 1000  # the logarithm of a width
    output[0, 0, 4] = np.nan
    assert Detector(made({"output": output}), layout="raw")(BLACK)[1] == pytest.approx([0.72])


def test_the_picture_is_put_at_the_top_left_in_blue_green_red():
    image = np.full((32, 32, 3), (10, 20, 30), np.uint8)
    pixels, scale = letterbox(image, INPUT_HW)
    assert scale == 2 and pixels.shape == (1, 3, *INPUT_HW) and pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels[0, :, 63, 63], (30, 20, 10))
    np.testing.assert_array_equal(pixels[0, :, 63, 64], (114, 114, 114))


@pytest.mark.parametrize(
    "normalisation, order", [("rtmdet", slice(None, None, -1)), ("yolox_0.1.0", slice(None))]
)
def test_normalised_pictures(normalisation, order):
    image = np.full((32, 32, 3), (10, 20, 30), np.uint8)
    pixels, _ = letterbox(image, INPUT_HW, normalisation)
    assert pixels.dtype == np.float32
    mean, std = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
    expected = ((np.array((10, 20, 30)) / 255 - mean) / std)[order]
    np.testing.assert_allclose(pixels[0, :, 63, 63], expected, atol=1e-4)
    np.testing.assert_allclose(pixels[0, :, 63, 64], ((114 / 255 - mean) / std)[order], atol=1e-4)


def test_rtmdet_is_told_from_yolox_by_its_layers(made):
    outputs = {"dets": DETS, "labels": LABELS}
    assert Detector(made(outputs, weights=(RTMDET_LAYER,))).normalisation == "rtmdet"
    assert Detector(made(outputs, weights=(YOLOX_LAYER,))).normalisation == "none"
    for weights in ((), (RTMDET_LAYER, YOLOX_LAYER)):
        path = made(outputs, weights=weights)
        with pytest.raises(DataError, match=r"input is normalised: give normal"):
            Detector(path)
        assert Detector(path, normalisation="rtmdet").normalisation == "rtmdet"


@pytest.mark.parametrize("input_hw", [None, (64, 96), (320, 160)])
def test_files_for_pictures_of_any_size(tmp_path, input_hw):
    files.dynamic(tmp_path / "m.onnx")
    detector = Detector(tmp_path / "m.onnx", input_hw=input_hw)
    height, width = detector.input_hw
    assert (height, width) == (input_hw or (640, 640))
    boxes_xywh, _ = detector(np.zeros((2 * height, 2 * width, 3), np.uint8))
    np.testing.assert_allclose(boxes_xywh, [[width, height, width, height]])


def test_a_zip_with_a_file(made, tmp_path):
    path = made({"output": PEOPLE})
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        archive.write(path, "20230101/m/end2end.onnx")
        archive.writestr("20230101/m/pipeline.json", "{}")
    assert len(Detector(tmp_path / "m.zip")(BLACK)[0]) == 2
    with zipfile.ZipFile(tmp_path / "m.zip", "a") as archive:
        archive.write(path, "other.onnx")
    with pytest.raises(DataError, match=r"m.zip: holds 2 .onnx files, not one; unpack it"):
        Detector(tmp_path / "m.zip")
    (tmp_path / "m.zip").write_text("not an archive")
    with pytest.raises(DataError, match=r"m.zip: not a .zip that can be read"):
        Detector(tmp_path / "m.zip")


def test_other_models_are_refused(made, tmp_path):
    with pytest.raises(DataError, match=r"nowhere.onnx: no such file"):
        Detector(tmp_path / "nowhere.onnx")
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(DataError, match=r"text.onnx: onnxruntime cannot load it"):
        Detector(tmp_path / "text.onnx")
    output = {"output": files.raw()}
    for shape, message in (
        ((1, 3, 64), r"takes images tensor\(float\) \[1, 3, 64\], but a detector takes one"),
        ((1, 64, 96, 3), r"but a detector takes one tensor\(float\) \[1, 3, H, W\]"),
        ((2, 3, *INPUT_HW), r"m.onnx: takes 2 pictures at a time; export it with a batch of 1"),
    ):
        path = made(output, input_shape=shape)
        with pytest.raises(DataError, match=message):
            Detector(path)
    path = made({"output": files.raw().astype(np.float16)}, input_type=files.TensorProto.FLOAT16)
    with pytest.raises(DataError, match=r"takes images tensor\(float16\) .* export it in float32"):
        Detector(path)
    path = made({"output": files.raw()[:, :5]})
    with pytest.raises(
        DataError, match=r"m.onnx: returns \(1, 5, 85\), but YOLOX returns \(1, 126"
    ):
        Detector(path)


def test_errors_of_a_run_are_one_line(tmp_path, made):
    """A file that runs at one size alone, but says that it takes any."""
    path = made({"output": PEOPLE}, input_shape=(1, 3, "h", "w"))
    model = files.onnx.load(path)
    node = files.helper.make_node("Reshape", ["images", "fixed"], ["reshaped"])
    model.graph.node.insert(0, node)
    model.graph.node[1].input[0] = "reshaped"
    fixed = files.numpy_helper.from_array(np.array([1, 3, *INPUT_HW]), "fixed")
    model.graph.initializer.append(fixed)
    files.onnx.save(model, path)
    assert len(Detector(path, input_hw=INPUT_HW)(BLACK)[0]) == 2
    with pytest.raises(DataError) as refused:
        Detector(path)  # at 640 x 640
    message = str(refused.value)
    assert "m.onnx: onnxruntime cannot run it on CPUExecutionProvider (" in message
    assert "export it again, in float32" in message and "\n" not in message


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((64, 96, 3), np.float32),
        np.zeros((64, 96, 4), np.uint8),
        np.zeros((64, 96), np.uint8),
        np.zeros((0, 96, 3), np.uint8),
        [[0, 0, 0]],
    ],
    ids=["floats", "alpha", "grey", "empty", "list"],
)
def test_what_is_no_picture_is_refused(made, image, unchecked):
    detector = Detector(made({"output": PEOPLE}))
    with pytest.raises(ValueError, match=r"a picture must be \(H, W, 3\) uint8 RGB, not"):
        detector(image)


# -------------------------------------------------------------------------- names and devices


def test_detectors_by_name_and_address(made, tmp_path, monkeypatch):
    data = made({"output": PEOPLE}).read_bytes()
    known = DETECTORS["yolox_s"]
    digest = hashlib.sha256(data).hexdigest()
    monkeypatch.setitem(
        DETECTORS, "yolox_s", dataclasses.replace(known, sha256=digest, num_bytes=len(data))
    )
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    monkeypatch.setenv("MSPN_MIRROR", str(mirror))
    monkeypatch.setenv("MSPN_HOME", str(tmp_path / "home"))
    (mirror / "yolox_s.onnx").write_bytes(data)
    (mirror / "mine.onnx").write_bytes(data)
    detector = mspn_jax.Detector.load("yolox_s", min_score=0.7)
    assert detector.path.is_relative_to(tmp_path / "home") and len(detector(BLACK)[0]) == 1
    address = "http://127.0.0.1:9/mine.onnx"
    assert Detector.load(address, sha256=digest[:8]).layout == "raw"
    assert Detector.load(tmp_path / "m.onnx").layout == "raw"
    with pytest.raises(DownloadError, match=r"http://127.0.0.1:9/other.onnx"):
        Detector.load("http://127.0.0.1:9/other.onnx")
    with pytest.raises(
        DataError, match=r"yolox_q: no such file, nor a .* \(yolox_nano, yolox_tiny"
    ):
        Detector.load("yolox_q")


def test_the_table_of_names():
    for name, known in DETECTORS.items():
        assert name == known.name and known.url.endswith(f"/{name}.onnx")
        assert len(known.sha256) == 64 and int(known.sha256, 16)
        assert not any(side % 32 for side in known.input_hw)


@pytest.mark.parametrize(
    "available, has_device, expected",
    [
        (["AzureExecutionProvider"], True, []),
        (["TensorrtExecutionProvider", "CUDAExecutionProvider"], True, ["CUDAExecutionProvider"]),
        (["TensorrtExecutionProvider", "CUDAExecutionProvider"], False, []),
        (["DmlExecutionProvider"], False, ["DmlExecutionProvider"]),
    ],
)
def test_a_gpu_is_asked_for_if_there_is_one(available, has_device, expected, monkeypatch):
    class Runtime:
        @staticmethod
        def get_available_providers():
            return [*available, "CPUExecutionProvider"]

    monkeypatch.setattr(session, "_has_cuda_device", lambda: has_device)
    assert session._providers(Runtime) == [*expected, "CPUExecutionProvider"]


def test_the_device_is_named_and_nothing_is_printed(made, caplog, capfd):
    caplog.set_level(logging.INFO, "mspn_jax")
    path = made({"output": PEOPLE})
    assert Detector(path).provider == "CPUExecutionProvider"
    assert [each.getMessage() for each in caplog.records] == [
        f"{path}: runs on onnxruntime's CPUExecutionProvider"
    ]
    assert capfd.readouterr() == ("", "")
    assert not session._has_cuda_device() or "CUDA" in Detector(path).provider
