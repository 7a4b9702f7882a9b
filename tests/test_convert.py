"""PyTorch names <-> the Flax tree.

test_model compares the heatmaps of mmpose 1.x names with the reference's. Here are the other names,
the way back, and what is refused.
"""

import re

import jax
import ml_dtypes
import numpy as np
import pytest
from networks import (
    TINY,
    assert_same,
    golden_entries,
    resnet_state_dict,
    tiny_state_dict,
    tiny_variables,
)
from torch_files import write_pth

from conftest import golden_json, golden_npz
from golden import recipe
from mspn_jax.errors import ConversionError
from mspn_jax.model import MSPN
from mspn_jax.weights import checkpoints, conversion, start
from mspn_jax.weights.description import Description
from mspn_jax.weights.torch import state_dicts
from mspn_jax.weights.torch.names import Architecture, architecture_of, kind_of

SEED = golden_json("meta.json")["seed"]


# --- forth ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "num_stages", [1, 2, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 4))]
)
def test_the_authors_network_gives_their_heatmaps(num_stages):
    """The authors' convolutions have biases, and the first one takes BGR."""
    state_dict = recipe.make_state_dict(golden_entries(num_stages, "megvii"), SEED)
    assert "top.conv.conv.bias" in state_dict
    golden = golden_npz("forward_megvii.npz")
    images = recipe.random_images("forward.input", (2, 3, 256, 192), SEED).transpose(0, 2, 3, 1)
    images_rgb = images[..., ::-1]
    heatmaps = jax.jit(MSPN(num_stages).apply)(conversion.from_torch(state_dict), images_rgb)
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
    assert_same(conversion.from_torch(older), conversion.from_torch(state_dict))


@pytest.mark.parametrize("kind", ["mmpose 1.x", "mmpose 0.x", "authors"])
def test_sizes_are_found_from_every_kind(kind):
    state_dict = tiny_state_dict(kind)
    assert kind_of(state_dict) == kind
    assert architecture_of(state_dict) == TINY
    assert conversion.architecture_of_variables(conversion.from_torch(state_dict)) == TINY
    assert list(conversion.batches_tracked(state_dict).values()) == list(range(100, 178))


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_other_precisions_become_float32(dtype):
    state_dict = {
        name: array.astype(dtype)
        for name, array in tiny_state_dict("authors").items()
        if not name.endswith("tracked")
    }
    expected = {name: array.astype(np.float32) for name, array in state_dict.items()}
    assert_same(conversion.from_torch(state_dict), conversion.from_torch(expected))


# --- and back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_stages", [1, 2, 3, 4])
def test_back_come_the_reference_s_names_in_its_order(num_stages):
    entries = golden_entries(num_stages, "mmpose1x")
    counted = [name for name, *_ in entries if name.endswith(".num_batches_tracked")]
    state_dict = {
        name: np.broadcast_to(np.array(1, np.int64 if name in counted else np.float32), shape)
        for name, shape, *_ in entries
    }
    variables, counts = conversion.from_torch(state_dict), conversion.batches_tracked(state_dict)
    assert [*counts] == counted
    back = conversion.to_torch(variables, counts)
    assert [(name, list(array.shape)) for name, array in back.items()] == [
        (name, shape) for name, shape, *_ in entries
    ]
    assert [*conversion.to_torch(variables)] == [name for name in back if name not in counted]


def test_there_and_back_is_exact_to_the_bit():
    state_dict = tiny_state_dict("mmpose 1.x")
    counts = conversion.batches_tracked(state_dict)
    back = conversion.to_torch(conversion.from_torch(state_dict), counts)
    assert all(array.flags.c_contiguous for array in back.values())
    assert_same(back, state_dict)
    assert_same(conversion.from_torch(back), tiny_variables())


def test_leaves_that_torch_has_no_name_for_are_listed():
    variables = tiny_variables()
    del variables["batch_stats"]["stage1"]["unit2_up"]["mean"]
    variables["params"]["stem"]["gain"] = np.zeros(3, np.float32)
    with pytest.raises(ConversionError) as caught:
        conversion.to_torch(variables)
    assert str(caught.value) == (
        "not the variables of an MSPN: 1 missing: batch_stats/stage1/unit2_up/mean;"
        " 1 left over: params/stem/gain"
    )
    with pytest.raises(ConversionError, match="not the variables of an MSPN: no 'params'"):
        conversion.to_torch({"stem": 1})


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
        conversion.from_torch(state_dict)
    assert str(caught.value) == (
        f"an MSPN ({kind} names), but not exactly the one needed: "
        f"1 not finite: {names.norm}.weight; "
        f"1 misshapen: {names.norm}.bias is (5,), expected (4,); "
        f"1 not floating-point: {names.norm}.running_mean; "
        f"1 missing: {names.norm}.running_var; 1 left over: a.num_batches_tracked"
    )


@pytest.mark.parametrize("kind", ["mmpose 1.x", "authors"])
def test_a_tensor_that_is_missing_is_noticed_wherever_it_is(kind):
    state_dict = tiny_state_dict(kind)
    for missing in [name for name in state_dict if not name.endswith("tracked")][1::5]:
        rest = {name: array for name, array in state_dict.items() if name != missing}
        with pytest.raises(ConversionError, match=re.escape(missing)):
            conversion.from_torch(rest)


@pytest.mark.parametrize(
    ("drop", "reason"),
    [
        ("backbone.top.", "not an MSPN: its .* include no stem"),
        ("backbone.multi_stage_mspn.", r"without an encoder: 0 stages of \(0, 0, 0, 0\) blocks"),
        ("backbone.multi_stage_mspn.0.downsample.layer3.", "missing: .*layer3"),
        ("head.", r"without the convolution head.predict_layers.7.conv_layers.0.conv.weight"),
    ],
)
def test_whole_parts_that_are_missing(drop, reason):
    state_dict = tiny_state_dict("mmpose 1.x")
    rest = {name: array for name, array in state_dict.items() if not name.startswith(drop)}
    with pytest.raises(ConversionError, match=reason):
        conversion.from_torch(rest)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (
            ["backbone.conv1.weight", "neck.fpn_convs.0.conv.weight", "rpn_head.rpn_cls.weight"],
            r"not an MSPN: its 3 tensors \(backbone.conv1.weight, neck",
        ),
        (["conv1.weight", "layer1.0.conv1.weight", "layer1.0.conv2.weight"], "not an MSPN"),
        (["conv1.weight", "layer1.0.conv3.weight"], "a ResNet: .* can only initialise a training"),
    ],
    ids=["detector", "ResNet-18", "ResNet-50"],
)
def test_other_networks_are_refused(names, reason):
    with pytest.raises(ConversionError, match=reason):
        conversion.from_torch({name: np.zeros((1, 1, 1, 1), np.float32) for name in names})


def test_a_stem_that_is_no_kernel_is_refused():
    state_dict = tiny_state_dict("mmpose 1.x")
    for wrong in (np.zeros(()), np.zeros((0, 3, 7, 7))):
        state_dict["backbone.top.top.0.conv.weight"] = wrong
        with pytest.raises(ConversionError, match="without the convolution backbone"):
            conversion.from_torch(state_dict)


# --- the start of a training ----------------------------------------------------------------------


def test_a_resnet_goes_into_the_stem_and_every_encoder():
    initial, resnet = tiny_variables(), resnet_state_dict()
    started, said = start.start_from_resnet(resnet, initial)
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
            torch_names = {"scale": "weight", "mean": "running_mean", "var": "running_var"}
            for leaf, name in (torch_names | {"bias": "bias"}).items():
                np.testing.assert_array_equal(leaves[leaf], resnet[f"{norm}.{name}"])
    new = {
        path
        for path, leaf in jax.tree.leaves_with_path(started)
        if any(leaf is other for other in jax.tree.leaves(initial))
    }
    names = {jax.tree_util.keystr(path, simple=True, separator="/") for path in new}
    assert all("unit" in name or "head" in name or "next_stage" in name for name in names)
    assert len(new) + 5 * (1 + 2 * (3 * 5 + 4)) == len(jax.tree.leaves(initial))


def test_a_resnet_that_does_not_fit_is_refused():
    with pytest.raises(ConversionError, match=r"5 left over: deconv\.0\.weight, layer1\.2"):
        resnet = {"deconv.0.weight": np.zeros(1)} | resnet_state_dict()
        more = {name.replace("1.1", "1.2"): resnet[name] for name in resnet if "1.1.conv" in name}
        more["layer1.2.bn1.weight"] = resnet["bn1.weight"]
        start.start_from_resnet(resnet | more, tiny_variables())


def test_new_heads_keep_all_that_does_not_depend_on_the_keypoints():
    loaded = tiny_variables()
    initial = tiny_variables(Architecture(2, 7, (2, 1, 1, 1), 3, 4), seed=1)
    started, said = start.start_from(loaded, initial)
    assert "the last convolution of each head is new, for 7 keypoints" in said
    for collection in ("params", "batch_stats"):
        for name, subtree in started[collection].items():
            source = initial if name.endswith("_out") else loaded
            assert_same(subtree, source[collection][name])
    same = tiny_variables(seed=1)
    assert_same(start.start_from(loaded, same)[0], loaded)
    fresh, _ = start.start_from(loaded, same, new_heads=True)
    assert_same(fresh["params"]["stage1_head3_out"], same["params"]["stage1_head3_out"])


def test_a_start_from_another_network_is_refused():
    other = tiny_variables(Architecture(1, 5, (2, 1, 1, 1), 3, 4))
    with pytest.raises(ConversionError, match=r"MSPN of 1 stage .* but one of 2 stages"):
        start.start_from(other, tiny_variables())


@pytest.mark.slow
def test_a_start_is_read_from_a_file_or_a_checkpoint(tmp_path):
    state_dict, initial = tiny_state_dict("mmpose 0.x"), tiny_variables(seed=1)
    file = write_pth(tmp_path / "a.pth", state_dict)
    started, said = start.initial_from(file, initial)
    assert said == f"an MSPN of {TINY}"
    assert_same(started, tiny_variables())

    state_dicts.write_safetensors(tmp_path / "r.safetensors", resnet_state_dict(), {})
    started, said = start.initial_from(tmp_path / "r.safetensors", initial)
    assert said.startswith("a ResNet in the stem")

    description = Description("tiny", dict(TINY.__dict__))
    checkpoints.save_variables(tmp_path / "checkpoint", description, tiny_variables())
    assert_same(start.initial_from(tmp_path / "checkpoint", initial)[0], tiny_variables())

    del state_dict["keypoint_head.predict_layers.0.conv_layers.0.bn.bias"]
    write_pth(file, state_dict)
    with pytest.raises(ConversionError, match=r"a\.pth: an MSPN .* 1 missing: keypoint_head"):
        start.initial_from(file, initial)
