"""Prints a network's size and cost: mspn info --config FILE | --checkpoint PATH

Prints parameters, multiply-accumulates and memory by part, for training and for prediction, and
the resolved config or the checkpoint's description.
"""

import json
from collections.abc import Iterable
from typing import Any

from absl import flags
from ml_collections import config_flags

from mspn_jax.commands import configured
from mspn_jax.cost import Cost, costs
from mspn_jax.errors import UsageError
from mspn_jax.weights import checkpoints, published

_CONFIG = config_flags.DEFINE_config_file("config", None, "a file of configs/")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "a published name, a workdir (its best is taken), one step's folder, or convert's output",
)


def main() -> None:
    if (_CONFIG.value is None) == (_CHECKPOINT.value is None):
        raise UsageError("one of --config and --checkpoint is needed")
    if _CHECKPOINT.value is not None:
        step, description = checkpoints.find(published.local(_CHECKPOINT.value))
        print(f"{step}: {description.source}")
        metrics: Any = checkpoints.metrics_of(step) or "not evaluated"
        said = description.to_json() | {"metrics": metrics}
    else:
        config = _CONFIG.value
        description = configured.describe(config)
        said = configured.as_dict(config)
    height, width = description.crop_hw
    print(f"{description.variant}, of one crop of {height}x{width}:\n")
    model = description.new_model()
    rows = costs(model, description.crop_hw)
    lean = costs(model.clone(folded=True), description.crop_hw, method="predict")
    totals = [sum(rows, start=Cost("all of it")), sum(lean, start=Cost("to predict"))]
    print(table([*rows, *totals]))
    print("\nto predict: with batch norm folded, and of the heads only the last\n")
    print(json.dumps(said, indent=2))


def table(rows: Iterable[Cost]) -> str:
    lines = [f"{'part':16}{'parameters':>14}{'weights, MB':>14}{'GMACs':>10}{'features, MB':>14}"]
    lines += [
        f"{row.part:16}{row.parameters:>14,}{row.weight_bytes / 1e6:>14.1f}{row.macs / 1e9:>10.3f}"
        f"{row.feature_bytes / 1e6:>14.1f}"
        for row in rows
    ]
    return "\n".join(lines)
