"""The benchmarks run; their arithmetic and their PyTorch model are correct."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import cv2
import detector_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import bytes as bytes_benchmark
from benchmarks import timing, workload
from benchmarks.beside import TOLERANCE
from benchmarks.compiled import compiled
from benchmarks.plain_mspn import PlainMSPN
from mspn_jax.compiled import Kernel
from mspn_jax.data import coco
from mspn_jax.model import MSPN, normalise
from mspn_jax.synthetic import coco_files, people
from mspn_jax.variables import count_parameters

HERE = pathlib.Path(__file__).parents[1]
IMAGE = np.zeros((1, 256, 192, 3), np.float32)
HAS_TORCH = importlib.util.find_spec("torch") is not None


def run(program: str, *arguments: object) -> list[dict]:
    """Runs a benchmark in small. Returns its rows, whose columns must all be printed."""
    command = [sys.executable, HERE / "benchmarks" / program, "--quick", "--repeats", "1"]
    done = subprocess.run(
        command + [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
        cwd=HERE,
        env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(pathlib.Path(arguments[-1]).read_text())["rows"]
    for row in rows:
        for name in row:
            assert f" {name.replace('_', ' ')} |" in done.stdout
    return rows


def test_ways_take_turns_and_the_first_round_does_not_count():
    order = []
    seconds = timing.in_turn(
        {"ours": lambda: order.append(1), "theirs": lambda: order.append(2)}, 3
    )
    assert order == [1, 2] * 4
    assert [len(values) for values in seconds.values()] == [3, 3]


def test_a_ratio_is_of_the_pairs_that_ran_together():
    # a slow round slows both: the ratios of the pairs are 2, 2 and 4
    assert timing.ratio([2.0, 20.0, 4.0], [1.0, 10.0, 1.0]) == (2.0, 2.0, 4.0)
    assert str(timing.spread([1350.4, 2.0, 0.12345])) == "2 (0.123 to 1350)"


def test_xla_is_asked_for_the_right_costs():
    a, b = jnp.zeros((64, 128)), jnp.zeros((128, 32))
    program = compiled(jax.jit(jnp.matmul), a, b)
    assert program.operations == 2 * 64 * 128 * 32
    assert program.bytes_moved == 4 * (64 * 128 + 128 * 32 + 64 * 32)
    assert program.peak_bytes >= program.bytes_moved
    assert program.run(a, b).shape == (64, 32)


def test_the_published_networks_operations():
    # XLA leaves out what padding multiplies by zero, and counts the resizing
    network = workload.new_network(1, "float32", quick=False)
    images = jax.ShapeDtypeStruct((1, *network.crop_hw, 3), jnp.float32)
    lowered = jax.jit(network.model.apply).lower(network.variables, images)
    assert lowered.cost_analysis()["flops"] / 2e9 == pytest.approx(4.87, rel=0.03)


def test_pytorchs_network_is_ours():
    """All heatmaps of two stages, the loss and the gradients of a step."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)  # several wait for each other on a busy machine
    from benchmarks.step import new_step
    from benchmarks.torch_ways import Torch

    network = workload.new_network(2, "float32", quick=True)
    theirs = Torch(network, ["plain"])
    batch = workload.random_batch(3, network.crop_hw)
    mspn = theirs.new_mspn("plain").eval()
    with torch.inference_mode():
        maps = mspn(mspn.normalised(batch.crops, torch.contiguous_format))
    images = normalise(jnp.asarray(batch.crops))
    ours = np.asarray(jax.jit(network.model.apply)(network.variables, images))
    for mine, expected in zip(ours.reshape(-1, *ours.shape[2:]), maps, strict=True):
        expected = expected.numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(mine, expected, atol=1e-4 * np.abs(expected).max())

    way = theirs.training_step("plain", batch, "float32")
    _, step = new_step(network, batch)
    for _ in range(2):  # the second shows what Adam made of the first
        metrics = step()
        assert float(way()) == pytest.approx(float(metrics["loss"]), rel=1e-4)
        assert way.gradient_norm() == pytest.approx(float(metrics["gradient_norm"]), rel=1e-3)


def test_another_network_differs():
    pytest.importorskip("torch").set_num_threads(1)
    from benchmarks.torch_ways import Torch

    network = workload.new_network(1, "float32", quick=True)
    theirs = Torch(network, ["plain"])
    assert theirs.difference() < TOLERANCE / 10
    params = network.variables["params"]
    head = params["stage0_head0_out"]
    head = head | {"bias": head["bias"] + np.abs(head["bias"]).max()}
    other = network.variables | {"params": params | {"stage0_head0_out": head}}
    theirs.new_mspn = Torch(network._replace(variables=other), ["plain"]).new_mspn
    assert theirs.difference() > 10 * TOLERANCE


@pytest.mark.slow
def test_parts(tmp_path):
    rows = run("parts.py", "--of", "step", "--torch", "--json", tmp_path / "rows.json")
    both = {"convolutions: 3x3, stem", "products: 1x1 convolutions, resizing", "Adam"}
    for whose, norm in (("ours", "sums of batch norm"), ("PyTorch", "batch norm")):
        if whose == "ours" or HAS_TORCH:
            *parts, whole = [row for row in rows if row["whose"] == whose]
            assert both | {norm, f"{norm}, backward"} <= {row["part"] for row in parts}
            total = sum(row["milliseconds"]["median"] for row in parts)
            assert 0 < total < 2 * whole["whole_milliseconds"]["median"] * os.cpu_count()


@pytest.mark.slow
def test_step(tmp_path):
    torch = ["plain"] if HAS_TORCH else []
    (row,) = run("step.py", "--batch", 2, "--torch", *torch, "--json", tmp_path / "rows.json")
    assert row["crops_per_s"]["median"] > 0 and 0 < row["share_of_peak"]["median"] < 1
    assert (row["ours_over_torch"] is not None) == HAS_TORCH


@pytest.mark.slow
def test_forward(tmp_path):
    rows = run("forward.py", "--batch", 1, "--torch", "--json", tmp_path / "rows.json")
    assert [row["flip_test"] for row in rows] == ["no", "yes"]
    alone, flipped = (row["GFLOP_per_crop"] for row in rows)
    assert flipped == pytest.approx(2 * alone, rel=0.02)


@pytest.mark.slow
def test_evaluate(tmp_path):
    (row,) = run("evaluate.py", "--batch", 8, "--json", tmp_path / "rows.json")
    speeds = {name: row[f"{name}_boxes_per_s"]["median"] for name in ("whole", "network", "host")}
    assert min(speeds.values()) > 0
    for name in ("whole", "host"):
        ratio = row[f"{name}_over_network_time"]["median"]
        assert ratio == pytest.approx(speeds["network"] / speeds[name])


@pytest.mark.slow
@pytest.mark.parametrize("detections", [False, True], ids=["training", "evaluation"])
def test_input(tmp_path, detections):
    options = []
    if detections:
        coco_files.write(tmp_path, {"val2017": 4}, people.PEOPLE)
        boxes = [
            {key: a[key] for key in ("image_id", "category_id", "bbox")} | {"score": 1.0}
            for a in coco.load_json(coco.annotation_file(tmp_path, "val2017"))["annotations"]
        ]
        (tmp_path / "boxes").write_text(json.dumps(boxes))
        options = ["--root", tmp_path, "--split", "val2017", "--detections", tmp_path / "boxes"]
    (row,) = run("input.py", *options, "--json", tmp_path / "rows.json")
    assert row["ours_crops_per_s"]["median"] > row["plain_crops_per_s"]["median"] / 2 > 0
    assert row["of"] == ("evaluation" if detections else "training")


@pytest.mark.slow
def test_serve(tmp_path):
    pytest.importorskip("aiohttp", reason="pip install -e '.[serve]'")
    detector_files.dynamic(tmp_path / "quarter.onnx")
    picture = tmp_path / "picture.png"
    cv2.imwrite(str(picture), np.full((90, 120, 3), 100, np.uint8))
    given = (picture, "--detector", tmp_path / "quarter.onnx", "--requests", 40, "--clients", 1, 30)
    rows = run("serve.py", *given, "--json", tmp_path / "rows.json")
    assert [row["clients"] for row in rows] == [1, 30]
    assert rows[0]["turned_away"] == 0 <= rows[1]["turned_away"]  # one is worked on, 16 wait
    assert all(row["95_percent_ms"] >= row["median_ms"] > 0 for row in rows)
    paces = [row["requests_a_second"] for row in rows]
    assert [row["over_the_first"] for row in rows] == [1, pytest.approx(paces[1] / paces[0])]


@pytest.mark.slow
def test_predict(tmp_path):
    rows = run("predict.py", "--people", 1, 3, "--beside", "--json", tmp_path / "rows.json")
    for count in (1, 3):
        of = {row["way"]: row for row in rows if row["people"] == count}
        assert of.keys() >= {"Predictor", "one call a person", "JAX", "file", "file, spinning"}
        assert of["Predictor"]["backend"] == "onnxruntime" and of["JAX"]["backend"] == "jax"
        pace = of["Predictor"]["people_per_s"]["median"]
        for row in of.values():
            assert row["pixels_apart"] < 1e-3
            ratio = row["time_over_ours"]["median"]
            assert ratio == pytest.approx(pace / row["people_per_s"]["median"])


def test_the_plain_flax_network_is_equal_in_size():
    ours, plain = (
        jax.eval_shape(
            lambda x, kind=kind: kind(2).init(jax.random.key(0), x, method="units"), IMAGE
        )
        for kind in (MSPN, PlainMSPN)
    )
    assert count_parameters(plain["params"]) == count_parameters(ours["params"])
    shapes = [
        jax.eval_shape(
            lambda v, x, kind=kind: kind(2).apply(v, x, method="units"), variables, IMAGE
        )
        for kind, variables in ((MSPN, ours), (PlainMSPN, plain))
    ]
    assert shapes[0] == shapes[1]


def test_the_floor_is_what_convolutions_read_and_write():
    def reads_and_writes(num_stages):
        model = MSPN(num_stages, stem_channels=8, unit_channels=8, blocks_per_unit=(1, 1, 1, 1))
        weights = count_parameters(
            jax.eval_shape(lambda x: model.init(jax.random.key(0), x), IMAGE)["params"]
        )
        return bytes_benchmark.floor_bytes(model, "gradients", 1), weights

    (one, _), (two, _) = reads_and_writes(1), reads_and_writes(2)
    assert 1.7 * one < two < 2.3 * one
    # The stem alone: 256 x 192 x 3 in, 128 x 96 x 8 out, three products, two bytes each.
    assert one > 3 * 2 * (256 * 192 * 3 + 128 * 96 * 8)


@pytest.mark.parametrize(
    "name, target, opcodes, part",
    [
        ("jvp(MSPN.units)/stem/conv", "__cudnn$convForward", {"custom-call"}, "convolutions"),
        ("jvp(MSPN.units)/stem/conv", "", {"convolution", "add"}, "convolutions"),
        ("MSPN.units/jit(max_pool)/cond/branch_0_fun/max", "", {"maximum", "select"}, "pooling"),
        ("MSPN.units/stage0/unit1_up/jit(upsample)/add", "", {"add"}, "upsampling"),
        ("MSPN.units/stem/jit(batch_norm)/sum", "", {"reduce", "add"}, "sums over the batch"),
        ("MSPN.units/stage0/jit(relu)/max", "", {"maximum"}, "norm, ReLU, adding"),
        ("jvp()/sub", "", {"subtract"}, "losses, optimiser, weights"),
    ],
)
def test_kernels_have_their_part(name, target, opcodes, part):
    kernel = Kernel(1, frozenset(opcodes), target, name)
    assert next(p for p, holds in bytes_benchmark.PARTS.items() if holds(kernel)) == part
