"""One training step against the reference, on one and several devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from conftest import golden_json, golden_npz
from golden import recipe
from mspn_jax import geometry, heatmaps, losses, training
from mspn_jax.crops import cut, decode_picture
from mspn_jax.data import augment
from mspn_jax.data.validator import read_annotations
from mspn_jax.devices import AXIS, replicate, shard
from mspn_jax.model import MSPN
from mspn_jax.optimizer import adam
from mspn_jax.skeletons import COCO
from mspn_jax.variables import initial_variables
from mspn_jax.weights import conversion
from mspn_jax.weights.torch import names

CROP_HW = (256, 192)
TINY = dict(num_stages=1, blocks_per_unit=(1, 1, 1, 1), stem_channels=8, unit_channels=16)


@pytest.fixture(scope="module")
def reference_batch(coco_sample) -> dict[str, np.ndarray]:
    """The four crops of the golden step, cut by our own pipeline."""
    wanted = golden_json("train_step.json")["ann_ids"]
    rows = {}
    for picture in read_annotations(root=coco_sample, split="val2017", skeleton=COCO).pictures():
        for i, annotation_id in enumerate(picture.annotation_ids.tolist()):
            if annotation_id not in wanted:
                continue
            path = coco_sample / "val2017" / picture.file_name
            image_to_crop, keypoints_crop_xy, visibility = augment.apply(
                augment.UNCHANGED,
                picture.keypoints_image_xy[i],
                picture.visibility[i],
                geometry.clip_boxes(picture.boxes_xywh[i], picture.image_hw),
                padding=1.25,
                image_width=picture.image_hw[1],
                crop_hw=CROP_HW,
                flip_permutation=COCO.flip_permutation,
                half_body_padding=1.5,
            )
            crop = np.empty((*CROP_HW, 3), np.uint8)
            cut(decode_picture(path.read_bytes()), image_to_crop, False, crop)
            rows[annotation_id] = (crop, keypoints_crop_xy, visibility)
    columns = zip(*(rows[annotation_id] for annotation_id in wanted))
    names = ("crops", "keypoints_crop_xy", "visibility")
    return {name: np.stack(column) for name, column in zip(names, columns)}


@pytest.fixture(scope="module")
def reference_variables():
    entries = golden_json("state_dict_1stage.json")["mmpose1x"]
    return conversion.from_torch(recipe.make_state_dict(entries, golden_json("meta.json")["seed"]))


def brick_names():
    """Flax path of every brick -> its names in mmpose."""
    return {brick.path: brick.mmpose for brick in names.bricks(1, (3, 4, 6, 3))}


def leaf(tree, path):
    for key in path:
        tree = tree[key]
    return np.asarray(tree)


def in_torch_order(kernel):
    return kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel


def test_a_whole_step_equals_the_references(reference_batch, reference_variables):
    golden, arrays = golden_json("train_step.json"), golden_npz("train_step.npz")
    optimizer = adam(golden["lr"])
    step = training.on_all_devices(training.train_step(MSPN(1), optimizer))
    state = replicate(training.new_state(reference_variables, optimizer))
    state, metrics = jax.device_get(step(state, reference_batch))

    terms = sum(metrics[f"stage0_unit{unit}"] for unit in range(4))
    assert metrics["loss"] == pytest.approx(golden["float64"]["total"], rel=1e-6)
    assert terms == pytest.approx(metrics["loss"], rel=1e-6)
    assert state.step == 1

    # After one step Adam's first moment is a tenth of the gradients.
    moments = state.opt_state[1][0].mu
    leaves = {
        "weight": ("kernel", "conv"),
        "norm.weight": ("scale", "norm"),
        "norm.bias": ("bias", "norm"),
    }
    compared = 0
    for path, brick in brick_names().items():
        for torch_leaf, (ours, module) in leaves.items():
            name = f"{getattr(brick, module)}.{torch_leaf.rpartition('.')[2]}"
            norm, _, distance, _, update_norm = golden["params"][name]
            gradient = 10 * leaf(moments, (*path, ours))
            assert np.linalg.norm(gradient) == pytest.approx(norm, rel=0.02), name
            before = leaf(reference_variables["params"], (*path, ours))
            update = leaf(state.params, (*path, ours)).astype(np.float64) - before
            assert np.linalg.norm(update) == pytest.approx(update_norm, rel=0.02), name
            compared += 1
            if f"grad/{name}" in arrays:
                flat = in_torch_order(gradient).ravel()
                flat = flat[:: max(1, flat.size // 4096)]
                expected = arrays[f"grad/{name}"]
                relative = np.linalg.norm(flat - expected) / np.linalg.norm(expected)
                assert relative < 0.02, (name, relative, distance)
        for ours, theirs in (("mean", "running_mean"), ("var", "running_var")):
            name = f"{brick.norm}.{theirs}"
            if name in arrays:
                np.testing.assert_allclose(
                    leaf(state.batch_stats, (*path, ours)), arrays[name], rtol=2e-5, atol=2e-6
                )
                compared += 1
    assert compared == len(golden["params"]) + 2 * 9


@pytest.mark.slow
def test_six_steps_lose_as_the_references(reference_batch, reference_variables):
    golden = golden_json("train_step.json")
    optimizer = optax.adam(1e-4)
    step = training.on_all_devices(training.train_step(MSPN(1), optimizer))
    state = replicate(training.new_state(reference_variables, optimizer))
    curve = []
    for _ in range(6):
        state, metrics = step(state, reference_batch)
        curve.append(float(metrics["loss"]))
    np.testing.assert_allclose(curve, golden["losses_6_steps_lr1e_4"]["float64"], rtol=5e-3)


def random_batch(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "crops": rng.integers(0, 256, (rows, 64, 64, 3), np.uint8),
        "keypoints_crop_xy": rng.uniform(0, 64, (rows, 17, 2)).astype(np.float32),
        "visibility": rng.integers(0, 3, (rows, 17)).astype(np.float32),
    }


@functools.cache
def gradients_of_devices(axis_name: str | None):
    """The first part of a step, of devices simulated on one by vmap, with the same collectives."""
    step = training.train_step(MSPN(**TINY, axis_name=axis_name), adam(1e-3))
    return jax.jit(jax.vmap(step.gradients, in_axes=(None, None, 0), out_axes=None, axis_name=AXIS))


def on_devices(count: int, batch, axis_name: str | None = None):
    """The new running statistics and the metrics of a step."""
    variables = initial_variables(MSPN(**TINY), 0, (64, 64))
    dealt = {name: rows.reshape(count, -1, *rows.shape[1:]) for name, rows in batch.items()}
    gradients = gradients_of_devices(axis_name)
    found = gradients(variables["params"], variables["batch_stats"], dealt)
    _, batch_stats, metrics = jax.device_get(found)
    return jax.tree.leaves(batch_stats), metrics


def test_running_statistics_are_those_of_all_devices():
    batch = random_batch(8)
    both, _ = on_devices(2, batch)
    first, second = (
        on_devices(1, {name: rows[i : i + 4] for name, rows in batch.items()})[0] for i in (0, 4)
    )
    for mine, a, b in zip(both, first, second, strict=True):
        np.testing.assert_allclose(mine, (a + b) / 2, rtol=1e-4, atol=1e-5)


def test_synchronised_norm_on_two_devices_is_one_device_with_both_batches():
    batch = random_batch(8)
    one, metrics_one = on_devices(1, batch)
    two, metrics_two = on_devices(2, batch, AXIS)
    _, metrics_apart = on_devices(2, batch)
    assert metrics_two["loss"] == pytest.approx(metrics_one["loss"], rel=1e-5)
    assert metrics_apart["loss"] != pytest.approx(metrics_one["loss"], rel=1e-5)
    for mine, expected in zip(two, one, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-5)


def test_unexplained_is_1_for_noise_and_0_for_the_target_at_any_height():
    xy = jnp.array([[[20.0, 20.0], [40.0, 30.0]]])
    targets, weights = heatmaps.encode(xy, jnp.ones((1, 2)), (64, 64), (16, 16), (5,))
    assert training.unexplained_share(0.01 * targets[:, 0], targets[:, 0], weights) < 1e-6
    noise = np.random.default_rng(0).standard_normal((1, 16, 16, 2))
    assert training.unexplained_share(jnp.asarray(noise), targets[:, 0], weights) > 0.9


def test_a_step_compiles_once():
    optimizer = adam(1e-3)
    step = training.on_all_devices(training.train_step(MSPN(**TINY), optimizer))
    state = replicate(training.new_state(initial_variables(MSPN(**TINY), 0, (64, 64)), optimizer))
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(event) if "backend_compile" in event else None
    )
    for seed in range(3):
        state, _ = step(state, shard(random_batch(4, seed)))
        jax.block_until_ready(state)
        assert len(compiled) == 2  # the gradients, the update


def test_losses_of_the_step_use_all_five_levels():
    targets, _ = heatmaps.encode(jnp.zeros((1, 2, 2)) + 8, jnp.ones((1, 2)), (64, 64), (16, 16))
    assert targets.shape[1] == 5
    _, terms = losses.mspn_loss(jnp.zeros((2, 4, 1, 16, 16, 2)), targets, jnp.ones((1, 2)))
    # Wider Gaussians weigh more: the last stage learns narrower ones than the first.
    assert terms["stage0_unit0"] > terms["stage1_unit0"]
    assert terms["stage0_unit1"] == pytest.approx(float(terms["stage1_unit0"]))


@functools.cache
def new_step(remat: bool = False, clip_norm: float = 0.0, num_micro_batches: int = 1):
    """A step of one device, which the tests share, and its optimizer."""
    optimizer = adam(1e-2, clip_norm)
    step = training.train_step(
        MSPN(**TINY, remat=remat),
        optimizer,
        num_micro_batches=num_micro_batches,
        ema_decay=0.15,
    )
    return training.on_all_devices(step), optimizer


def step_and_state(num_steps: int = 0, **settings):
    """A step of one device, and the state after some steps of it."""
    step, optimizer = new_step(**settings)
    variables = initial_variables(MSPN(**TINY), 0, (64, 64))
    state = training.new_state(variables, optimizer, with_ema=True)
    for i in range(num_steps):
        state, _ = step(state, random_batch(4, seed=i))
    return step, jax.device_get(state)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_step_that_is_not_finite_is_counted_and_changes_nothing(value):
    step, before = step_and_state(1)
    bad = random_batch(4)
    bad["visibility"][2, 5] = value
    state, metrics = before, {}
    for i in range(1, 3):
        state, metrics = step(state, bad)
        assert metrics["skipped_in_a_row"] == metrics["skipped"] == i
    after = jax.device_get(state)
    assert not np.isfinite(metrics["loss"])
    assert after.step == before.step + 2
    for name in ("params", "batch_stats", "opt_state", "ema_params"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(before, name))
    state, metrics = step(after, random_batch(4, seed=1))
    assert metrics["skipped_in_a_row"] == 0 and metrics["skipped"] == 2
    expected, _ = step(before, random_batch(4, seed=1))
    jax.tree.map(np.testing.assert_array_equal, state.params, expected.params)


@pytest.mark.parametrize("loss, gradient", [(1.0, np.inf), (1.0, np.nan), (np.inf, 1.0)])
def test_either_of_loss_and_gradients_is_enough_to_skip_a_step(loss, gradient):
    step, state = step_and_state()
    gradients = jax.tree.map(np.ones_like, state.params)
    gradients["stem"]["scale"][0] = gradient
    loss = np.float32(loss)
    after, metrics = jax.device_get(step.update(state, gradients, state.batch_stats, loss))
    assert metrics["skipped"] == 1
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)


def test_the_first_step_writes_where_the_state_lies():
    def aligned(leaf):  # so that JAX on CPU aliases it
        room = np.empty(leaf.nbytes + 64, np.uint8)
        start = -room.ctypes.data % 64
        copy = room[start : start + leaf.nbytes].view(leaf.dtype).reshape(leaf.shape)
        copy[...] = leaf
        return copy

    def addresses(params):
        return [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(params)]

    optimizer = adam(1e-3)
    step = training.on_all_devices(training.train_step(MSPN(**TINY), optimizer), jax.devices()[:1])
    variables = jax.tree.map(aligned, initial_variables(MSPN(**TINY), 0, (64, 64)))
    state = replicate(training.new_state(variables, optimizer), jax.devices()[:1])
    before = addresses(state.params)
    state, _ = step(state, shard(random_batch(4), jax.devices()[:1]))
    assert addresses(state.params) == before


def test_the_update_holds_nothing_twice():
    step, state = step_and_state()
    update = step.update.lower(state, state.params, state.batch_stats, np.float32(0)).compile()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
    memory = update.memory_analysis()
    assert memory.alias_size_in_bytes >= 4 * size  # parameters, their average, two moments
    assert memory.temp_size_in_bytes < 0.5 * size


def test_the_average_of_the_parameters_is_what_it_says():
    step, state = step_and_state()
    mean = state.params
    for i, decay in enumerate((0.1, 0.15, 0.15)):  # (1 + 0) / (10 + 0), then the given one
        state, _ = step(state, random_batch(4, seed=i))
        mean = jax.tree.map(lambda m, p, d=decay: d * m + (1 - d) * p, mean, state.params)
        state = jax.device_get(state)
    jax.tree.map(
        lambda mine, expected: np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-7),
        state.ema_params,
        mean,
    )
    assert state.variables["params"] is state.ema_params


def test_gradients_above_the_norm_are_scaled_down_to_it():
    norms = {}
    step, state = step_and_state()
    found = step.gradients(state.params, state.batch_stats, random_batch(4))
    gradients, batch_stats, metrics = jax.device_get(found)
    for clip_norm in (0.0, 0.5):
        step, state = step_and_state(clip_norm=clip_norm)
        state, more = step.update(state, gradients, batch_stats, metrics["loss"])
        assert more["gradient_norm"] > 1  # as it was before
        norms[clip_norm] = float(optax.tree.norm(state.opt_state[1][0].mu) * 10)
    assert norms[0.0] == pytest.approx(float(more["gradient_norm"]), rel=1e-3)
    assert norms[0.5] == pytest.approx(0.5, rel=1e-3)


def test_computing_blocks_twice_changes_no_number():
    """The lowered program computes the blocks again. XLA's CPU compiler removes that."""
    batch, found = random_batch(4), {}
    for remat in (False, True):
        step, state = step_and_state(remat=remat)
        program = step.gradients.lower(state.params, state.batch_stats, batch).as_text()
        state, _ = step(state, batch)
        moments = jax.tree.leaves(jax.device_get(state.opt_state[1][0].mu))
        found[remat] = program.count("stablehlo.convolution"), moments
    (once, moments), (twice, same) = found[False], found[True]
    assert twice == once + 4  # a block's 3x3 convolution, in each of the encoder's four layers
    for a, b in zip(moments, same, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(a).max())


def test_micro_batches_must_divide_a_devices_rows():
    _, state = step_and_state()
    step, _ = step_and_state(num_micro_batches=3)
    with pytest.raises(ValueError, match="4 crops of a device do not divide into 3 micro-batches"):
        step(state, random_batch(4))
