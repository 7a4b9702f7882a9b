"""PyTorch names <-> the Flax tree, and convert.py.

That mmpose 1.x names give the reference's heatmaps is test_model's; here are the other names, the
way back, and what is refused.
"""

import hashlib
import json
import pathlib
import re
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
from test_torch_checkpoint import dict_code, storage_code, tensor_code, write_zip

from conftest import golden_json, golden_npz
from golden import recipe
from mspn_jax import checkpoints, convert, torch_checkpoint
from mspn_jax.data.animals import QUADRUPED
from mspn_jax.model import MSPN, initial_variables
from mspn_jax.skeletons import COCO
from mspn_jax.torch_names import Architecture, ConversionError, Kind, architecture_of, kind_of

HERE = pathlib.Path(__file__).parents[1]
SEED = golden_json("meta.json")["seed"]
TINY = Architecture(2, 5, blocks_per_unit=(2, 1, 1, 1), stem_channels=3, unit_channels=4)


def golden_entries(num_stages: int, names: str) -> list[tuple[str, list[int]]]:
    return golden_json(f"state_dict_{num_stages}stage.json")[names]


def tiny_variables(architecture: Architecture = TINY, seed: int = 0) -> convert.Variables:
    """Every leaf its own random numbers."""
    rng = np.random.default_rng(seed)
    shapes = initial_variables(architecture.new_model(), 0, (32, 32))
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes)


def tiny_state_dict(kind: Kind, architecture: Architecture = TINY) -> dict[str, np.ndarray]:
    """Of any kind, with counts, and with biases for the authors' convolutions."""
    variables = tiny_variables(architecture)
    bricks = list(architecture.bricks())
    state_dict = convert.to_torch(variables)
    for i, brick in enumerate(bricks):
        names, new_names = brick.mmpose, brick.names(kind)
        state_dict[f"{names.norm}.num_batches_tracked"] = np.array(100 + i)
        for module in ("conv", "norm"):
            prefix = getattr(names, module) + "."
            for name in [name for name in state_dict if name.startswith(prefix)]:
                new_name = f"{getattr(new_names, module)}.{name.removeprefix(prefix)}"
                state_dict[new_name] = state_dict.pop(name)
        if kind == "authors":
            mean = state_dict[f"{new_names.norm}.running_mean"]
            state_dict[f"{new_names.conv}.bias"] = np.linspace(-1, 1, mean.size, dtype=np.float32)
    return state_dict


def resnet_state_dict(blocks=(2, 1, 1, 1), stem_channels=3) -> dict[str, np.ndarray]:
    """torchvision's names, spelled out."""
    rng = np.random.default_rng(1)
    state_dict = {}

    def add(conv: str, norm: str, *shape: int) -> None:
        state_dict[f"{conv}.weight"] = rng.standard_normal(shape, np.float32)
        for name in ("weight", "bias", "running_mean", "running_var"):
            state_dict[f"{norm}.{name}"] = rng.standard_normal(shape[:1], np.float32)
        state_dict[f"{norm}.num_batches_tracked"] = np.array(7)

    add("conv1", "bn1", stem_channels, 3, 7, 7)
    channels = stem_channels
    for layer, num_blocks in enumerate(blocks):
        width = stem_channels * 2**layer
        for b in range(num_blocks):
            block = f"layer{layer + 1}.{b}"
            add(f"{block}.conv1", f"{block}.bn1", width, channels, 1, 1)
            add(f"{block}.conv2", f"{block}.bn2", width, width, 3, 3)
            add(f"{block}.conv3", f"{block}.bn3", 4 * width, width, 1, 1)
            if b == 0:
                add(f"{block}.downsample.0", f"{block}.downsample.1", 4 * width, channels, 1, 1)
            channels = 4 * width
    state_dict["fc.weight"] = rng.standard_normal((10, channels), np.float32)
    state_dict["fc.bias"] = rng.standard_normal(10, np.float32)
    return state_dict


def assert_same(tree, expected) -> None:
    """To the bit."""
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    for (path, leaf), other in zip(
        jax.tree.leaves_with_path(tree), jax.tree.leaves(expected), strict=True
    ):
        assert leaf.dtype == other.dtype and leaf.shape == other.shape, path
        assert np.array_equal(leaf, other), path


# --- forth ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "num_stages", [1, 2, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 4))]
)
def test_the_authors_network_gives_their_heatmaps(num_stages):
    """Its convolutions have biases."""
    state_dict = recipe.make_state_dict(golden_entries(num_stages, "megvii"), SEED)
    assert "top.conv.conv.bias" in state_dict
    golden = golden_npz("forward_megvii.npz")
    images = recipe.random_images("forward.input", (2, 3, 256, 192), SEED).transpose(0, 2, 3, 1)
    heatmaps = jax.jit(MSPN(num_stages).apply)(convert.from_torch(state_dict), images)
    ours = np.asarray(heatmaps).transpose(0, 1, 2, 5, 3, 4).reshape(-1, 2, 17, 64, 48)
    for head, (mine, reference) in enumerate(
        zip(ours, golden[f"{num_stages}stage_heatmaps_strided4"], strict=True)
    ):
        assert np.abs(mine[..., ::4, ::4] - reference).max() < 1e-4 * np.abs(reference).max(), head
    sums = golden[f"{num_stages}stage_heatmaps_sum"]
    np.testing.assert_allclose(ours.sum((3, 4), dtype=np.float64), sums, atol=0.3)


def test_the_older_names_are_the_newer_ones_but_for_the_head():
    state_dict = recipe.make_state_dict(golden_entries(1, "mmpose1x"), SEED)
    older = {
        f"keypoint_{name}" if name.startswith("head.") else name: array
        for name, array in state_dict.items()
    }
    assert kind_of(older) == "mmpose 0.x" and kind_of(state_dict) == "mmpose 1.x"
    assert architecture_of(older) == architecture_of(state_dict) == Architecture(1)
    assert_same(convert.from_torch(older), convert.from_torch(state_dict))


@pytest.mark.parametrize("kind", ["mmpose 1.x", "mmpose 0.x", "authors"])
def test_sizes_are_found_from_every_kind(kind):
    state_dict = tiny_state_dict(kind)
    assert kind_of(state_dict) == kind
    assert architecture_of(state_dict) == TINY
    assert convert.architecture_of_variables(convert.from_torch(state_dict)) == TINY
    assert list(convert.batches_tracked(state_dict).values()) == list(range(100, 178))


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_other_precisions_become_float32(dtype):
    state_dict = {name: array.astype(dtype) for name, array in tiny_state_dict("authors").items()
                  if not name.endswith("tracked")}  # fmt: skip
    expected = {name: array.astype(np.float32) for name, array in state_dict.items()}
    assert_same(convert.from_torch(state_dict), convert.from_torch(expected))


# --- and back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_stages", [1, 2, 3, 4])
def test_back_come_the_reference_s_names_in_its_order(num_stages):
    entries = golden_entries(num_stages, "mmpose1x")
    counted = [name for name, *_ in entries if name.endswith(".num_batches_tracked")]
    state_dict = {
        name: np.broadcast_to(np.array(1, np.int64 if name in counted else np.float32), shape)
        for name, shape, *_ in entries
    }
    back = convert.to_torch(convert.from_torch(state_dict))
    assert [*back] == [name for name, *_ in entries if name not in counted]
    assert [list(array.shape) for array in back.values()] == [
        shape for name, shape, *_ in entries if name not in counted
    ]
    assert [*convert.batches_tracked(state_dict)] == counted


def test_there_and_back_is_exact_to_the_bit():
    state_dict = tiny_state_dict("mmpose 1.x")
    back = convert.to_torch(convert.from_torch(state_dict))
    assert all(array.flags.c_contiguous for array in back.values())
    back |= {name: np.array(n) for name, n in convert.batches_tracked(state_dict).items()}
    assert_same(back, state_dict)
    assert_same(convert.from_torch(back), tiny_variables())


def test_leaves_that_torch_has_no_name_for_are_listed():
    variables = tiny_variables()
    del variables["batch_stats"]["stage1"]["unit2_up"]["mean"]
    variables["params"]["stem"]["gain"] = np.zeros(3, np.float32)
    with pytest.raises(ConversionError) as caught:
        convert.to_torch(variables)
    assert str(caught.value) == (
        "not the variables of an MSPN: 1 missing: batch_stats/stage1/unit2_up/mean;"
        " 1 left over: params/stem/gain"
    )
    with pytest.raises(ConversionError, match="not the variables of an MSPN: no 'params'"):
        convert.to_torch({"stem": 1})


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mmpose 1.x", "mmpose 0.x", "authors"])
def test_what_does_not_fit_is_named(kind):
    state_dict = tiny_state_dict(kind)
    brick = next(b for b in TINY.bricks() if b.path == ("stage1", "unit0_lateral"))
    names = brick.names(kind)
    del state_dict[f"{names.norm}.running_var"]
    state_dict[f"{names.norm}.bias"] = np.zeros(5, np.float32)
    state_dict[f"{names.norm}.weight"][2] = np.nan
    state_dict[f"{names.norm}.running_mean"] = np.zeros(4, np.int64)
    state_dict["a.num_batches_tracked"] = np.array(0)
    with pytest.raises(ConversionError) as caught:
        convert.from_torch(state_dict)
    assert str(caught.value) == (
        f"an MSPN ({kind} names), but not wholly the one needed: "
        f"1 not finite: {names.norm}.weight; "
        f"1 misshapen: {names.norm}.bias is (5,) where (4,) belongs; "
        f"1 not floating-point: {names.norm}.running_mean; "
        f"1 missing: {names.norm}.running_var; 1 left over: a.num_batches_tracked"
    )


@pytest.mark.parametrize("kind", ["mmpose 1.x", "authors"])
def test_a_tensor_that_is_missing_is_noticed_wherever_it_is(kind):
    state_dict = tiny_state_dict(kind)
    for missing in [name for name in state_dict if not name.endswith("tracked")][1::5]:
        rest = {name: array for name, array in state_dict.items() if name != missing}
        with pytest.raises(ConversionError, match=re.escape(missing)):
            convert.from_torch(rest)


@pytest.mark.parametrize(
    ("drop", "reason"),
    [
        ("backbone.top.", "not an MSPN: no stem among its"),
        ("backbone.multi_stage_mspn.", r"without an encoder: 0 stages of \(0, 0, 0, 0\) blocks"),
        ("backbone.multi_stage_mspn.0.downsample.layer3.", "missing: .*layer3"),
        ("head.", r"without the convolution head.predict_layers.7.conv_layers.0.conv.weight"),
    ],
)
def test_whole_parts_that_are_missing(drop, reason):
    state_dict = tiny_state_dict("mmpose 1.x")
    rest = {name: array for name, array in state_dict.items() if not name.startswith(drop)}
    with pytest.raises(ConversionError, match=reason):
        convert.from_torch(rest)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (
            ["backbone.conv1.weight", "neck.fpn_convs.0.conv.weight", "rpn_head.rpn_cls.weight"],
            r"not an MSPN: no stem among its 3 tensors \(backbone.conv1.weight, neck",
        ),
        (["conv1.weight", "layer1.0.conv1.weight", "layer1.0.conv2.weight"], "not an MSPN"),
        (["conv1.weight", "layer1.0.conv3.weight"], "a ResNet, .* can only start a training"),
    ],
    ids=["detector", "ResNet-18", "ResNet-50"],
)
def test_other_networks_are_refused(names, reason):
    with pytest.raises(ConversionError, match=reason):
        convert.from_torch({name: np.zeros((1, 1, 1, 1), np.float32) for name in names})


def test_a_stem_that_is_no_kernel_is_refused():
    state_dict = tiny_state_dict("mmpose 1.x")
    for wrong in (np.zeros(()), np.zeros((0, 3, 7, 7))):
        state_dict["backbone.top.top.0.conv.weight"] = wrong
        with pytest.raises(ConversionError, match="without the convolution backbone"):
            convert.from_torch(state_dict)


# --- the start of a training ----------------------------------------------------------------------


def test_a_resnet_goes_into_the_stem_and_every_encoder():
    initial, resnet = tiny_variables(), resnet_state_dict()
    started, said = convert.start_from_resnet(resnet, initial)
    assert said == (
        "a ResNet in the stem and the encoder of each of 2 stages; decoders and heads are new, and"
        " the ResNet's fc is not used"
    )
    params, stats = started["params"], started["batch_stats"]
    kernel = resnet["conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(params["stem"]["kernel"], kernel)
    for stage in ("stage0", "stage1"):
        for ours, conv, norm in (
            (("layer1_block1", "conv2"), "layer1.1.conv2", "layer1.1.bn2"),
            (("layer3_block0", "shortcut"), "layer3.0.downsample.0", "layer3.0.downsample.1"),
        ):
            leaves = params[stage][ours[0]][ours[1]] | stats[stage][ours[0]][ours[1]]
            kernel = resnet[f"{conv}.weight"].transpose(2, 3, 1, 0)
            np.testing.assert_array_equal(leaves["kernel"], kernel)
            for leaf, name in (("scale", "weight"), ("bias", "bias"),
                               ("mean", "running_mean"), ("var", "running_var")):  # fmt: skip
                np.testing.assert_array_equal(leaves[leaf], resnet[f"{norm}.{name}"])
    new = {
        path for path, leaf in jax.tree.leaves_with_path(started)
        if any(leaf is other for other in jax.tree.leaves(initial))
    }  # fmt: skip
    names = {jax.tree_util.keystr(path, simple=True, separator="/") for path in new}
    assert all("unit" in name or "head" in name or "next_stage" in name for name in names)
    assert len(new) + 5 * (1 + 2 * (3 * 5 + 4)) == len(jax.tree.leaves(initial))


def test_a_resnet_that_does_not_fit_is_refused():
    with pytest.raises(ConversionError, match=r"5 left over: deconv\.0\.weight, layer1\.2"):
        resnet = {"deconv.0.weight": np.zeros(1)} | resnet_state_dict()
        more = {name.replace("1.1", "1.2"): resnet[name] for name in resnet if "1.1.conv" in name}
        more["layer1.2.bn1.weight"] = resnet["bn1.weight"]
        convert.start_from_resnet(resnet | more, tiny_variables())


def test_new_heads_keep_all_that_does_not_depend_on_the_keypoints():
    loaded = tiny_variables()
    initial = tiny_variables(Architecture(2, 7, (2, 1, 1, 1), 3, 4), seed=1)
    started, said = convert.start_from(loaded, initial)
    assert "the last convolution of each head is new, for 7 keypoints" in said
    for collection in ("params", "batch_stats"):
        for name, subtree in started[collection].items():
            source = initial if name.endswith("_out") else loaded
            assert_same(subtree, source[collection][name])
    same = tiny_variables(seed=1)
    assert_same(convert.start_from(loaded, same)[0], loaded)
    fresh, _ = convert.start_from(loaded, same, new_heads=True)
    assert_same(fresh["params"]["stage1_head3_out"], same["params"]["stage1_head3_out"])


def test_a_start_from_another_network_is_refused():
    other = tiny_variables(Architecture(1, 5, (2, 1, 1, 1), 3, 4))
    with pytest.raises(ConversionError, match=r"MSPN of 1 stage .* where one of 2 stages"):
        convert.start_from(other, tiny_variables())


def test_a_start_is_read_from_a_file_or_a_checkpoint(tmp_path):
    state_dict, initial = tiny_state_dict("mmpose 0.x"), tiny_variables(seed=1)
    file = write_pth(tmp_path / "a.pth", state_dict)
    started, said = convert.initial_from(file, initial)
    assert said == f"an MSPN of {TINY}"
    assert_same(started, tiny_variables())

    torch_checkpoint.write_safetensors(tmp_path / "r.safetensors", resnet_state_dict(), {})
    started, said = convert.initial_from(tmp_path / "r.safetensors", initial)
    assert said.startswith("a ResNet in the stem")

    description = checkpoints.Description("tiny", dict(TINY.__dict__))
    checkpoints.save_variables(tmp_path / "checkpoint", description, tiny_variables())
    assert_same(convert.initial_from(tmp_path / "checkpoint", initial)[0], tiny_variables())

    del state_dict["keypoint_head.predict_layers.0.conv_layers.0.bn.bias"]
    write_pth(file, state_dict)
    with pytest.raises(ConversionError, match=r"a\.pth: an MSPN .* 1 missing: keypoint_head"):
        convert.initial_from(file, initial)


# --- convert.py -----------------------------------------------------------------------------------


def write_pth(path: pathlib.Path, state_dict: dict[str, np.ndarray]) -> pathlib.Path:
    """As torch writes it, which is not needed."""
    program, storages = {}, {}
    for key, (name, array) in enumerate(state_dict.items()):
        kind = "Long" if array.dtype == np.int64 else "Float"
        stride = tuple(step // array.itemsize for step in array.strides)
        storage = storage_code(array.size, str(key), kind)
        program[name] = tensor_code(array.shape, stride, storage=storage)
        storages[str(key)] = array.tobytes()
    return write_zip(path, dict_code(state_dict=dict_code(**program)), storages)


def run(*arguments: object, file_blocks: int | None = None) -> subprocess.CompletedProcess:
    """convert.py, where torch cannot be imported, and files not become longer than so much."""
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
    """A file of mmpose 1.x, what convert.py made of it, and what it said."""
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


def test_there_and_back_by_command_is_exact_to_the_bit(converted, tmp_path):
    source, output, _ = converted
    result = run("--source", output, "--output", tmp_path / "back", "--to", "torch")
    assert result.returncode == 0, result.stderr
    assert "PyTorch is not installed: no .pth is written" in result.stdout
    names = sorted(path.name for path in (tmp_path / "back").iterdir())
    assert names == ["2xmspn_5keypoints_64x96.safetensors", "model.json", "source.json"]
    back = tmp_path / "back" / "2xmspn_5keypoints_64x96.safetensors"
    assert_same(torch_checkpoint.read(back), torch_checkpoint.read(source))

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


def test_torch_writes_and_reads_the_same(converted, tmp_path):
    torch = pytest.importorskip("torch")
    source, output, _ = converted
    arguments = ["--source", output, "--output", tmp_path / "back", "--to", "torch"]
    subprocess.run([sys.executable, "convert.py", *arguments], cwd=HERE, check=True)
    state_dict = torch.load(*(tmp_path / "back").glob("*.pth"))["state_dict"]
    arrays = {name: tensor.numpy() for name, tensor in state_dict.items()}
    assert_same(arrays, torch_checkpoint.read(source))


def test_a_resnet_starts_a_network(tmp_path):
    resnet = resnet_state_dict((3, 4, 6, 3), stem_channels=64)
    torch_checkpoint.write_safetensors(tmp_path / "resnet50.safetensors", resnet, {})
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
        (["--source", "TINY", "--crop_hw", "250,192"], "--crop_hw 250,192: two multiples of 32"),
        (
            ["--source", "TINY", "--skeleton", "coco"],
            "has 17 keypoints, the heads 5; --keypoints 17",
        ),
        (["--source", "TINY", "--stages", "3"], "--stages 3: the source has 2"),
        (["--source", "TINY", "--keypoints", "-1"], "must be positive"),
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
