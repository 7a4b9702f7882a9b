"""Runs in Weights & Biases and MLflow: what arrives there, resumed runs, services that fail."""

import contextlib
import importlib.util
import json
import pathlib
import sqlite3
import struct
import subprocess
import sys
import time

import numpy as np
import pytest

from commands import command, environment
from mspn_jax.errors import UsageError
from mspn_jax.reports import service_log
from mspn_jax.reports.service_log import ServiceLog

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 6, 3), np.uint8)
CONFIG = {"batch_size": 8, "model": {"num_stages": 1}, "resumed": False}


@pytest.fixture
def wandb(tmp_path, monkeypatch) -> pathlib.Path:
    """A folder for runs of Weights & Biases without a network."""
    pytest.importorskip("wandb", reason="not installed: pip install 'mspn-jax[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def mlflow(tmp_path, monkeypatch) -> pathlib.Path:
    """The database of MLflow's runs."""
    pytest.importorskip("mlflow", reason="not installed: pip install 'mspn-jax[mlflow]'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)  # it makes mlruns/
    return tmp_path / "mlflow.db"


def write_twice(service: str, workdir: pathlib.Path) -> None:
    """A run that is stopped after step 2, and goes on."""
    for steps, is_complete in (((1, 2), False), ((3,), True)):
        run_id = service_log.run_id_of(workdir)
        config = CONFIG | {"resumed": is_complete}
        log = ServiceLog(service, run_id=run_id, name="here", config=config)
        for step in steps:
            log.scalars(step, {"loss": 0.5 / step, "PCK@0.2": 0.25})
        log.picture(steps[-1], "samples", PIXELS)
        log.close(is_complete)
        log._process.wait(100)


def wandb_records(folder: pathlib.Path) -> list:
    """The records of every offline run, in their order."""
    from wandb.proto.wandb_internal_pb2 import Record

    return [
        Record.FromString(entry)
        for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"))
        for entry in entries_of(path.read_bytes())
    ]


def entries_of(data: bytes) -> list[bytes]:
    """The entries of LevelDB's log format: parts of at most a block, each with a header."""
    entries, at = [b""], 7  # after the file's own header
    while at < len(data):
        if 32768 - at % 32768 < 7:  # no room for a header in this block
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        entries[-1] += data[at + 7 : at + 7 + length]
        if kind in (1, 4):  # a whole entry, or the last of its parts
            entries.append(b"")
        at += 7 + length
    return entries[:-1]


def test_a_resumed_run_is_one_in_wandb(wandb, tmp_path):
    write_twice("wandb", tmp_path)
    records = wandb_records(wandb)
    begun = [record.run for record in records if record.HasField("run")]
    assert {each.run_id for each in begun} == {service_log.run_id_of(tmp_path)}
    assert {(each.project, each.display_name) for each in begun} == {("mspn_jax", "here")}
    rows = [
        {
            item.key or ".".join(item.nested_key): json.loads(item.value_json)
            for item in r.history.item
        }
        for r in records
        if r.HasField("history")
    ]
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
    assert losses == {1: 0.5, 2: 0.25, 3: pytest.approx(0.5 / 3)}
    assert {row["step"]: row["samples.width"] for row in rows if "samples.width" in row} == {
        2: 6,
        3: 6,
    }
    changes = [
        (u.key, json.loads(u.value_json))
        for r in records
        if r.HasField("config")
        for u in r.config.update
    ]
    given = [each for each in changes if each[0] in ("batch_size", "model", "resumed")]
    assert ("model", {"num_stages": 1}) in given and given[-1] == ("resumed", True)


def mlflow_rows(database: pathlib.Path, question: str) -> list[tuple]:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return connection.execute(question).fetchall()


@pytest.mark.slow
def test_a_resumed_run_is_one_in_mlflow(mlflow, tmp_path):
    write_twice("mlflow", tmp_path)
    ((name, status, artifacts),) = mlflow_rows(
        mlflow, "select name, status, artifact_uri from runs"
    )
    assert (name, status) == ("here", "FINISHED")
    metrics = mlflow_rows(mlflow, "select key, step, value from metrics order by step")
    losses = [(step, value) for key, step, value in metrics if key == "loss"]
    assert losses == [(1, 0.5), (2, 0.25), (3, pytest.approx(0.5 / 3))]
    assert ("PCK_0.2", 3, 0.25) in metrics
    params = dict(mlflow_rows(mlflow, "select key, value from params"))
    assert params == {"batch_size": "8", "model.num_stages": "1", "resumed": "False"}
    folder = pathlib.Path(artifacts.removeprefix("file://"))
    assert json.loads((folder / "config.json").read_text()) == CONFIG | {"resumed": True}
    samples = sorted(path.name for path in (folder / "samples").iterdir())
    assert samples == ["0000002.png", "0000003.png"]


@pytest.mark.slow
def test_training_goes_on_in_its_run(mlflow, config, tmp_path):
    train = ("train.py", "--config", config, "--workdir", tmp_path / "run", "--config.log=mlflow")
    for num_steps in (6, 10):
        done = subprocess.run(
            command(*train, f"--config.num_steps={num_steps}"),
            capture_output=True,
            text=True,
            env=environment(),
        )
        assert done.returncode == 0, done.stderr
        assert f"mlflow: sqlite:///{mlflow}, experiment mspn_jax, run " in done.stderr
    assert mlflow_rows(mlflow, "select name, status from runs") == [("run", "FINISHED")]
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    expected = {
        (key, line["step"]): value
        for line in lines
        for key, value in line.items()
        if key not in ("step", "epoch")
    }
    found = mlflow_rows(mlflow, "select key, step, value from metrics")
    assert {(key, step): value for key, step, value in found} == pytest.approx(expected)
    assert {("loss", 10), ("AP", 10)} <= set(expected)
    pictures = [path.name for path in pathlib.Path("mlruns").rglob("samples/*.png")]
    assert "0000010.png" in pictures


# ------------------------------------------------------------------------------ services that fail


@pytest.fixture
def writer(tmp_path, monkeypatch):
    """Puts another program in the place of the writer."""

    def put(text: str) -> ServiceLog:
        path = tmp_path / "writer.py"
        path.write_text(f"import json, sys, time\n{text}\n")
        monkeypatch.setattr(service_log, "_WRITER", path)
        return ServiceLog("wandb", run_id="0" * 16, name="here", config={})

    return put


def wait_until(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_service_that_fails_is_warned_of_once_and_dropped(writer, caplog):
    log = writer("sys.stdin.readline(); print(json.dumps({'error': 'no such host'})); sys.exit(1)")
    wait_until(lambda: log._is_lost)
    for step in range(3):
        log.scalars(step, {"loss": 1.0})
        log.picture(step, "samples", PIXELS)
    log.close(is_complete=True)
    assert caplog.text.count("wandb: no such host; continuing without it") == 1
    assert caplog.text.count("WARNING") == 1


def test_a_killed_writer_is_dropped(writer, caplog):
    log = writer("import os; os.kill(os.getpid(), 9)")
    wait_until(lambda: log._is_lost)
    assert "its process ended with status -9; continuing" in caplog.text


def test_a_service_that_does_not_answer_holds_nothing_up(writer, caplog, monkeypatch):
    monkeypatch.setattr(service_log, "_MAX_WAITING", 5)
    log = writer("time.sleep(1000)")
    start = time.monotonic()
    for step in range(20):
        log.picture(
            step, "samples", np.random.default_rng(step).integers(0, 256, (200, 200, 3), np.uint8)
        )
    assert time.monotonic() - start < 5
    assert caplog.text.count("does not keep up, or does not answer; continuing without it") == 1
    assert log._process.wait(5) == -9


@pytest.mark.parametrize("is_complete", [False, True])
def test_the_end_waits_for_a_service_but_not_for_ever(writer, monkeypatch, is_complete):
    monkeypatch.setattr(service_log, "_SECONDS_TO_SEND", 3.0)
    log = writer("for line in sys.stdin: pass\ntime.sleep(1000)")
    start = time.monotonic()
    log.close(is_complete)
    assert time.monotonic() - start == pytest.approx(3 if is_complete else 2, abs=0.9)
    assert log._process.poll() is None  # it may go on
    log._process.kill()


def test_the_writer_ends_when_its_run_has_ended_though_the_service_hangs(tmp_path):
    """Also while it waits for the first answer."""
    text = service_log._WRITER.read_text().replace("SECONDS_TO_SEND = 300", "SECONDS_TO_SEND = 1")
    hang = "class Hang:\n    def __init__(self, *about):\n        time.sleep(1000)\n"
    text = text.replace("RUNS = {", f'{hang}RUNS = {{"hang": Hang, ')
    first = json.dumps({"service": "hang", "run_id": "", "name": "", "config": {}})
    done = subprocess.run([sys.executable, "-c", text], input=first, text=True, timeout=20)
    assert done.returncode == 1


def test_a_library_that_is_not_installed_is_one_line(monkeypatch):
    for spec in (None, importlib.util.spec_from_loader("wandb", None)):  # a folder named wandb
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, spec=spec: spec)
        with pytest.raises(UsageError, match=r"wandb is not installed: pip install 'mspn-jax\[w"):
            service_log.check_installed("wandb")


@pytest.mark.parametrize("text", ["", "short", "not-hex-not-hex!"])
def test_a_damaged_id_is_replaced(tmp_path, text):
    (tmp_path / "run_id").write_text(text)
    run_id = service_log.run_id_of(tmp_path)
    assert len(run_id) == 16 and service_log.run_id_of(tmp_path) == run_id
