"""What the values of a config may be: one table, for files and for the command line."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from mspn_jax.configs import default
from mspn_jax.data.coco import DATA_SET, LARGEST_WEIGHT, DataSet
from mspn_jax.errors import UsageError
from mspn_jax.evaluation import distances
from mspn_jax.heatmaps import DECODINGS
from mspn_jax.model import COARSEST_STRIDE, NUM_UNITS
from mspn_jax.reports.service_log import SERVICES

DTYPES = ("float32", "bfloat16")
SCHEDULES = ("drops", "linear", "cosine")
LOGS = ("tensorboard", *SERVICES)


class Rule(NamedTuple):
    """What a value may be.

    Attributes:
      must: what it must be, for messages.
      holds: whether a value is that. Its numbers are finite.
    """

    must: str
    holds: Callable[[Any], bool]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_data_set(value: Any) -> bool:
    try:
        DataSet.parse(value)
    except (AttributeError, ValueError):
        return False
    return True


def _ints(length: int, holds: Callable[[int], bool]) -> Callable[[Any], bool]:
    return lambda values: (
        isinstance(values, tuple | list)
        and len(values) == length
        and all(_is_int(value) and holds(value) for value in values)
    )


AT_LEAST_0 = Rule("0 or more", lambda value: value >= 0)
AT_LEAST_1 = Rule("1 or more", lambda value: value >= 1)
POSITIVE = Rule("more than 0", lambda value: value > 0)
FRACTION = Rule("from 0 to 1", lambda value: 0 <= value <= 1)
CROP = Rule(
    f"two multiples of {COARSEST_STRIDE}, height and width",
    _ints(2, lambda side: side >= COARSEST_STRIDE and side % COARSEST_STRIDE == 0),
)

RULES = {
    "crop_hw": CROP,
    "padding": POSITIVE,
    "seed": AT_LEAST_0,
    "dtype": Rule(" or ".join(DTYPES), lambda name: name in DTYPES),
    "model.num_stages": AT_LEAST_1,
    "model.blocks_per_unit": Rule(
        f"{NUM_UNITS} whole numbers, each 1 or more", _ints(NUM_UNITS, lambda blocks: blocks >= 1)
    ),
    "model.stem_channels": AT_LEAST_1,
    "model.unit_channels": AT_LEAST_1,
    "data.also": Rule(
        f"a tuple of texts {DATA_SET}, with weights of more than 0 and at most {LARGEST_WEIGHT:,}",
        lambda values: isinstance(values, tuple | list) and all(map(_is_data_set, values)),
    ),
    "data.first_people": AT_LEAST_0,
    "data.num_threads": AT_LEAST_0,
    "augment.half_body_min_keypoints": AT_LEAST_0,
    "augment.min_upper_keypoints": AT_LEAST_0,
    "augment.min_lower_keypoints": AT_LEAST_0,
    "augment.half_body_padding": POSITIVE,
    "augment.shift": AT_LEAST_0,
    "augment.scale": Rule("0 or more, and less than 1", lambda value: 0 <= value < 1),
    "augment.rotation_deg": AT_LEAST_0,
    "augment.brightness": FRACTION,
    "augment.contrast": FRACTION,
    "augment.saturation": FRACTION,
    "augment.hue_deg": AT_LEAST_0,
    "batch_size": AT_LEAST_1,
    "accumulate": AT_LEAST_1,
    "num_epochs": AT_LEAST_1,
    "num_steps": AT_LEAST_0,
    "num_hard_keypoints": AT_LEAST_1,
    "clip_norm": AT_LEAST_0,
    "ema_decay": Rule("0 or more, and less than 1", lambda value: 0 <= value < 1),
    "stop_after": AT_LEAST_0,
    "max_skipped_in_a_row": AT_LEAST_1,
    "optimizer.learning_rate": POSITIVE,
    "optimizer.encoder_rate": AT_LEAST_0,
    "optimizer.schedule": Rule(" or ".join(SCHEDULES), lambda name: name in SCHEDULES),
    "optimizer.warmup_share": Rule("0 or more, and less than 1", lambda value: 0 <= value < 1),
    "optimizer.warmup_steps": AT_LEAST_0,
    "optimizer.drop_epochs": Rule(
        "epochs, each more than 0", lambda epochs: all(epoch > 0 for epoch in epochs)
    ),
    "optimizer.drop_factor": Rule("more than 0, at most 1", lambda value: 0 < value <= 1),
    "eval.every_epochs": AT_LEAST_0,
    "eval.batch_size": AT_LEAST_1,
    "eval.decoding": Rule(" or ".join(DECODINGS), lambda name: name in DECODINGS),
    "eval.oks_nms_threshold": FRACTION,
    "eval.box_area_share": FRACTION,
    "eval.metrics": Rule(
        f"a tuple of metrics besides COCO's: {distances.FORMS}",
        lambda names: (
            isinstance(names, tuple | list)
            and all(isinstance(name, str) and distances.find(name) for name in names)
        ),
    ),
    "log": Rule(" or ".join(LOGS), lambda name: name in LOGS),
    "checkpoint.every_steps": AT_LEAST_1,
    "checkpoint.keep_latest": AT_LEAST_1,
    "log_every_steps": AT_LEAST_1,
}

_INT32 = 2**31 - 1
# Larger values are mistakes: no machine has the memory or the time for them.
LARGEST = {
    "crop_hw": 4096,
    "padding": 10,
    "seed": 2**32 - 1,
    "model.num_stages": 16,
    "model.blocks_per_unit": 64,
    "model.stem_channels": 4096,
    "model.unit_channels": 4096,
    "data.first_people": _INT32,
    "data.num_threads": 1024,
    "augment.half_body_padding": 10,
    "augment.shift": 10,
    "augment.rotation_deg": 360,
    "augment.hue_deg": 180,
    "batch_size": 2**20,
    "accumulate": 2**20,
    "num_epochs": 10**6,
    "num_steps": _INT32,
    "stop_after": _INT32,
    "max_skipped_in_a_row": _INT32,
    "optimizer.learning_rate": 1e30,  # float32, multiplied by the batch
    "optimizer.encoder_rate": 1_000,
    "optimizer.warmup_steps": _INT32,
    "eval.every_epochs": 10**6,
    "eval.batch_size": 2**20,
    "checkpoint.every_steps": _INT32,
    "checkpoint.keep_latest": _INT32,
    "log_every_steps": _INT32,
}


def check(config: Any) -> None:
    """Checks every value of a config.

    Raises:
      UsageError: a value is out of its range. The message names the key, the value and the range.
    """
    values = config.to_dict()
    for name, group in default.get_config("", num_stages=1).to_dict().items():
        if isinstance(group, dict):
            require(f"config.{name}", values[name], _keys_of(group))
    for key, value in flat(values).items():
        rule = RULES.get(key, FRACTION if key.endswith("_probability") else None)
        if rule is not None:
            require(f"config.{key}", value, rule)
        largest = LARGEST.get(key)
        if largest is not None and np.max(value) > largest:
            raise UsageError(f"config.{key}={value!r}: must be at most {largest:,}")


def _keys_of(group: dict[str, Any]) -> Rule:
    """A file can replace a whole group of keys."""
    return Rule(
        f"a ConfigDict of {', '.join(group)}",
        lambda value: isinstance(value, dict) and set(value) == set(group),
    )


def require(name: str, value: Any, rule: Rule) -> None:
    """Raises UsageError, with the name, the value and the range, if the rule does not hold."""
    if not _holds(value, rule):
        raise UsageError(f"{name}={value!r}: must be {rule.must}")


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}"""

    def items(tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from items(value, f"{prefix}{key}.")
            else:
                yield prefix + key, value

    return dict(items(config, ""))


def _holds(value: Any, rule: Rule) -> bool:
    if isinstance(value, dict):
        return rule.holds(value)
    numbers = value if isinstance(value, tuple | list) else [value]
    try:
        is_finite = all(math.isfinite(number) for number in numbers if not isinstance(number, str))
        return is_finite and rule.holds(value)
    except (TypeError, OverflowError):  # None, or a text where a number is needed
        return False
