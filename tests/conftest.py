"""What the tests share: golden figures, and where the real COCO pictures are."""

import json
import os
import pathlib

import numpy as np
import pytest
from jaxtyping import install_import_hook

# Half the time to compile; what is compiled runs slower, which tiny models do not feel.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"

# The shapes in the signatures of what runs on the device are checked while the tests run.
install_import_hook(["mspn_jax.heatmaps", "mspn_jax.losses"], "beartype.beartype")

GOLDEN = pathlib.Path(__file__).parent / "golden"
_SAMPLE_BESIDE = pathlib.Path(__file__).parents[2] / "shared" / "coco_sample"


def golden_json(name: str):
    return json.loads((GOLDEN / name).read_text())


def golden_npz(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / name) as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def coco_sample() -> pathlib.Path:
    """A folder of real COCO pictures in COCO's layout (splits train2017 and val2017)."""
    root = pathlib.Path(os.environ.get("MSPN_COCO_SAMPLE", _SAMPLE_BESIDE))
    if not (root / "annotations").is_dir():
        pytest.skip(f"no COCO pictures in {root}: set MSPN_COCO_SAMPLE to run this test")
    return root
