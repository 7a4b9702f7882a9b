"""The network against the reference: parameter counts, heatmaps, one training step."""

import hashlib
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import golden_json, golden_npz
from golden import recipe
from mspn_jax.convolution import convolve
from mspn_jax.model import MSPN, is_encoder
from mspn_jax.skeletons import SKELETONS
from mspn_jax.upsampling import upsample
from mspn_jax.variables import count_parameters, initial_variables
from mspn_jax.weights import conversion

SEED = golden_json("meta.json")["seed"]
PARAMETERS = {1: 25_112_264, 2: 56_800_464, 3: 88_488_664, 4: 120_176_864}


def reference_variables(num_stages: int, names: str = "mmpose1x"):
    entries = golden_json(f"state_dict_{num_stages}stage.json")[names]
    return conversion.from_torch(recipe.make_state_dict(entries, SEED))


def reference_images() -> np.ndarray:
    return recipe.random_images("forward.input", (2, 3, 256, 192), SEED)


@pytest.mark.parametrize("num_stages", PARAMETERS)
def test_parameter_counts_are_the_published_ones(num_stages):
    shapes = jax.eval_shape(MSPN(num_stages).init, jax.random.key(0), jnp.zeros((1, 256, 192, 3)))
    assert count_parameters(shapes["params"]) == PARAMETERS[num_stages]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, count, shape",
    [
        ("4xmspn50_coco_384x288", 120_176_864, (4, 4, 1, 96, 72, 17)),
        ("4xmspn50_coco_256x192", 120_176_864, (4, 4, 1, 64, 48, 17)),
        ("4xmspn50_mpii_256x256", 120_139_968, (4, 4, 1, 64, 64, 16)),
    ],
)
def test_the_configs_networks_have_the_published_sizes(name, count, shape):
    config = importlib.import_module(f"mspn_jax.configs.{name}").get_config()
    skeleton = SKELETONS[config.skeleton]
    model = MSPN(**config.model.to_dict(), num_keypoints=skeleton.num_keypoints)
    image = jnp.zeros((1, *config.crop_hw, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    assert count_parameters(shapes["params"]) == count
    assert jax.eval_shape(model.apply, shapes, image).shape == shape


@pytest.mark.slow
@pytest.mark.parametrize("num_stages", PARAMETERS)
def test_mpiis_networks_lack_one_keypoint_of_each_head(num_stages):
    """A keypoint is a 3x3 kernel of 256 channels and two of a norm, in four heads a stage."""
    model = MSPN(num_stages, num_keypoints=16)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 256, 256, 3)))
    expected = PARAMETERS[num_stages] - num_stages * 4 * (9 * 256 + 2)
    assert count_parameters(shapes["params"]) == expected
    assert num_stages != 4 or expected == 120_139_968
    heatmaps = jax.eval_shape(model.apply, shapes, jnp.zeros((1, 256, 256, 3)))
    assert heatmaps.shape == (num_stages, 4, 1, 64, 64, 16)


@pytest.mark.parametrize(
    "num_stages", [1, 2, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 4))]
)
def test_heatmaps_equal_the_references(num_stages):
    golden = golden_npz(f"forward_{num_stages}stage.npz")
    images = reference_images()
    assert hashlib.sha256(images.tobytes()).hexdigest() == golden["input_sha256"]
    variables = reference_variables(num_stages)
    model = MSPN(num_stages)
    heatmaps = jax.jit(model.apply)(variables, images.transpose(0, 2, 3, 1))
    assert heatmaps.shape == (num_stages, 4, 2, 64, 48, 17)
    ours = np.asarray(heatmaps).transpose(0, 1, 2, 5, 3, 4).reshape(-1, 2, 17, 64, 48)
    for head, (mine, reference, top) in enumerate(
        zip(ours, golden["heatmaps_strided4"], np.abs(golden["heatmaps_max"]).max((1, 2)))
    ):
        assert np.abs(mine[..., ::4, ::4] - reference).max() < 1e-4 * top, head
    np.testing.assert_allclose(ours.sum((3, 4), dtype=np.float64), golden["heatmaps_sum"], atol=0.3)


def test_predict_is_the_last_heatmap_without_the_other_heads():
    model = MSPN(2, blocks_per_unit=(1, 1, 1, 1), stem_channels=8, unit_channels=16)
    variables = initial_variables(model, seed=0, crop_hw=(64, 96))
    images = jnp.asarray(np.random.default_rng(0).standard_normal((2, 64, 96, 3), np.float32))
    everything = jax.jit(model.apply)(variables, images)
    predict = jax.jit(lambda v, x: model.apply(v, x, method="predict")).lower(variables, images)
    np.testing.assert_allclose(predict.compile()(variables, images), everything[-1, -1], atol=1e-5)
    whole = jax.jit(model.apply).lower(variables, images)
    flops = [c.compile().cost_analysis()["flops"] for c in (predict, whole)]
    assert flops[0] < 0.9 * flops[1]


def test_initial_variables_are_those_of_init_but_for_the_random_numbers(monkeypatch):
    """With 1 for every random number, each leaf is equal."""
    model = MSPN(2, blocks_per_unit=(1, 1, 1, 1), stem_channels=8, unit_channels=16)

    class Ones:
        def standard_normal(self, shape, dtype):
            return np.ones(shape, dtype)

    monkeypatch.setattr(jax.random, "normal", lambda key, shape, dtype: jnp.ones(shape, dtype))
    monkeypatch.setattr(np.random, "default_rng", lambda seed: Ones())
    ours = initial_variables(model, seed=3, crop_hw=(64, 64))
    flax = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    assert jax.tree.structure(ours) == jax.tree.structure(flax)
    for mine, expected in zip(jax.tree.leaves(ours), jax.tree.leaves(flax), strict=True):
        assert mine.dtype == expected.dtype == np.float32
        np.testing.assert_array_equal(mine, expected)


def test_initial_kernels_are_kaiming_normal_by_the_fan_out():
    model = MSPN(2, blocks_per_unit=(1, 1, 1, 1), stem_channels=16, unit_channels=32)
    variables = initial_variables(model, seed=3, crop_hw=(64, 64))
    layer = variables["params"]["stage0"]["layer4_block0"]["conv2"]
    assert layer["kernel"].std() == pytest.approx(np.sqrt(2 / (9 * 128)), rel=0.02)
    assert (layer["scale"] == 1).all() and (layer["bias"] == 0).all()
    running = variables["batch_stats"]["stage0"]["layer4_block0"]["conv2"]
    assert (running["mean"] == 0).all() and (running["var"] == 1).all()
    again = initial_variables(model, seed=3, crop_hw=(64, 64))
    jax.tree.map(np.testing.assert_array_equal, variables, again)


def test_a_1x1_convolution_may_come_before_the_upsampling():
    rng = np.random.default_rng(0)
    x, kernel = (rng.standard_normal(s, np.float32) for s in ((2, 3, 5, 4), (1, 1, 4, 6)))
    after = convolve(upsample(jnp.asarray(x), 2), kernel)
    np.testing.assert_allclose(upsample(convolve(x, kernel), 2), after, atol=1e-5)


def test_sizes_that_do_not_fit_are_refused():
    model = MSPN(1, blocks_per_unit=(1, 1, 1, 1), stem_channels=8, unit_channels=16)
    with pytest.raises(ValueError, match=r"multiples of 32, got \(1, 250, 192, 3\)"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 250, 192, 3)))


def test_bfloat16_computes_near_float32_and_returns_float32():
    arguments = dict(num_stages=1, blocks_per_unit=(1, 1, 1, 1), stem_channels=16, unit_channels=32)
    full, half = MSPN(**arguments), MSPN(**arguments, dtype=jnp.bfloat16)
    variables = initial_variables(full, seed=0, crop_hw=(64, 64))
    images = np.random.default_rng(0).standard_normal((2, 64, 64, 3), np.float32)

    @jax.jit
    def run(variables, images):
        _, updates = half.apply(variables, images, train=True, mutable=["batch_stats"])
        return full.apply(variables, images), half.apply(variables, images), updates

    expected, heatmaps, updates = run(variables, images)
    assert heatmaps.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype("float32")}
    difference = np.abs(heatmaps - expected).max() / np.std(expected)
    assert 1e-4 < difference < 0.3  # it did compute in bfloat16, and only that


def test_the_encoder_is_what_a_resnet_gives():
    model = MSPN(num_stages=2, blocks_per_unit=(1, 2, 1, 1), stem_channels=8, unit_channels=16)
    variables = initial_variables(model, 0, (64, 64))
    architecture = conversion.architecture_of_variables(variables)
    bricks = list(architecture.bricks())
    assert {is_encoder(brick.path) for brick in bricks} == {False, True}
    for brick in bricks:
        assert is_encoder(brick.path) == (brick.torchvision is not None), brick
