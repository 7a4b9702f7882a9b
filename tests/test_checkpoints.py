"""Checkpoints: what is kept, what is found, and what is refused."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from mspn_jax import checkpoints, program, training
from mspn_jax.checkpoints import CheckpointError, Checkpoints, Description
from mspn_jax.model import MSPN, initial_variables
from mspn_jax.optimizer import adam
from mspn_jax.program import UsageError
from mspn_jax.skeletons import COCO, Skeleton

TINY = dict(
    num_stages=1, num_keypoints=17, blocks_per_unit=(1, 1, 1, 1), stem_channels=8, unit_channels=16
)
DESCRIPTION = Description(variant="tiny", model=TINY, crop_hw=(64, 64))


def state_at(step: int, seed: int = 0):
    variables = initial_variables(MSPN(**TINY), seed, (64, 64))
    state = training.new_state(variables, adam(1e-3))
    return state.replace(step=np.int32(step))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A workdir whose best step is neither the first nor one of the latest."""
    workdir = tmp_path_factory.mktemp("run")
    manager = Checkpoints(workdir / "checkpoints", keep_latest=2)
    DESCRIPTION.write(workdir / "checkpoints")
    for step, average_precision in ((10, 0.1), (20, 0.7), (30, 0.3), (40, None), (50, 0.2)):
        metrics = None if average_precision is None else {"AP": average_precision}
        manager.save(step, state_at(step, seed=step), metrics)
    manager.close()
    return workdir


def test_a_description_carries_its_skeleton(tmp_path):
    cat = Skeleton("cat", ("nose", "paw_l", "paw_r"), ((0, 1), (0, 2)), (0.03, 0.05, 0.06))
    described = dataclasses.replace(DESCRIPTION, skeleton=cat)
    described.write(tmp_path)
    assert Description.read(tmp_path) == described
    assert Description.read(tmp_path).new_skeleton() == cat
    dataclasses.replace(DESCRIPTION, skeleton=None).write(tmp_path)
    with pytest.raises(CheckpointError, match="nobody said which keypoints"):
        Description.read(tmp_path).new_skeleton()


@pytest.mark.parametrize("name, expected", [("coco", COCO), ("unknown", None)])
def test_a_description_of_old_names_its_skeleton(tmp_path, name, expected):
    DESCRIPTION.write(tmp_path)
    path = tmp_path / checkpoints.DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text()) | {"skeleton": name}))
    assert Description.read(tmp_path) == dataclasses.replace(DESCRIPTION, skeleton=expected)


def test_a_run_does_not_go_on_with_other_keypoints():
    names = (COCO.keypoint_names[1], COCO.keypoint_names[0], *COCO.keypoint_names[2:])
    other = dataclasses.replace(COCO, keypoint_names=names)
    program.check_same_keypoints(DESCRIPTION, DESCRIPTION)
    with pytest.raises(UsageError, match=r"of keypoints nose, left_eye, .* give another --workdir"):
        program.check_same_keypoints(DESCRIPTION, dataclasses.replace(DESCRIPTION, skeleton=other))


def steps_in(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdecimal())


def assert_same(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def test_the_best_and_the_latest_are_kept(run):
    assert steps_in(run) == [20, 40, 50]


def test_a_state_comes_back_to_the_bit(run):
    manager = Checkpoints(run / "checkpoints")
    assert manager.latest_step() == 50
    restored = manager.restore(state_at(0))
    manager.close()
    assert_same(restored, state_at(50, seed=50))
    assert isinstance(jax.tree.leaves(restored)[0], np.ndarray)


@pytest.mark.parametrize("inside, step", [("", 20), ("checkpoints", 20), ("checkpoints/40", 40)])
def test_a_checkpoint_is_a_workdir_its_folder_or_one_step(run, inside, step):
    description, variables, folder = checkpoints.load(run / inside)
    assert folder.name == str(step)
    assert description == DESCRIPTION
    assert_same(variables["params"], state_at(0, seed=step).params)


def test_without_evaluation_the_latest_is_taken(tmp_path):
    manager = Checkpoints(tmp_path / "checkpoints")
    DESCRIPTION.write(tmp_path / "checkpoints")
    for step in (5, 15):
        manager.save(step, state_at(step))
    manager.close()
    assert checkpoints.find(tmp_path)[0].name == "15"


def test_weights_alone_are_a_checkpoint_too(tmp_path):
    variables = initial_variables(MSPN(**TINY), 4, (64, 64))
    checkpoints.save_variables(tmp_path / "converted", DESCRIPTION, variables)
    description, loaded, _ = checkpoints.load(tmp_path / "converted")
    assert description == DESCRIPTION
    assert_same(loaded, variables)
    model = description.new_model()
    assert model.blocks_per_unit == (1, 1, 1, 1)


def test_what_is_not_a_checkpoint_is_refused(tmp_path, run):
    with pytest.raises(CheckpointError, match=r"nowhere: no such checkpoint"):
        checkpoints.load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"a workdir of train\.py"):
        checkpoints.load(tmp_path)
    DESCRIPTION.write(tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint was saved there yet"):
        checkpoints.load(tmp_path)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"model\.json: cannot be read"):
        checkpoints.load(tmp_path)


def test_another_model_is_refused_and_the_first_difference_named(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "model.json"
    described = json.loads(path.read_text())
    described["model"]["num_keypoints"] = 11
    path.write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match=r"of another model: \d+ arrays differ.*17.*saved"):
        checkpoints.load(tmp_path / "run")
    manager = Checkpoints(run / "checkpoints")
    wider = MSPN(**(TINY | {"unit_channels": 24}))
    template = training.new_state(initial_variables(wider, 0, (64, 64)), adam(1e-3))
    with pytest.raises(CheckpointError, match="of another model"):
        manager.restore(template)
    manager.close()


def test_a_damaged_checkpoint_is_refused(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    step = tmp_path / "run" / "checkpoints" / "20"
    for path in step.rglob("_METADATA"):
        path.write_text("not json")
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoints.load(step)
