"""The notebook of people runs from end to end, on files of this machine."""

import inspect
import json
import os
import subprocess
import sys

import detector_files
import pytest
from test_predictor import DESCRIPTION, VARIABLES

from commands import HERE
from mspn_jax.finder import find_people
from mspn_jax.synthetic import people
from mspn_jax.weights import checkpoints

HAS_IDS = "track" in inspect.signature(find_people).parameters


@pytest.fixture(scope="module")
def code() -> list[str]:
    content = json.loads((HERE / "notebooks" / "people.ipynb").read_text())
    cells = content["cells"]
    assert not any(cell.get("outputs") for cell in cells), "strip its outputs"
    assert "blob/main/notebooks/people.ipynb" in "".join(cells[0]["source"])
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.slow
def test_it_runs_from_end_to_end(code, tmp_path):
    """Its cells, as one script: that needs no Jupyter."""
    people.write_dataset(tmp_path, {"val2017": 1})
    (picture,) = (tmp_path / "val2017").glob("*.jpg")
    checkpoints.save_variables(tmp_path / "tiny", DESCRIPTION, VARIABLES)
    detector_files.dynamic(tmp_path / "quarter.onnx")
    given = {
        'MODEL, DETECTOR = "mspn50", "yolox_s"': 'MODEL, DETECTOR = "tiny", "quarter.onnx"',
        'PICTURE = "http://images.cocodataset.org/val2017/000000482800.jpg"': (
            f"PICTURE = {str(picture)!r}"
        ),
        "from IPython.display import Image": "Image = lambda data: len(data)",
        "from IPython.display import Video": "Video = lambda name, embed: print(open(name, 'rb'))",
    }
    if not HAS_IDS:
        first = next(i for i, cell in enumerate(code) if "track=True" in cell)
        code = code[:first]
    script = "\n".join(code)
    for old, new in given.items():
        if HAS_IDS or "Video" not in old:
            assert script.count(old) == 1, old
            script = script.replace(old, new)
    script = script.replace("model=MODEL,", "model=MODEL, min_score=0.0,")  # it was not trained
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(HERE)},
    )
    assert done.returncode == 0, done.stderr
    assert "left elbows, in degrees: [" in done.stdout
    if HAS_IDS:
        assert "frame 0: ids [" in done.stdout and "20 frames, x from" in done.stdout
        assert (tmp_path / "people.mp4").stat().st_size > 1000
