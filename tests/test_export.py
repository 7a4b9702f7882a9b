"""Exported files against the predictor, and what a failed export leaves."""

import json
import os
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from test_folding import trained_variables
from test_predictor import DESCRIPTION, VARIABLES, Predictor, some_boxes, some_picture

from commands import error_of
from mspn_jax import geometry
from mspn_jax.errors import ExportError
from mspn_jax.export import formats
from mspn_jax.export.formats import Deployment
from mspn_jax.model import MSPN
from mspn_jax.weights import checkpoints
from mspn_jax.weights.description import Description

HERE = pathlib.Path(__file__).parents[1]


def needs(format: str) -> None:
    if format == "onnx":
        pytest.importorskip("onnx")


def some_crops(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *DESCRIPTION.crop_hw, 3), np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize(
    "format, flip_test, num_stages",
    [("stablehlo", True, None), ("onnx", True, None), ("onnx", False, 1)],
)
def test_a_file_finds_what_the_predictor_finds(format, flip_test, num_stages, tmp_path):
    needs(format)
    deployment = Deployment(
        DESCRIPTION, VARIABLES, num_stages, flip_test, with_decode=True, batch_size=None
    )
    path = tmp_path / f"model.{format}"
    formats.write(path, deployment, format)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]

    predictor = Predictor(DESCRIPTION, VARIABLES, flip_test, num_stages=num_stages, backend="jax")
    sent, start = [], predictor._start_batch
    predictor._start_batch = lambda crops: sent.append(crops) or start(crops)
    boxes = some_boxes(4)
    expected_xy, expected_scores = predictor(some_picture(), boxes)
    keypoints_crop_xy, keypoint_scores = map(
        np.asarray, formats.FORMATS[format][1](path.read_bytes())(np.concatenate(sent))
    )
    center_xy, size_wh = geometry.crop_regions(
        geometry.boxes_xywh_to_xyxy(boxes), DESCRIPTION.padding, DESCRIPTION.crop_hw
    )
    keypoints_image_xy = geometry.crop_to_image(
        keypoints_crop_xy, center_xy, size_wh, DESCRIPTION.crop_hw
    )
    np.testing.assert_allclose(keypoints_image_xy, expected_xy, atol=0.01)
    np.testing.assert_allclose(keypoint_scores, expected_scores, atol=1e-4)


def test_onnx_decodes_odd_maps_as_we_do():
    """Empty maps, peaks on and near borders, a weak spike on a negative floor."""
    needs("onnx")
    import onnx
    import onnxruntime
    from onnx import helper, numpy_helper

    from mspn_jax import heatmaps
    from mspn_jax.export import onnx_graph

    rng = np.random.default_rng(0)
    maps = rng.normal(-20, 5, (40, 16, 12, 3)).astype(np.float32)  # (B, h, w, K)
    for b in range(1, 39):
        row, column = divmod(5 * b, 12)
        maps[b, row % 16, column] = (255, 120, 30)
    maps[0], maps[39] = 0, -1
    graph = onnx_graph.Graph()
    outputs = onnx_graph._decode(graph, "maps", (16, 12), 3)
    tensor = onnx.TensorProto.FLOAT
    takes = [helper.make_tensor_value_info("maps", tensor, ["B", 3, 16, 12])]
    gives = [helper.make_tensor_value_info(name, tensor, None) for name in outputs]
    constants = [numpy_helper.from_array(value, name) for name, value in graph.constants.items()]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "decode", takes, gives, constants),
        opset_imports=[helper.make_opsetid("", onnx_graph.OPSET)],
        ir_version=onnx_graph.IR_VERSION,
    )
    session = onnxruntime.InferenceSession(model.SerializeToString())
    found = session.run(None, {"maps": maps.transpose(0, 3, 1, 2)})
    for mine, expected in zip(found, heatmaps.decode(jnp.asarray(maps)), strict=True):
        np.testing.assert_allclose(mine, expected, atol=1e-5)


@pytest.mark.slow
def test_bfloat16_and_a_fixed_batch_of_heatmaps(tmp_path):
    deployment = Deployment(DESCRIPTION, VARIABLES, batch_size=2, dtype=jnp.bfloat16)
    formats.write(tmp_path / "m", deployment, "stablehlo")
    run = formats.open_stablehlo((tmp_path / "m").read_bytes())
    (maps,) = run(some_crops(2))
    assert maps.shape == (2, 16, 24, 17)
    (full,) = Deployment(DESCRIPTION, VARIABLES, batch_size=2).live()(some_crops(2))
    assert 1e-4 < np.abs(maps - full).max() / np.std(full) < 0.3
    with pytest.raises(ExportError, match="bfloat16 convolutions are not in onnxruntime"):
        needs("onnx")
        formats.to_onnx(deployment)


@pytest.mark.slow
def test_a_file_that_computes_something_else_is_not_kept(tmp_path, monkeypatch):
    deployment = Deployment(DESCRIPTION, VARIABLES)
    (maps,) = deployment.live()(np.zeros((1, *DESCRIPTION.crop_hw, 3), np.uint8))
    for found, message in (
        ([maps + 1], "its heatmaps differ by up to .* from the live network's"),
        ([maps * np.nan], "up to inf"),
        ([maps[:, 1:]], "its heatmaps are"),
    ):
        monkeypatch.setitem(
            formats.FORMATS, "stablehlo", (lambda d: b"data", lambda data, f=found: lambda crops: f)
        )
        with pytest.raises(ExportError, match=message):
            formats.write(tmp_path / "m", deployment, "stablehlo")
        assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command_writes_a_card_and_refuses_to_write_over(tmp_path):
    needs("onnx")
    checkpoints.save_variables(tmp_path / "saved", DESCRIPTION, VARIABLES)

    def run(*arguments: object) -> subprocess.CompletedProcess:
        command = [sys.executable, HERE / "export.py", "--checkpoint", tmp_path / "saved"]
        return subprocess.run(
            [*map(str, (*command, *arguments))],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(HERE)},
            cwd=tmp_path,
        )

    done = run("--format", "onnx", "--with-decode", "--dynamic-batch", "--stages", 1)
    assert done.returncode == 0, done.stderr
    assert "keypoint_scores: at most" in done.stdout and (tmp_path / "tiny.onnx").exists()
    card = json.loads((tmp_path / "tiny.onnx.json").read_text())
    assert card["outputs"]["keypoints_crop_xy"] == {"dtype": "float32", "shape": ["B", 17, 2]}
    assert (card["stages"], card["stages_of_checkpoint"], card["padding"]) == (1, 2, 1.25)
    assert card["keypoint_names"][0] == "nose" and card["metrics_of_checkpoint"] is None

    for arguments, message in (
        (["--format", "onnx"], "tiny.onnx: exists; give another --output"),
        (["--format", "onnx", "--bf16", "--output", "b.onnx"], "b.onnx: bfloat16 convolutions"),
        (["--format", "stablehlo", "--stages", 3], "stages 3: the checkpoint has 2"),
    ):
        done = run(*arguments)
        assert message in error_of(done)
    assert {p.name for p in tmp_path.iterdir()} == {"saved", "tiny.onnx", "tiny.onnx.json"}


@pytest.mark.parametrize("format, module", [("stablehlo", "flatbuffers"), ("onnx", "onnx")])
def test_a_missing_package_is_named(format, module, tmp_path):
    checkpoints.save_variables(tmp_path / "saved", DESCRIPTION, VARIABLES)
    absent = f"raise ModuleNotFoundError('No module named {module}', name='{module}')\n"
    (tmp_path / f"{module}.py").write_text(absent)
    command = [sys.executable, HERE / "export.py", "--checkpoint", tmp_path / "saved"]
    done = subprocess.run(
        [*command, "--format", format],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{HERE}"},
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert f"error: {module} is not installed: pip install {module}\n" in done.stderr


def test_a_published_size_is_exported_whole(tmp_path):
    """The blocks of ResNet-50 at 256x192, two stages: every brick, stride and skip."""
    onnx = pytest.importorskip("onnx")
    model = dict(num_stages=2, num_keypoints=17, stem_channels=4, unit_channels=8)
    description = Description(variant="narrow", model=model)
    deployment = Deployment(description, trained_variables(MSPN(**model)), flip_test=False)
    formats.write(tmp_path / "m", deployment, "onnx")
    onnx.checker.check_model(str(tmp_path / "m"), full_check=True)
