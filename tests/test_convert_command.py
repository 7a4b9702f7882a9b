"""convert.py: both directions, and its errors."""

import dataclasses
import hashlib
import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from networks import TINY, assert_same, resnet_state_dict, tiny_state_dict, tiny_variables
from torch_files import write_pth

from mspn_jax.skeletons import COCO, MPII
from mspn_jax.synthetic.animals import QUADRUPED
from mspn_jax.weights import checkpoints
from mspn_jax.weights.torch import state_dicts

HERE = pathlib.Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def run(*arguments: object, file_blocks: int | None = None) -> subprocess.CompletedProcess:
    """Runs convert.py without torch; files cannot grow beyond `file_blocks`."""
    program = (
        "import sys, runpy; sys.modules['torch'] = None; sys.argv[0] = 'convert.py';"
        " runpy.run_path('convert.py', run_name='__main__')"
    )
    command = [sys.executable, "-c", program, *map(str, arguments)]
    if file_blocks:
        command = ["sh", "-c", f'ulimit -f {file_blocks}; exec "$@"', "sh", *command]
    return subprocess.run(command, capture_output=True, text=True, cwd=HERE, timeout=120)


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path, str]:
    """A file of mmpose 1.x, convert.py's output for it, and what it printed."""
    folder = tmp_path_factory.mktemp("convert")
    source = write_pth(folder / "tiny.pth", tiny_state_dict("mmpose 1.x"))
    result = run("--source", source, "--output", folder / "a" / "out", "--crop_hw", "64,96")
    assert result.returncode == 0, result.stderr
    return source, folder / "a" / "out", result.stdout


def test_it_says_what_it_found(converted):
    source, output, said = converted
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert f"tiny.pth: {source.stat().st_size:,} bytes, sha256 {digest}" in said
    assert "mmpose 1.x names, 468 tensors of float32 (390), int64 (78)" in said
    assert f"an MSPN of {TINY}" in said
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(tiny_variables()["params"]))
    assert f"every tensor used once: {num_parameters:,} parameters" in said
    assert "no skeleton of 5 keypoints" in said
    assert str(output) in said


def test_its_output_is_a_checkpoint_of_all_that_was_in_the_file(converted):
    source, output, _ = converted
    description, variables, _ = checkpoints.load(output)
    assert_same(variables, tiny_variables())
    assert description.variant == "2xmspn_5keypoints_64x96" and description.crop_hw == (64, 96)
    assert description.skeleton is None
    assert description.source.startswith("tiny.pth (mmpose 1.x names, sha256 ")
    origin = json.loads((output / "source.json").read_text())
    assert origin["kind"] == "mmpose 1.x"
    assert origin["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert [*origin["batches_tracked"].values()] == [*range(100, 178)]
    assert not list(output.parent.glob(".*"))


def test_our_own_checkpoint_takes_the_skeleton_and_the_crops_of_the_flags(converted, tmp_path):
    """A network does not depend on either."""
    _, output, _ = converted
    file = tmp_path / "five.json"
    file.write_text(json.dumps({"name": "five", "keypoint_names": list("abcde")}))
    flags = ("--skeleton", file, "--crop_hw", "96,64")
    result = run("--source", output, "--output", tmp_path / "new", *flags)
    assert result.returncode == 0, result.stderr
    description, variables, _ = checkpoints.load(tmp_path / "new")
    assert description.crop_hw == (96, 64) and description.skeleton.name == "five"
    assert_same(variables, tiny_variables())


def test_there_and_back_by_command_is_exact_to_the_bit(converted, tmp_path):
    source, output, _ = converted
    result = run("--source", output, "--output", tmp_path / "back", "--to", "torch")
    assert result.returncode == 0, result.stderr
    assert "PyTorch is not installed: no .pth is written" in result.stdout
    names = sorted(path.name for path in (tmp_path / "back").iterdir())
    assert names == ["2xmspn_5keypoints_64x96.safetensors", "model.json", "source.json"]
    back = tmp_path / "back" / "2xmspn_5keypoints_64x96.safetensors"
    assert_same(state_dicts.read(back), state_dicts.read(source))

    result = run("--source", back, "--output", tmp_path / "again", "--keypoints", "17")
    assert result.returncode == 0, result.stderr
    assert "our own, mspn_jax" in result.stdout and "tiny.pth" in result.stdout
    description, variables, _ = checkpoints.load(tmp_path / "again")
    assert (description.variant, description.skeleton) == ("2xmspn_coco_256x192", COCO)
    assert_same(variables["params"]["stem"], tiny_variables()["params"]["stem"])
    assert variables["params"]["stage1_head3_out"]["kernel"].shape == (3, 3, 4, 17)


def test_new_heads_for_a_skeleton_from_a_file(converted, tmp_path):
    source, _, _ = converted
    path = tmp_path / "quadruped.json"
    path.write_text(json.dumps(QUADRUPED.to_json()))
    result = run(
        "--source", source, "--output", tmp_path / "out", "--skeleton", path, "--keypoints", 11
    )
    assert result.returncode == 0, result.stderr
    description, variables, _ = checkpoints.load(tmp_path / "out")
    assert description.new_skeleton() == QUADRUPED
    assert description.variant == "2xmspn_quadruped_256x192"
    assert variables["params"]["stage1_head3_out"]["kernel"].shape == (3, 3, 4, 11)
    assert_same(variables["params"]["stem"], tiny_variables()["params"]["stem"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_keypoints", "flags", "variant"),
    [
        (16, [], "2xmspn_mpii_256x256"),
        (16, ["--crop_hw", "384,288"], "2xmspn_mpii_384x288"),
        (17, [], "2xmspn_coco_256x192"),
        (17, ["--crop_hw", "384,288"], "2xmspn_coco_384x288"),
    ],
)
def test_the_authors_files_by_their_keypoints(num_keypoints, flags, variant, tmp_path):
    architecture = dataclasses.replace(TINY, num_keypoints=num_keypoints)
    state_dict = tiny_state_dict("authors", architecture)
    source = write_pth(tmp_path / "iter-28800.pth", state_dict)
    result = run("--source", source, "--output", tmp_path / "out", *flags)
    assert result.returncode == 0, result.stderr
    height, width = variant.rpartition("_")[2].split("x")
    name = variant.split("_")[1]
    assert f"to be of skeleton {name}, for crops of {height} x {width} (" in result.stdout
    description, variables, _ = checkpoints.load(tmp_path / "out")
    assert description.variant == variant
    assert description.crop_hw == (int(height), int(width)) and description.padding == 1.25
    assert description.skeleton == {16: MPII, 17: COCO}[num_keypoints]
    expected = tiny_variables(architecture)["params"]
    assert_same(variables["params"], expected)
    # The authors' pictures are BGR.
    of_file = state_dict["top.conv.conv.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(expected["stem"]["kernel"], of_file[:, :, ::-1])


def test_torch_writes_and_reads_the_same(converted, tmp_path):
    torch = pytest.importorskip("torch")
    source, output, _ = converted
    arguments = ["--source", output, "--output", tmp_path / "back", "--to", "torch"]
    subprocess.run([sys.executable, "convert.py", *arguments], cwd=HERE, check=True)
    state_dict = torch.load(*(tmp_path / "back").glob("*.pth"))["state_dict"]
    arrays = {name: tensor.numpy() for name, tensor in state_dict.items()}
    assert_same(arrays, state_dicts.read(source))


def test_a_resnet_starts_a_network(tmp_path):
    resnet = resnet_state_dict((3, 4, 6, 3), stem_channels=64)
    state_dicts.write_safetensors(tmp_path / "resnet50.safetensors", resnet, {})
    result = run("--source", tmp_path / "resnet50.safetensors", "--output", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert "the ResNet's fc is not used (from seed 0)" in result.stdout
    assert "--config configs/mspn50_coco_256x192.py" in result.stdout
    description, variables, _ = checkpoints.load(tmp_path / "out")
    assert description.variant == "mspn50_coco_256x192" and "ResNet" in description.source
    kernel = resnet["layer4.2.conv3.weight"].transpose(2, 3, 1, 0)
    layer = variables["params"]["stage0"]["layer4_block2"]
    np.testing.assert_array_equal(layer["conv3"]["kernel"], kernel)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--source", "missing.pth"], "missing.pth: is not a file"),
        (["--source", "."], "no checkpoint there"),
        (
            ["--source", "TINY", "--crop_hw", "250,192"],
            "--crop_hw=(250, 192): must be two multiples of 32",
        ),
        (
            ["--source", "TINY", "--skeleton", "coco"],
            "has 17 keypoints, the heads 5; --keypoints 17",
        ),
        (["--source", "TINY", "--stages", "3"], "--stages 3: the source has 2"),
        (["--source", "TINY", "--keypoints", "-1"], "-1 is not a positive integer"),
        (["--source", "TINY", "--to", "caffe"], "caffe"),
        (["--source", "PUBLISHED"], "its sha256 begins"),
    ],
)
def test_what_cannot_be_converted_is_one_clear_line(arguments, reason, converted, tmp_path):
    published = tmp_path / "mspn50_coco_256x192-8fbfb5d0_20201123.pth"
    published.write_bytes(converted[0].read_bytes())
    places = {"TINY": converted[0], "PUBLISHED": published}
    output = tmp_path / "out"
    result = run(*(places.get(argument, argument) for argument in arguments), "--output", output)
    assert result.returncode == 1
    assert reason in result.stderr and len(result.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == [published.name]


def test_what_cannot_be_written_leaves_nothing_behind(converted, tmp_path):
    source, output, _ = converted
    for result, reason in (
        (run("--source", source, "--output", tmp_path / "a", file_blocks=8), "File too large"),
        (run("--source", source, "--output", source / "a"), "Not a directory"),
        (run("--source", source, "--output", output), "exists; give another --output"),
    ):
        assert result.returncode == 1
        assert reason in result.stderr and len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
    assert_same(checkpoints.load(output)[1], tiny_variables())
