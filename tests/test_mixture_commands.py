"""train.py and browse.py on two data sets."""

import json
import shutil

import numpy as np
import pytest
from mixture_files import OTHER_NAMES, SPLIT, rename

from commands import error_of, metrics_of, run, variables_at


@pytest.mark.slow
def test_a_training_on_two_data_sets_from_the_command_line(config, two_roots, tmp_path):
    """It differs from that on one, resumes to the bit, and evaluates the first's val split."""
    also = f"--config.data.also={two_roots[1]}:{SPLIT}:0.5"
    arguments = ("--config", config, "--workdir")
    whole = run("train.py", *arguments, tmp_path / "whole", also)
    assert whole.returncode == 0, whole.stderr
    assert "7 of the 17 keypoints of skeleton 'coco'; not labelled: left_eye" in whole.stderr
    for steps in (5, 12):
        part = run("train.py", *arguments, tmp_path / "parts", also, f"--config.num_steps={steps}")
        assert part.returncode == 0, part.stderr
    assert "resuming at step 5" in part.stderr
    for mine, expected in zip(
        variables_at(tmp_path / "parts", 12), variables_at(tmp_path / "whole", 12), strict=True
    ):
        np.testing.assert_array_equal(mine, expected)
    evaluations = [line for line in metrics_of(tmp_path / "whole") if "AP" in line]
    assert evaluations[-1]["step"] == 12
    recorded = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert recorded["data"]["also"] == [f"{two_roots[1]}:{SPLIT}:0.5"]

    changed = run("train.py", *arguments, tmp_path / "whole", f"{also}1", "--config.num_steps=13")
    assert changed.returncode == 0, changed.stderr
    assert "config.data.also was" in changed.stderr


@pytest.mark.slow
def test_browse_and_check_show_every_data_set(config, two_roots, tmp_path):
    also = f"--config.data.also={two_roots[1]}:{SPLIT}:3"
    done = run(
        "browse.py",
        "--config",
        config,
        "--output",
        tmp_path,
        "--people=24",
        also,
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads((tmp_path / "browse.json").read_text())["people"]
    # Others have 7 keypoints at most.
    assert min(p["not labelled"] for p in shown) < 10 <= max(p["not labelled"] for p in shown)

    done = run("browse.py", "--config", config, "--check", "--output", tmp_path, also)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("pictures with labelled people") == 2
    assert "head_top" in done.stdout and "left_knee" in done.stdout
    assert "it has 7 of the 17 keypoints of skeleton 'coco'" in done.stdout
    first, second = (
        json.loads((tmp_path / name).read_text())
        for name in (f"check_{SPLIT}.json", f"check_also1_{SPLIT}.json")
    )
    assert list(second["keypoints"]) == list(OTHER_NAMES) != list(first["keypoints"])
    one = run("browse.py", "--config", config, "--check", "--split=val2017", also)
    assert one.returncode == 0 and one.stdout.count("pictures with labelled people") == 1


@pytest.mark.slow
@pytest.mark.parametrize("program", ["train.py", "browse.py"])
@pytest.mark.parametrize(
    "also, message",
    [
        ("nowhere:train:1", "config.data.also: nowhere: no such folder"),
        ("OTHER:train2016:1", "person_keypoints_train2016.json: no such file"),
        ("STRANGER:train2017:1", "none of its keypoints (point_0, "),
        ("OTHER:train2017:0", "config.data.also=('OTHER:train2017:0',): must be a tuple of texts"),
        ("a:b:1 c:d:0", "config.data.also=('a:b:1', 'c:d:0'): must be a tuple"),
        ("('OTHER','train2017',1)", "config.data.also=('OTHER', 'train2017', 1): must be a tuple"),
    ],
)
def test_what_cannot_be_trained_on_is_one_clear_line(
    config, two_roots, tmp_path, program, also, message
):
    stranger = tmp_path / "stranger"
    shutil.copytree(two_roots[0], stranger, ignore=shutil.ignore_patterns("records"))
    rename(stranger, tuple(f"point_{k}" for k in range(17)))
    names = {"OTHER": str(two_roots[1]), "STRANGER": str(stranger)}
    for name, path in names.items():
        also, message = also.replace(name, path), message.replace(name, path)
    given = [f"--config.data.also={each}" for each in also.split()]
    place = "--workdir" if program == "train.py" else "--output"
    done = run(program, "--config", config, place, tmp_path / "new", *given)
    assert message in error_of(done)
    assert not (tmp_path / "new").exists()
