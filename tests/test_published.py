"""Published models by name: fetched, verified, converted once; their metrics beside ours."""

import dataclasses
import hashlib
import pathlib

import jax
import numpy as np
import pytest
from networks import TINY, tiny_state_dict, tiny_variables
from web_server import WebServer

from commands import run
from mspn_jax.errors import CheckpointError, ConversionError, DownloadError
from mspn_jax.predictor import Predictor
from mspn_jax.storage import transfer
from mspn_jax.weights import checkpoints, origin, published, start
from mspn_jax.weights.torch import state_dicts
from mspn_jax.weights.torch.names import Architecture

PEOPLE = dataclasses.replace(TINY, num_keypoints=17)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> pathlib.Path:
    monkeypatch.setenv("MSPN_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MSPN_MIRROR", raising=False)
    monkeypatch.setattr(transfer, "PAUSES", ())
    return tmp_path / "home"


def published_file(folder: pathlib.Path, architecture: Architecture = PEOPLE) -> pathlib.Path:
    """A file whose name has its sha256, as the published ones."""
    plain = folder / "weights.safetensors"
    state_dicts.write_safetensors(plain, tiny_state_dict("mmpose 0.x", architecture), {})
    sha256 = hashlib.sha256(plain.read_bytes()).hexdigest()[:8]
    return plain.rename(folder / f"tiny_coco_256x192-{sha256}_20201123.safetensors")


@pytest.fixture
def file(tmp_path) -> pathlib.Path:
    return published_file(tmp_path)


@pytest.fixture
def model(file, monkeypatch):
    """The file as a published model whose address does not answer; the mirror has it."""
    sha256 = file.name.split("-")[1][:8]

    class Tiny(origin.PublishedModel):
        file = property(lambda self: f"tiny_coco_256x192-{self.sha256}_20201123.safetensors")
        url = property(lambda self: f"http://127.0.0.1:9/{self.file}")

    metrics = dict.fromkeys(("AP", "AP50", "AP75", "AR", "AR50"), 0.5)
    model = Tiny("tiny", sha256, file.stat().st_size, metrics)
    monkeypatch.setitem(origin.MODELS, "tiny", model)
    monkeypatch.setenv("MSPN_MIRROR", str(file.parent))
    return model


def test_the_table_names_the_published_files():
    assert list(origin.MODELS) == ["mspn50", "2xmspn50", "3xmspn50", "4xmspn50"]
    assert origin.MODELS["4xmspn50"].url == (
        "https://download.openmmlab.com/mmpose/top_down/mspn/"
        "4xmspn50_coco_256x192-7b837afb_20201123.pth"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "tiny_coco_256x192"])
def test_a_name_is_fetched_converted_and_kept(model, home, name, monkeypatch):
    description, variables, step = published.load(name)
    expected = tiny_variables(PEOPLE)
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    assert description.skeleton.name == "coco" and description.crop_hw == (256, 192)
    assert step.parent == home / "models" / model.file.partition(".")[0]
    assert origin.published_as(origin.Origin.read(step.parent).source) is model

    # Neither the mirror nor the download is needed again.
    monkeypatch.delenv("MSPN_MIRROR")
    (home / "downloads" / model.file).unlink()
    predictor = Predictor.load(name, flip_test=False)
    assert predictor.description == description
    initial = tiny_variables(PEOPLE, seed=1)
    started, _ = start.initial_from(name, initial)
    jax.tree.map(np.testing.assert_array_equal, started, expected)


def test_an_address_is_verified_by_its_name(file):
    with WebServer({file.name: file.read_bytes()}) as server:
        url = f"{server.address}/models/{file.name}"
        description, _, _ = published.load(url)
        assert description.model["num_keypoints"] == 17
        published.load(url)
        assert len(server.requests) == 1
    other = file.name.replace(file.name.split("-")[1][:8], "00000000")
    with WebServer({other: file.read_bytes()}) as server, pytest.raises(DownloadError) as error:
        published.load(f"{server.address}/{other}")
    assert "expected 00000000" in str(error.value)


def test_a_local_folder_goes_before_a_name(model, tmp_path, monkeypatch, home):
    monkeypatch.chdir(tmp_path)
    description, _, step = published.load("tiny")
    checkpoints.save_variables("tiny", description, tiny_variables(PEOPLE, seed=3))
    _, variables, step = published.load("tiny")
    assert step.parent == tmp_path / "tiny"
    jax.tree.map(np.testing.assert_array_equal, variables, tiny_variables(PEOPLE, seed=3))


def test_what_is_neither_is_said(tmp_path, home):
    with pytest.raises(CheckpointError, match=r"mspn51: no such .*, nor a published model \(mspn5"):
        published.load("mspn51")
    with pytest.raises(CheckpointError, match=r"runs/mspn51: no such checkpoint"):
        published.load("runs/mspn51")
    with WebServer({"a.pth": b"not weights"}) as server, pytest.raises(Exception) as error:
        published.load(f"{server.address}/a.pth")
    assert "a.pth" in str(error.value) and not list((home / "models").glob("[!.]*"))


def test_a_file_of_another_network_leaves_nothing(tmp_path, home, monkeypatch):
    path = tmp_path / "odd.safetensors"
    state_dict = tiny_state_dict("mmpose 0.x", PEOPLE)
    state_dict.pop(next(name for name in state_dict if name.endswith("running_var")))
    state_dicts.write_safetensors(path, state_dict, {})
    with WebServer({path.name: path.read_bytes()}) as server, pytest.raises(ConversionError):
        published.load(f"{server.address}/{path.name}")
    assert not list((home / "models").glob("[!.]*"))


def test_without_a_network_one_line_says_where_to_put_the_file(home, monkeypatch):
    monkeypatch.setenv("MSPN_MIRROR", "/nowhere")
    done = run("mspn_jax", "download", "mspn50")
    assert done.returncode == 1
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith(
        "error: /nowhere/mspn50_coco_256x192-8fbfb5d0_20201123.pth: no such file"
    )
    assert f"put the file at {home}/downloads/mspn50_coco" in line and "MSPN_MIRROR" in line


def test_the_command_lists_and_refuses(home):
    done = run("mspn_jax", "download")
    assert done.returncode == 0
    names = [line.split()[0] for line in done.stdout.splitlines()[2:]]
    assert names[::4] == ["mspn50", "yolox_nano", "yolox_l"]
    done = run("mspn_jax", "download", "mspn5")
    assert done.returncode == 1 and "mspn5: neither a model (mspn50, 2x" in done.stderr


def test_metrics_are_compared_only_with_the_same_evaluation():
    model = origin.MODELS["mspn50"]
    found = model.metrics | {"AP": 0.7234}
    lines = model.beside(found, [])
    assert lines[2].split() == ["AP", "0.7234", "0.723"] and lines[-1] == "the metrics agree"
    lines = model.beside(model.metrics | {"AP": 0.7195}, [])
    assert lines[2].split()[-1] == "-0.0035" and lines[-1].startswith("the metrics do not agree")
    lines = model.beside(found, ["ground-truth boxes", "no flip test"])
    assert lines[-1] == "not comparable: here ground-truth boxes; no flip test"
