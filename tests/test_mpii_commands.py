"""From MPII's files to PCKh, by the commands of docs/mpii.md."""

import json
import re

import mpii_files
import pytest

import commands

TINY = (*commands.TINY, "--config.crop_hw=(64,64)", "--config.batch_size=4")
FEW = ("--config.num_steps=6", "--config.eval.every_epochs=0")


@pytest.mark.slow
def test_from_mpiis_files_to_pckh_in_the_commands_of_the_page(tmp_path):
    splits = mpii_files.write(tmp_path / "download")
    shown = {
        "4xmspn50_": "mspn50_",
        "runs/mpii": tmp_path / "run",
        "downloads/mpii": tmp_path / "download",
    }
    shown |= {"data/mpii": tmp_path / "mpii"}
    said = {}
    for name, *words in commands.shown_in("mpii.md", "From the download to PCKh"):
        for word, real in shown.items():
            words = [each.replace(word, str(real)) for each in words]
        more = {"train": (*TINY, *FEW), "eval": TINY}.get(name, ())
        if "--config" in words:
            more += (f"--config.data.root={tmp_path / 'mpii'}",)
        done = commands.run("mspn_jax", name, *words, *more)
        assert done.returncode == 0, done.stderr
        said[name] = done.stdout + done.stderr
    assert f"{len(splits['train']) + len(splits['valid'])} instances of person" in said["import"]
    assert "6 pairs of left and right, 15 limbs" in said["import"]
    num_pictures = len({person.image for person in splits["valid"]})
    counts = f"val: {num_pictures} pictures, {len(splits['valid'])} annotations"
    assert counts in said["split"]
    assert re.search(
        r"step 6: AP 0\.\d+, .*PCKh@0\.5 0\.\d+.*PCKh@0\.5/ankle 0\.\d+", said["train"]
    )
    (mean,) = re.findall(r"^ PCKh@0\.5 +=( \d\.\d+)$", said["eval"], re.MULTILINE)
    metrics = json.loads((tmp_path / "run" / "evaluation" / "metrics.json").read_text())
    assert metrics["PCKh@0.5"] == pytest.approx(float(mean), abs=6e-4)
    assert {"PCKh@0.1", "PCKh@0.5/head_top", "PCKh@0.5/ankle"} <= metrics.keys()
