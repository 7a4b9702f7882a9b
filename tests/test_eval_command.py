"""eval.py on drawn people: metrics, results, decoding, devices, refusals."""

import json

import numpy as np
import pytest

from commands import error_of, run
from mspn_jax.data import coco
from mspn_jax.data.validator import read_annotations
from mspn_jax.evaluation.scoring import METRICS
from mspn_jax.skeletons import COCO
from mspn_jax.weights import checkpoints


def evaluated(config, workdir, output, *flags, **processes):
    arguments = ("--config", config, "--checkpoint", workdir, "--output", output)
    return run("eval.py", *arguments, *flags, **processes)


@pytest.mark.slow
def test_evaluation_prints_and_writes_the_ten_metrics(workdir, config, root, tmp_path):
    done = evaluated(
        config,
        workdir,
        tmp_path / "out",
        "--mean_pose",
        "--pictures",
        3,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Average") == 10 and "the mean pose in every box" in done.stdout
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert list(metrics) == list(METRICS)
    step = checkpoints.find(workdir)[0]
    during = json.loads((step / "evaluation.json").read_text())
    assert metrics == pytest.approx(during, abs=1e-6)
    results = json.loads((tmp_path / "out" / "keypoints_results.json").read_text())
    people = sum(
        len(p.annotation_ids)
        for p in read_annotations(root=root, split="val2017", skeleton=COCO).pictures()
    )
    assert len(results) == people
    assert (tmp_path / "out" / "pictures.jpg").stat().st_size > 10_000


@pytest.mark.slow
def test_training_and_eval_decode_as_the_config_says(workdir, config, tmp_path):
    """A run of one step begins where the finished one ended, and evaluates."""
    dark = ("--config.eval.decoding=dark", "--config.checkpoint.every_steps=1")
    start = (f"--config.init.checkpoint={workdir}", "--config.num_steps=1")
    trained = run("train.py", "--config", config, "--workdir", tmp_path / "run", *dark, *start)
    assert trained.returncode == 0, trained.stderr
    step = checkpoints.find(tmp_path / "run")[0]
    during = json.loads((step / "evaluation.json").read_text())
    found = {}
    for decoding in ("quarter", "dark"):
        output = tmp_path / decoding
        done = evaluated(config, tmp_path / "run", output, f"--config.eval.decoding={decoding}")
        assert done.returncode == 0, done.stderr
        found[decoding] = json.loads((output / "keypoints_results.json").read_text())
    assert json.loads((tmp_path / "dark" / "metrics.json").read_text()) == pytest.approx(
        during, abs=1e-6
    )
    for one, other in zip(found["quarter"], found["dark"], strict=True):
        assert one["score"] == other["score"] and one["keypoints"] != other["keypoints"]


@pytest.mark.slow
def test_devices_share_an_evaluation(workdir, config, tmp_path):
    outputs = []
    for devices in (1, 3):
        output = tmp_path / str(devices)
        done = evaluated(
            config,
            workdir,
            output,
            devices=devices,
        )
        assert done.returncode == 0, done.stderr
        outputs.append(json.loads((output / "keypoints_results.json").read_text()))
    for one, three in zip(*outputs, strict=True):
        assert one["image_id"] == three["image_id"]
        np.testing.assert_allclose(one["score"], three["score"], rtol=1e-4)


@pytest.mark.slow
def test_a_split_that_can_only_be_submitted(workdir, config, root, tmp_path):
    content = json.loads(coco.annotation_file(root, "val2017").read_text())
    (root / "annotations" / "image_info_test-dev.json").write_text(
        json.dumps({"images": content["images"]})
    )
    (root / "test-dev").symlink_to(root / "val2017")
    detections = [
        {"image_id": a["image_id"], "category_id": 1, "bbox": a["bbox"], "score": 0.5}
        for a in content["annotations"]
    ]
    (tmp_path / "detections.json").write_text(json.dumps(detections))
    done = evaluated(
        config,
        workdir,
        tmp_path / "out",
        "--config.data.val_split=test-dev",
        f"--config.data.detections={tmp_path / 'detections.json'}",
    )
    assert done.returncode == 0, done.stderr
    assert "no metrics, only results" in done.stderr and not done.stdout
    assert len(json.loads((tmp_path / "out" / "keypoints_results.json").read_text())) == (
        len(detections)
    )
    assert not (tmp_path / "out" / "metrics.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--checkpoint=nowhere"], "nowhere: no such checkpoint"),
        (["--config.model.num_stages=2"], "with num_stages 1, but the config says 2"),
        (["--config.data.detections=nowhere.json"], "nowhere.json: No such file"),
        (["--config.eval.decoding=light"], "must be quarter or dark"),
        (["--mean_pose", "--config.data.train_split=none"], "person_keypoints_none.json: no such"),
    ],
)
def test_what_cannot_be_evaluated_is_one_clear_line(workdir, config, arguments, message):
    done = run("eval.py", "--config", config, "--checkpoint", workdir, *arguments)
    assert message in error_of(done)
