"""The notebooks run from end to end, on files of this machine."""

import json
import os
import pathlib
import subprocess
import sys

import detector_files
import pytest
from test_predictor import DESCRIPTION, VARIABLES

from commands import HERE
from mspn_jax.synthetic import people
from mspn_jax.weights import checkpoints

pytestmark = pytest.mark.slow


def run(name: str, changes: dict[str, str], folder: pathlib.Path) -> str:
    """Runs a notebook's cells as one script, which needs no Jupyter, and returns what it prints.

    Args:
      changes: text that occurs once in the cells -> its replacement.
    """
    cells = json.loads((HERE / "notebooks" / name).read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells), "strip its outputs"
    script = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    for old, new in changes.items():
        assert script.count(old) == 1, old
        script = script.replace(old, new)
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(HERE)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_people_in_pictures_and_videos(tmp_path):
    first, *_ = json.loads((HERE / "notebooks" / "people.ipynb").read_text())["cells"]
    assert "blob/main/notebooks/people.ipynb" in "".join(first["source"])
    people.write_dataset(tmp_path, {"val2017": 1})
    (picture,) = (tmp_path / "val2017").glob("*.jpg")
    checkpoints.save_variables(tmp_path / "tiny", DESCRIPTION, VARIABLES)
    detector_files.dynamic(tmp_path / "quarter.onnx")
    score = ", min_score=0.0,"  # the network is not trained
    changes = {
        "find_people(PICTURE, model=MODEL,": f"find_people(PICTURE, model=MODEL{score}",
        "find_people(source, model=MODEL,": f"find_people(source, model=MODEL{score}",
        'MODEL, DETECTOR = "mspn50", "yolox_s"': 'MODEL, DETECTOR = "tiny", "quarter.onnx"',
        'PICTURE = "http://images.cocodataset.org/val2017/000000482800.jpg"': (
            f"PICTURE = {str(picture)!r}"
        ),
        "from IPython.display import Image": "Image = lambda data: len(data)",
        "from IPython.display import Video": "Video = lambda name, embed: print(open(name, 'rb'))",
    }
    said = run("people.ipynb", changes, tmp_path)
    assert "left elbows, in degrees: [" in said
    assert "frame 0: ids [" in said and "20 frames, x from" in said
    assert (tmp_path / "people.mp4").stat().st_size > 1000


def test_the_tour(tmp_path):
    changes = {
        "range(1, 121)": "range(1, 21)",  # that it runs
        "from IPython.display import Image": "Image = lambda data: len(data)",
    }
    said = run("tour.ipynb", changes, tmp_path)
    assert said.splitlines()[-1].startswith("unexplained")
