"""mspn import and mspn split as people type them."""

import re

import pytest
import tool_exports as tools
from imported import SHOTS

import commands


@pytest.mark.slow
def test_commands_refuse_in_one_line(tmp_path):
    root = tools.cvat(tmp_path / "task", SHOTS[:2])
    for arguments, message in (
        (["import", "--output", tmp_path / "new"], "name what to import"),
        (
            ["import", tmp_path / "nowhere.zip", "--output", tmp_path / "new"],
            "no such file or folder",
        ),
        (["import", root, "--output", root], "exists already; name a new folder"),
        (["import", root], "--output"),
        (["split", tmp_path / "task"], "person_keypoints_all.json: No such file"),
        (["split"], "name one folder"),
        (["split", root, "--train_name=all"], "must be three names"),
    ):
        done = commands.run("mspn_jax", *arguments)
        assert done.returncode == 1, done.stderr
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ") and message in line
    assert {path.name for path in tmp_path.iterdir()} == {"task"}


TINY = (
    *commands.TINY,
    "--config.crop_hw=(64,96)",
    "--config.batch_size=4",
    "--config.num_steps=3",
    "--config.init.checkpoint=",
)


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["cvat", "label_studio"])
def test_from_an_export_to_ap_in_the_three_commands_of_the_page(tool, tmp_path):
    export = getattr(tools, tool)(tmp_path / "export", SHOTS)
    names = {"export.zip": export, "data/mine": tmp_path / "mine", "runs/mine": tmp_path / "run"}
    said = []
    for name, *words in commands.shown_in("own_data.md", "In three commands"):
        for shown, real in names.items():
            words = [word.replace(shown, str(real)) for word in words]
        done = commands.run("mspn_jax", name, *words, *(TINY if name == "train" else ()))
        assert done.returncode == 0, done.stderr
        said.append(done.stdout + done.stderr)
    imports, splits, trains = said
    assert f"9 pictures, {sum(len(s.triples) for s in SHOTS)} instances of quadruped" in imports
    assert "4 pairs of left and right" in imports
    assert re.search(
        r"train: 7 pictures, \d+ annotations\nval: 2 pictures, \d+ annotations", splits
    )
    assert re.search(r"step 3: AP 0\.\d+, AP50.* PCK@0.1 0\.\d+", trains)
    assert (tmp_path / "run" / "report" / "report.html").is_file()
    assert (tmp_path / "run" / "checkpoints" / "3").is_dir()
