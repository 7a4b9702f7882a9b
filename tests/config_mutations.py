"""Mutations of a config, and what must be true of every one."""

import math
import random
from typing import Any

from ml_collections import ConfigDict

from mspn_jax import skeletons
from mspn_jax.commands import command_line, configured, ranges
from mspn_jax.configs import quickstart
from mspn_jax.errors import Error

VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    2,
    3,
    8,
    -1,
    64,
    10**6,
    10**9,
    2**31,
    2**63,
    10**30,
    10**400,
    0.0,
    0.5,
    1.0,
    -0.5,
    1.7,
    1e-300,
    1e300,
    math.nan,
    math.inf,
    -math.inf,
    "",
    "a",
    "1",
    "\ud800",
    "float32",
    "float64",
    (),
    (1,),
    (64, 64),
    (64.0, 64.0),
    (1, 1, 1, 1),
    (1, 1, 1, 10**9),
    (math.nan, 64),
    (None, None),
    ("a", "b"),
    ((64, 64), (64, 64)),
    [64, 64],
    {},
    {"a": 1},
]


def outcome(seed: list[int]) -> str:
    """Changes one to three values of a config, and returns "used" or "refused".

    ml_collections refuses wrong types and unknown keys, in one line on the command line. A network
    and a training step are made from every config that the ranges accept.
    """
    rng = random.Random(str(seed))
    config = quickstart.get_config()
    keys = [*ranges.flat(config.to_dict()), "unknown", "optimizer.unknown", "model"]
    changes = {rng.choice(keys): rng.choice(VALUES) for _ in range(rng.randint(1, 3))}
    try:
        change(config, changes)
    except command_line.OF_CONFIG_FLAGS:
        return "refused"
    try:
        ranges.check(config)
        description = configured.describe(config)
        configured.check_batch(config.batch_size, config.accumulate, 1)
        network = configured.new_training(config, description, steps_per_epoch=10, num_steps=70)
        configured.as_dict(config)
    except Error as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
        return "refused"
    assert 0 <= float(network.schedule(0)) < math.inf, changes
    assert description.new_skeleton() == skeletons.COCO
    return "used"


def change(config: ConfigDict, changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        *path, name = key.split(".")
        inner = config
        for each in path:
            inner = inner[each]
        inner[name] = value
