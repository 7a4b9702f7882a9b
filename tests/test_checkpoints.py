"""Checkpoints: which are kept, found and refused."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import zlib

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from mspn_jax import training
from mspn_jax.commands import configured
from mspn_jax.errors import CheckpointError, UsageError
from mspn_jax.model import MSPN
from mspn_jax.optimizer import adam
from mspn_jax.skeletons import COCO
from mspn_jax.storage import paths
from mspn_jax.variables import initial_variables
from mspn_jax.weights import checkpoints, orbax_internals
from mspn_jax.weights.description import Description
from mspn_jax.weights.run import Checkpoints

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
        manager.save(step, state_at(step, seed=step))
        if average_precision is not None:
            manager.record(step, {"AP": average_precision})
    manager.close()
    return workdir


def test_a_run_does_not_go_on_with_other_keypoints():
    names = (COCO.keypoint_names[1], COCO.keypoint_names[0], *COCO.keypoint_names[2:])
    other = dataclasses.replace(COCO, keypoint_names=names)
    configured.check_same_keypoints(DESCRIPTION, DESCRIPTION)
    with pytest.raises(UsageError, match=r"of keypoints nose, left_eye, .* give another --workdir"):
        configured.check_same_keypoints(
            DESCRIPTION, dataclasses.replace(DESCRIPTION, skeleton=other)
        )


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


def test_weights_alone_are_a_checkpoint_too(tmp_path, caplog):
    variables = initial_variables(MSPN(**TINY), 4, (64, 64))
    checkpoints.save_variables(tmp_path / "converted", DESCRIPTION, variables)
    description, loaded, _ = checkpoints.load(tmp_path / "converted")
    assert description == DESCRIPTION
    assert_same(loaded, variables)
    assert not caplog.text  # not even of orbax
    model = description.new_model()
    assert model.blocks_per_unit == (1, 1, 1, 1)


def test_arrays_are_written_batch_after_batch(tmp_path, monkeypatch):
    begun, handler = [], ocp.type_handlers.NumpyHandler
    write = handler._background_serialize

    async def noted(self, values, infos, args):
        begun.append([value.nbytes for value in values])
        await write(self, values, infos, args)

    monkeypatch.setattr(handler, "_background_serialize", noted)
    values = np.random.default_rng(0).normal(size=(6, 700, 1000)).astype(np.float32)
    arrays = {f"array{i}": value.T for i, value in enumerate(values)} | {"small": np.float32([1])}
    checkpoints.save_variables(tmp_path / "saved", DESCRIPTION, arrays)
    assert len(begun) > 3 and sum(map(len, begun)) == len(arrays)
    assert max(map(sum, begun)) < 2 * (1 << 22)
    with ocp.StandardCheckpointer() as checkpointer:
        loaded = checkpointer.restore(tmp_path / "saved" / "0" / "variables", arrays)
    assert_same(loaded, arrays)
    # No array is there twice, in whatever order the batches were committed.
    assert paths.num_bytes(tmp_path / "saved") < sum(value.nbytes for value in values)


@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (5, 3, 2), (600, 500)])
def test_checksums_are_of_the_bytes_in_c_order(shape):
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for each in (array, array.T, np.flip(array)):
        assert checkpoints.checksums({"it": each}) == {"it": zlib.crc32(each.tobytes())}


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


HUGE = "1" + 400 * "0"
DAMAGED = [
    "5",
    "[]",
    "{",
    '{"AP": null}',
    "{}",
    '{"AP": NaN}',
    '{"AP": true}',
    '{"AP": 1.5}',
    "\xff",
]
DAMAGED += [
    '{"AP": 0.9, "AR": "high"}',
    f'{{"AP": {HUGE}}}',
    f'{{"AP": 1{5000 * "0"}}}',
    "[" * 99999,
]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_evaluation_counts_as_none_with_a_warning(run, tmp_path, content, caplog):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "20" / checkpoints.EVALUATION
    path.write_text(content, encoding="latin-1")
    assert checkpoints.find(tmp_path / "run")[0].name == "50"
    assert caplog.text.count(f"{path}: damaged; the step counts as not evaluated") == 1


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


def flip_a_bit(step: pathlib.Path, item: str) -> None:
    """In the largest of an item's files, where its arrays are."""
    path = max((step / item).rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("item", ["variables", "training"])
def test_a_damaged_newest_checkpoint_is_set_aside_for_the_one_before(run, tmp_path, item, caplog):
    shutil.copytree(run, tmp_path / "run")
    flip_a_bit(tmp_path / "run" / "checkpoints" / "50", item)
    manager = Checkpoints(tmp_path / "run" / "checkpoints")
    restored = manager.restore(state_at(0))
    assert_same(restored, state_at(40, seed=40))
    assert "damaged" in caplog.text and "the checkpoint before it" in caplog.text
    assert steps_in(tmp_path / "run") == [20, 40]
    assert (tmp_path / "run" / "damaged-50").is_dir()
    manager.save(50, state_at(50, seed=50))  # the run comes to that step again
    manager.close()
    again = Checkpoints(tmp_path / "run" / "checkpoints")
    assert_same(again.restore(state_at(0)), state_at(50, seed=50))
    again.close()


def test_what_orbax_itself_finds_damaged_is_set_aside_too(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints" / "50").rglob("manifest.ocdbt"):
        path.write_bytes(path.read_bytes()[:-7])
    manager = Checkpoints(tmp_path / "run" / "checkpoints")
    assert manager.restore(state_at(0)).step == 40
    manager.close()


def test_with_nothing_whole_left_it_says_so(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    for step in (20, 40, 50):
        flip_a_bit(tmp_path / "run" / "checkpoints" / str(step), "training")
    manager = Checkpoints(tmp_path / "run" / "checkpoints")
    with pytest.raises(CheckpointError, match="none of its checkpoints is whole"):
        manager.restore(state_at(0))
    assert len(list((tmp_path / "run").glob("damaged-*"))) == 3
    manager.close()


def test_inference_refuses_weights_with_a_flipped_bit(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    step = tmp_path / "run" / "checkpoints" / "20"
    flip_a_bit(step, "variables")
    with pytest.raises(CheckpointError, match="not as they were saved, first variables/"):
        checkpoints.load(step)


def test_averaged_parameters_are_what_inference_loads(tmp_path):
    state = dataclasses.replace(state_at(5, seed=5), ema_params=state_at(0, seed=6).params)
    manager = Checkpoints(tmp_path / "checkpoints")
    DESCRIPTION.write(tmp_path / "checkpoints")
    manager.save(5, state)
    manager.close()
    assert_same(checkpoints.load(tmp_path)[1]["params"], state.ema_params)
    manager = Checkpoints(tmp_path / "checkpoints")
    assert_same(manager.restore(state), state)
    with pytest.raises(CheckpointError, match=r"trained with other settings.*params"):
        manager.restore(state_at(0))
    manager.close()


def test_a_full_disk_is_one_line_and_what_was_saved_stays(tmp_path):
    """In a process of its own, which limits the size of files."""
    program = """
import contextlib, resource, sys
import test_checkpoints as t
manager = t.Checkpoints(sys.argv[1], keep_latest=2)
manager.save(1, t.state_at(1))
manager.record(1, {"AP": 0.5})
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    with contextlib.closing(manager):
        manager.save(2, t.state_at(2))
except t.CheckpointError as error:
    print("error:", error)
"""
    paths = [str(pathlib.Path(__file__).parent), str(pathlib.Path(__file__).parents[1])]
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "checkpoints"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )
    (line,) = done.stdout.splitlines()
    assert "step 2 cannot be saved: " in line
    assert line.endswith(
        "the last whole one is step 1. Once this is mended, the same command resumes at step 1"
    )
    assert not list((tmp_path / "checkpoints").glob("*tmp*"))
    manager = Checkpoints(tmp_path / "checkpoints")
    assert_same(manager.restore(state_at(0)), state_at(1))
    assert manager.metrics(1) == {"AP": 0.5} and manager.metrics(2) is None
    manager.close()


def test_the_private_names_of_orbax_are_there():
    from orbax.checkpoint._src.serialization import tensorstore_utils

    for name in orbax_internals._CONTEXTS:
        assert getattr(tensorstore_utils, name)["gcs_request_retries"] == {"max_retries": 7}
    context = tensorstore_utils.get_ts_context(use_ocdbt=True)
    assert context["gcs_request_retries"].to_json() == {"max_retries": 7}
    assert hasattr(ocp.type_handlers.NumpyHandler, "_background_serialize")
