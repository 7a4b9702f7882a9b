"""A trained network -> the one that predicts: batch norm folded, unused parameters dropped."""

from typing import Any

import jax
import numpy as np

from mspn_jax.errors import CheckpointError
from mspn_jax.model import BATCH_NORM_EPSILON, MSPN
from mspn_jax.variables import variable_shapes

Variables = Any


def fold(variables: Variables) -> Variables:
    """Variables of `MSPN(...)` -> those of `MSPN(..., folded=True)`, which computes the same.

    At inference, a batch norm multiplies and adds constants: they go into the kernel and a bias.
    Computed in float64; returned as float32 NumPy arrays.
    """

    def fold_norms(params: Variables, statistics: Variables) -> Variables:
        if "kernel" not in params:
            return {name: fold_norms(params[name], statistics[name]) for name in params}
        gain = params["scale"] / np.sqrt(statistics["var"].astype(np.float64) + BATCH_NORM_EPSILON)
        return {
            "kernel": (params["kernel"] * gain).astype(np.float32),
            "bias": (params["bias"] - statistics["mean"] * gain).astype(np.float32),
        }

    variables = jax.device_get(variables)
    return {"params": fold_norms(variables["params"], variables["batch_stats"])}


def for_inference(
    model: MSPN, variables: Variables, num_stages: int | None = None
) -> tuple[MSPN, Variables]:
    """The folded network, and those of its variables that `predict` uses.

    Args:
      num_stages: the number of stages to keep; None keeps all. Every stage is trained to predict,
        so the finest heatmaps of each can be decoded. Before the last stage their peaks are wider.

    Raises:
      CheckpointError: the network has fewer stages.
    """
    num_stages = model.num_stages if num_stages is None else num_stages
    if not 1 <= num_stages <= model.num_stages:
        raise CheckpointError(
            f"stages {num_stages}: the checkpoint has {model.num_stages}, so choose 1 to"
            f" {model.num_stages}"
        )
    model = model.clone(num_stages=num_stages, folded=True, axis_name=None)

    def only(needed: Variables, given: Variables) -> Variables:
        if not isinstance(needed, dict):
            return given
        return {name: only(needed[name], given[name]) for name in needed}

    return model, only(variable_shapes(model, method="predict"), fold(variables))
