"""What the tests share: golden figures, and where the real COCO pictures are."""

import json
import os
import pathlib

import numpy as np
import pytest

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
