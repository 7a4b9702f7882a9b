"""What the values of a config may be: one table, for files and for the command line."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mspn_jax.configs import default
from mspn_jax.data.coco import DATA_SET, LARGEST_WEIGHT, DataSet
from mspn_jax.errors import UsageError
from mspn_jax.evaluation import distances
from mspn_jax.heatmaps import DECODINGS
from mspn_jax.model import COARSEST_STRIDE, NUM_UNITS
from mspn_jax.reports.service_log import SERVICES
from mspn_jax.weights import description

DTYPES = ("float32", "bfloat16")
SCHEDULES = ("drops", "linear", "cosine")
LOGS = ("tensorboard", *SERVICES)


class Rule(NamedTuple):
    """What a value may be."""

    must: str  # what it must be, for messages
    # Whether a value is that. Its numbers are finite.
    holds: Callable[[Any], bool]
    # Larger values are mistakes: no machine has the memory or the time for them.
    largest: float = math.inf

    def up_to(self, largest: float) -> "Rule":
        return self._replace(largest=largest)


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


_SIZES, _INT32 = description.LARGEST_SIZES, 2**31 - 1

AT_LEAST_0 = Rule("0 or more", lambda value: value >= 0)
AT_LEAST_1 = Rule("1 or more", lambda value: value >= 1)
POSITIVE = Rule("more than 0", lambda value: value > 0)
FRACTION = Rule("from 0 to 1", lambda value: 0 <= value <= 1)
SHARE_OF_BOX = Rule(
    f"{description.SMALLEST_PADDING} or more", lambda value: value >= description.SMALLEST_PADDING
).up_to(description.LARGEST_PADDING)
CROP = Rule(
    f"two multiples of {COARSEST_STRIDE}, height and width",
    _ints(2, lambda side: side >= COARSEST_STRIDE and side % COARSEST_STRIDE == 0),
)

RULES = {
    "crop_hw": CROP.up_to(description.LARGEST_CROP),
    "padding": SHARE_OF_BOX,
    "seed": AT_LEAST_0.up_to(2**32 - 1),
    "dtype": Rule(" or ".join(DTYPES), lambda name: name in DTYPES),
    "model.num_stages": AT_LEAST_1.up_to(_SIZES["num_stages"]),
    "model.blocks_per_unit": Rule(
        f"{NUM_UNITS} whole numbers, each 1 or more", _ints(NUM_UNITS, lambda blocks: blocks >= 1)
    ).up_to(description.LARGEST_LAYERS),
    "model.stem_channels": AT_LEAST_1.up_to(_SIZES["stem_channels"]),
    "model.unit_channels": AT_LEAST_1.up_to(_SIZES["unit_channels"]),
    "data.also": Rule(
        f"a tuple of texts {DATA_SET}, with weights of more than 0 and at most {LARGEST_WEIGHT:,}",
        lambda values: isinstance(values, tuple | list) and all(map(_is_data_set, values)),
    ),
    "data.first_people": AT_LEAST_0.up_to(_INT32),
    "data.num_threads": AT_LEAST_0.up_to(1024),
    "augment.half_body_min_keypoints": AT_LEAST_0,
    "augment.min_upper_keypoints": AT_LEAST_0,
    "augment.min_lower_keypoints": AT_LEAST_0,
    "augment.half_body_padding": SHARE_OF_BOX,
    "augment.shift": AT_LEAST_0.up_to(10),
    "augment.scale": Rule("0 or more, and less than 1", lambda value: 0 <= value < 1),
    "augment.rotation_deg": AT_LEAST_0.up_to(360),
    "augment.brightness": FRACTION,
    "augment.contrast": FRACTION,
    "augment.saturation": FRACTION,
    "augment.hue_deg": AT_LEAST_0.up_to(180),
    "batch_size": AT_LEAST_1.up_to(2**20),
    "accumulate": AT_LEAST_1.up_to(2**20),
    "num_epochs": AT_LEAST_1.up_to(10**6),
    "num_steps": AT_LEAST_0.up_to(_INT32),
    "num_hard_keypoints": AT_LEAST_1,
    "clip_norm": AT_LEAST_0,
    "ema_decay": Rule("from 0 to 0.999999", lambda value: 0 <= value <= 0.999999),  # float32
    "stop_after": AT_LEAST_0.up_to(_INT32),
    "max_skipped_in_a_row": AT_LEAST_1.up_to(_INT32),
    "optimizer.learning_rate": POSITIVE.up_to(1e30),  # float32, multiplied by the batch
    "optimizer.encoder_rate": AT_LEAST_0.up_to(1_000),
    "optimizer.schedule": Rule(" or ".join(SCHEDULES), lambda name: name in SCHEDULES),
    "optimizer.warmup_share": Rule("0 or more, and less than 1", lambda value: 0 <= value < 1),
    "optimizer.warmup_steps": AT_LEAST_0.up_to(_INT32),
    "optimizer.drop_epochs": Rule(
        "epochs, each more than 0", lambda epochs: all(epoch > 0 for epoch in epochs)
    ),
    "optimizer.drop_factor": Rule("more than 0, at most 1", lambda value: 0 < value <= 1),
    "eval.every_epochs": AT_LEAST_0.up_to(10**6),
    "eval.batch_size": AT_LEAST_1.up_to(2**20),
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
    "checkpoint.every_steps": AT_LEAST_1.up_to(_INT32),
    "checkpoint.keep_latest": AT_LEAST_1.up_to(_INT32),
    "log_every_steps": AT_LEAST_1.up_to(_INT32),
}

SMALLEST = 1e-9  # numbers nearer to 0 are mistakes: many are 0 in float32

# A file can give a value another type than the published configs'. Numbers have a rule each.
TYPES = {
    bool: Rule("True or False", lambda value: isinstance(value, bool)),
    str: Rule("a text", lambda value: isinstance(value, str)),
}


def check(config: Any) -> None:
    """Checks every value of a config. UsageError names the key, the value and what it must be."""
    values = config.to_dict()
    _check_types("config", values, default.get_config("", num_stages=1).to_dict())
    for key, value in flat(values).items():
        rule = RULES.get(key, FRACTION if key.endswith("_probability") else None)
        if rule is not None:
            require(f"config.{key}", value, rule)
        if isinstance(value, float) and 0 < abs(value) < SMALLEST:
            raise UsageError(f"config.{key}={value!r}: must be 0, or {SMALLEST} or more")


def _check_types(name: str, value: Any, usual: Any) -> None:
    """Raises UsageError if a value, or one in a group, is not such as the usual one."""
    if not isinstance(usual, dict):
        if type(usual) in TYPES:
            require(name, value, TYPES[type(usual)])
        elif isinstance(value, dict):
            raise UsageError(f"{name}={value!r}: must be a value such as {usual!r}, not keys")
        return
    if not isinstance(value, dict):
        raise UsageError(f"{name}={value!r}: must be a ConfigDict of {', '.join(usual)}")
    for key in sorted(usual.keys() ^ value.keys(), key=str):
        what = "is missing" if key in usual else f"no such key; there are {', '.join(usual)}"
        raise UsageError(f"{name}.{key}: {what}")
    for key, each in usual.items():
        _check_types(f"{name}.{key}", value[key], each)


def require(name: str, value: Any, rule: Rule) -> None:
    """Raises UsageError, with the name, the value and the range, if the rule does not hold."""
    must = rule.must if not _holds(value, rule) else ""
    if not must and rule.largest < math.inf and np.max(value) > rule.largest:
        must = f"at most {rule.largest:,}"
    if must:
        shown = repr(value)
        raise UsageError(f"{name}={shown:.200}: must be {must}")


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    values: dict[str, Any] = {}
    for key, value in config.items():
        inner = flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        values |= inner
    return values


def _holds(value: Any, rule: Rule) -> bool:
    numbers = value if isinstance(value, tuple | list) else [value]
    try:
        is_finite = all(math.isfinite(number) for number in numbers if not isinstance(number, str))
        return is_finite and rule.holds(value)
    except (TypeError, OverflowError):  # None, or a text where a number is needed
        return False
