"""The learning rate schedule and Adam against the reference, step by step."""

import math

import jax
import numpy as np
import optax
import pytest

from conftest import golden_json
from mspn_jax.optimizer import (
    adam,
    cosine_schedule,
    learning_rate_schedule,
    linear_schedule,
)


@pytest.mark.parametrize("steps_per_epoch", [585, 586])
def test_learning_rates_equal_the_references(steps_per_epoch):
    golden = golden_json("lr_schedule.json")["schedules"][str(steps_per_epoch)]
    schedule = learning_rate_schedule(5e-3, batch_size=256, steps_per_epoch=steps_per_epoch)
    first = golden["lr_0_1000"]
    np.testing.assert_allclose([schedule(step) for step in range(len(first))], first, rtol=1e-5)
    assert len(golden["around"]) > 8
    for step, rate in golden["around"]:
        assert schedule(step) == pytest.approx(rate, rel=1e-5), step


def test_the_rate_grows_with_the_batch():
    half = learning_rate_schedule(5e-3, batch_size=128, steps_per_epoch=10)
    assert half(600) == pytest.approx(2.5e-3)


def test_no_warmup():
    schedule = learning_rate_schedule(
        1e-3, batch_size=256, steps_per_epoch=10, warmup_steps=0, drop_epochs=(2,)
    )
    assert schedule(0) == pytest.approx(1e-3)
    assert schedule(19) == pytest.approx(1e-3) and schedule(20) == pytest.approx(1e-4)


def test_adam_is_torchs():
    """Its formula, with the reference's constants; the last gradients are as small as epsilon."""
    gradients = np.random.default_rng(0).standard_normal((6, 3)) * (1.0, 1e-4, 1e-8)
    optimizer = adam(1e-3)
    params = expected = np.zeros(3)
    state = optimizer.init(params)
    first, second = np.zeros(3), np.zeros(3)
    for step, gradient in enumerate(gradients, start=1):
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        mean = first / (1 - 0.9**step)
        deviation = np.sqrt(second / (1 - 0.999**step))
        expected = expected - 1e-3 * mean / (deviation + 1e-8)
        np.testing.assert_allclose(params, expected, rtol=1e-4)


@pytest.mark.parametrize("num_steps, warmup", [(200, 10), (7, 0), (1, 0), (10_000, 500)])
@pytest.mark.parametrize("kind", [cosine_schedule, linear_schedule])
def test_the_cosine_and_the_line_fit_a_run(kind, num_steps, warmup):
    schedule = kind(4e-3, batch_size=64, num_steps=num_steps, warmup_share=0.05)
    for step in {0, 1, warmup // 2, warmup, num_steps // 2, num_steps - 1, num_steps}:
        if step < warmup:
            expected = 1e-3 * (0.001 + 0.999 * step / warmup)
        else:
            progress = (step - warmup) / (num_steps - warmup)
            expected = 1e-3 * (1 - progress)
            if kind is cosine_schedule:
                expected = 1e-3 * (1 + math.cos(math.pi * progress)) / 2
        assert schedule(step) == pytest.approx(expected, rel=1e-4, abs=1e-10), step


def test_a_parameter_can_have_a_rate_of_its_own():
    params = {"stem": {"kernel": np.ones(3)}, "head": {"kernel": np.ones(3)}}
    gradients = jax.tree.map(lambda leaf: np.array([1.0, -2.0, 0.5]), params)
    plain = adam(1e-2)
    factors = {"stem": 0.25, "head": 1.0}
    slow = adam(1e-2, rate_of=lambda path: factors[path[0]])
    expected, state = plain.update(gradients, plain.init(params), params)
    updates, slow_state = slow.update(gradients, slow.init(params), params)
    for name, factor in factors.items():
        np.testing.assert_allclose(updates[name]["kernel"], factor * expected[name]["kernel"])
    # A run can go on with other rates.
    assert jax.tree.structure(state) == jax.tree.structure(slow_state)
