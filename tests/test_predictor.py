"""The predictor against evaluation's own path; how often it compiles; what it refuses."""

import os
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from test_folding import trained_variables

import mspn_jax
from commands import HERE
from mspn_jax import backends, inference
from mspn_jax.crops import decode_picture
from mspn_jax.data import evaluation_set
from mspn_jax.errors import CheckpointError
from mspn_jax.evaluation.estimation import estimate_boxes
from mspn_jax.folding import for_inference
from mspn_jax.predictor import Predictor
from mspn_jax.skeletons import COCO
from mspn_jax.synthetic import people
from mspn_jax.weights import checkpoints
from mspn_jax.weights.description import Description

DESCRIPTION = Description(
    variant="tiny",
    model=dict(
        num_stages=2,
        blocks_per_unit=(1, 1, 1, 1),
        stem_channels=8,
        unit_channels=16,
        num_keypoints=17,
    ),
    crop_hw=(64, 96),
)
VARIABLES = trained_variables(DESCRIPTION.new_model())


@pytest.fixture(scope="module", params=backends.BACKENDS)
def backend(request) -> str:
    if request.param == "onnxruntime":
        pytest.importorskip("onnx")
    return request.param


@pytest.fixture(scope="module")
def predictor(backend) -> Predictor:
    return Predictor(DESCRIPTION, VARIABLES, backend=backend)


@pytest.fixture(scope="module")
def dark(backend) -> Predictor:
    return Predictor(DESCRIPTION, VARIABLES, decoding="dark", backend=backend)


def some_picture(hw=(90, 120)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*hw, 3), np.uint8)


def some_boxes(count: int) -> np.ndarray:
    rng = np.random.default_rng(count)
    return np.concatenate([rng.uniform(-5, 60, (count, 2)), rng.uniform(10, 50, (count, 2))], 1)


@pytest.mark.parametrize("decoding", ["quarter", "dark"])
def test_it_finds_what_evaluation_finds(decoding, predictor, dark, tmp_path):
    """Through records, TFDS and grain on the one hand; picture by picture on the other."""
    people.write_dataset(tmp_path, {"val2017": 6})
    dataset = evaluation_set.open_split(root=tmp_path, split="val2017", skeleton=COCO)
    predictor = {"quarter": predictor, "dark": dark}[decoding]
    model, variables = for_inference(DESCRIPTION.new_model(), VARIABLES)
    expected_xy, expected_scores = estimate_boxes(
        inference.estimate_on_devices(model, COCO.flip_permutation, decoding=decoding),
        variables,
        dataset.records,
        dataset.boxes,
        crop_hw=DESCRIPTION.crop_hw,
        batch_size=5,
        padding=DESCRIPTION.padding,
    )
    boxes_xyxy = dataset.boxes.boxes_xyxy
    boxes_xywh = np.concatenate([boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]], 1)
    for record_index in np.unique(dataset.boxes.record_indices):
        rows = dataset.boxes.record_indices == record_index
        image = decode_picture(dataset.records.source[int(record_index)]["image"])
        keypoints_image_xy, keypoint_scores = predictor(image, boxes_xywh[rows])
        np.testing.assert_allclose(keypoints_image_xy, expected_xy[rows], atol=0.01)
        np.testing.assert_allclose(keypoint_scores, expected_scores[rows], atol=1e-4)
    assert np.ptp(expected_xy, axis=0).min() > 1  # there was something to tell apart


def test_decodings_differ_by_less_than_a_cell(predictor, dark):
    image, boxes = some_picture(), some_boxes(5)
    (quarter_xy, quarter_scores), (dark_xy, dark_scores) = (
        each(image, boxes) for each in (predictor, dark)
    )
    np.testing.assert_array_equal(dark_scores, quarter_scores)
    cell = 4 * boxes[:, 2:].max() * DESCRIPTION.padding * 2 / 64  # crops are 64 high
    assert 0 < np.abs(dark_xy - quarter_xy).max() < 2 * cell
    with pytest.raises(ValueError, match="decoding is 'light', and must be quarter or dark"):
        Predictor.load("nowhere", decoding="light")


def test_people_do_not_depend_on_who_is_in_their_batch(predictor):
    image, other = some_picture(), some_picture((50, 40))
    boxes = some_boxes(37)  # more than a batch
    alone = [predictor(image, box[None]) for box in boxes[:5]]
    pictures = [(image, boxes[:3]), (other, []), (other, boxes[5:]), (image, boxes[3:5])]
    for together in (1, 3, 10):
        several = list(predictor.stream(pictures, together))
        assert [len(xy) for xy, _ in several] == [3, 0, 32, 2]
        found = [np.concatenate([several[0][i], several[3][i]]) for i in (0, 1)]
        for i in (0, 1):
            expected = np.concatenate([one[i] for one in alone])
            np.testing.assert_allclose(found[i], expected, atol=1e-3)


def test_nobody_is_somebody_less_not_an_error(predictor):
    for none in ([], np.zeros((0, 4))):
        keypoints_image_xy, keypoint_scores = predictor(some_picture((1, 1)), none)
        assert keypoints_image_xy.shape == (0, 17, 2) and keypoint_scores.shape == (0, 17)


@pytest.mark.slow
def test_nothing_is_compiled_twice(backend):
    compiled = []

    def listen(event: str, *_, **__):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    predictor = Predictor(DESCRIPTION, VARIABLES, flip_test=False, backend=backend)
    for count in (1, 8):
        predictor(some_picture(), some_boxes(count))
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for count in (0, 3, 5, 7, 9, 30, 33, 70, 1):
            predictor(some_picture((40 + count, 50)), some_boxes(count))
        assert not compiled
        other = Predictor(DESCRIPTION, VARIABLES, flip_test=True, backend=backend)
        other(some_picture(), some_boxes(1))
        assert compiled  # so the count does count
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize(
    "platform, sizes",
    [
        ("gpu", {0: [], 1: [1], 5: [8], 30: [32], 33: [32, 1], 70: [32, 32, 8]}),
        ("cpu", {0: [], 1: [1], 5: 5 * [1], 8: [8], 30: [8, 8, 8] + 6 * [1]}),
    ],
)
def test_people_are_in_few_batches_and_on_a_cpu_in_full_ones(monkeypatch, platform, sizes):
    monkeypatch.setattr(jax, "devices", lambda: [types.SimpleNamespace(platform=platform)])
    assert {count: backends.batch_sizes("jax", count) for count in sizes} == sizes
    assert backends.batch_sizes("onnxruntime", 5) == 5 * [1]


def test_every_person_of_every_batch_is_found(predictor, monkeypatch):
    boxes = some_boxes(30)
    alone = predictor(some_picture(), boxes)
    batches = []
    monkeypatch.setattr(backends, "batch_sizes", lambda _, count: batches.append(count) or [16, 16])
    for found, expected in zip(predictor(some_picture(), boxes), alone, strict=True):
        assert len(found) == 30
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert batches == [30]


def test_a_stream_reads_no_further_than_it_must(predictor):
    read, ahead = 0, []

    def pictures():
        nonlocal read
        for _ in range(20):
            read += 1
            yield some_picture(), some_boxes(1)

    for done, _ in enumerate(predictor.stream(pictures(), together=2), start=1):
        ahead.append(read - done)
    assert done == 20 and max(ahead) == 3


def test_fewer_stages_are_another_answer(predictor, backend):
    boxes = some_boxes(4)
    one = Predictor(DESCRIPTION, VARIABLES, num_stages=1, backend=backend)(some_picture(), boxes)
    assert np.abs(one[1] - predictor(some_picture(), boxes)[1]).max() > 1e-3


@pytest.mark.parametrize(
    "image, boxes, message",
    [
        (np.zeros((4, 4), np.uint8), [[0, 0, 1, 1]], r"\(H, W, 3\) uint8 RGB, not uint8 \(4, 4\)"),
        (np.zeros((4, 4, 3)), [[0, 0, 1, 1]], r"uint8 RGB, not float64 \(4, 4, 3\)"),
        (some_picture(), [0, 0, 1, 1], r"\(N, 4\): x, y, width, height; not \(4,\)"),
        (some_picture(), [[0, 0, 5, 5], [0, 0, 0, 5]], r"box 1 is \[0.0, 0.0, 0.0, 5.0\]"),
        (some_picture(), [[0, np.nan, 5, 5]], "box 0 is .* not finite"),
        (np.zeros((1, 40000, 3), np.uint8), [[0, 0, 5, 5]], "sides can have 32766"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_it_cannot_take_is_said(predictor, image, boxes, message):
    with pytest.raises(ValueError, match=message):
        predictor(image, boxes)


def test_it_loads_what_was_saved_and_needs_no_config(predictor, backend, tmp_path):
    checkpoints.save_variables(tmp_path / "saved", DESCRIPTION, VARIABLES)
    loaded = mspn_jax.Predictor.load(tmp_path / "saved", backend=backend)
    for mine, expected in zip(
        loaded(some_picture(), some_boxes(2)), predictor(some_picture(), some_boxes(2)), strict=True
    ):
        np.testing.assert_array_equal(mine, expected)
    with pytest.raises(CheckpointError, match="stages 3: the checkpoint has 2"):
        mspn_jax.Predictor.load(tmp_path / "saved", num_stages=3)


def printed_by(program: str) -> str:
    """The output of a new Python process."""
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(HERE)},
        check=True,
    ).stdout


@pytest.mark.parametrize(
    "imports, absent",
    [
        ("mspn_jax; mspn_jax.Predictor", {"tensorflow_datasets", "grain", "pycocotools"}),
        ("mspn_jax.commands.train, mspn_jax.reports.evaluation", {"matplotlib", "jinja2"}),
    ],
)
def test_a_program_imports_only_the_libraries_that_it_needs(imports, absent):
    program = f"""
import sys
import types
import {imports}
print(*{{name.partition(".")[0] for name in sys.modules}})
"""
    assert not absent & set(printed_by(program).split())


def test_the_predictor_is_imported_in_a_moment():
    """Processor time, since a busy machine makes a program wait."""
    program = "import time, mspn_jax; mspn_jax.Predictor; print(time.process_time())"
    assert float(printed_by(program)) < 1.5
