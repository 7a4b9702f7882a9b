"""The steps of a run: how many, what follows each, and when the run ends."""

import pytest

from mspn_jax.commands.steps import Steps
from mspn_jax.configs import default


def steps_of(num_people: int = 100, **changes) -> Steps:
    config = default.get_config("tiny", num_stages=1)
    config.batch_size, config.num_epochs = 32, 5
    config.eval.every_epochs, config.checkpoint.every_steps = 2, 3
    config.update(changes)
    return Steps.of(config, num_people)


def test_an_epoch_has_everybody():
    assert steps_of(96).per_epoch == 3
    steps = steps_of(97)
    assert (steps.per_epoch, steps.last) == (4, 20)
    assert steps_of(97, num_steps=7).last == 7


def test_what_follows_a_step():
    steps = steps_of()
    assert [step for step in range(1, 21) if steps.is_evaluated(step)] == [8, 16, 20]
    saved = [step for step in range(1, 21) if steps.is_saved(step)]
    assert saved == [3, 6, 8, 9, 12, 15, 16, 18, 20]


@pytest.mark.parametrize(
    "stop_after, step, best, is_over",
    [
        (0, 16, 8, False),
        (1, 8, 8, False),
        (1, 16, 8, True),
        (2, 16, 8, False),
        (2, 16, None, False),
        (3, 20, 20, True),
    ],
)
def test_a_run_is_over_after_its_last_step_or_when_ap_does_not_rise(
    stop_after, step, best, is_over
):
    assert steps_of(stop_after=stop_after).is_over(step, best) == is_over
