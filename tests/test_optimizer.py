"""The learning rate's course against the reference, step by step."""

import numpy as np
import pytest

from conftest import golden_json
from mspn_jax.optimizer import learning_rate_schedule


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
