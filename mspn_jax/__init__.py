"""MSPN, the Multi-Stage Pose Network, in JAX: top-down human pose estimation."""

import importlib

__version__ = "0.1.0"

# Names are resolved at first use, so that the data modules, which need no JAX, import in an
# instant: grain's worker processes import them again.
_HOME = {
    "Detector": "mspn_jax.detector",
    "MSPN": "mspn_jax.model",
    "People": "mspn_jax.people",
    "PeopleFinder": "mspn_jax.finder",
    "Predictor": "mspn_jax.predictor",
    "find_people": "mspn_jax.one_call",
}


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
