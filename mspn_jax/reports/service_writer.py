"""Writes a run into Weights & Biases or MLflow: the program that `service_log` runs beside it.

Each line of its input is a json object: first the run, then metrics and pictures, last whether the
run is complete. It answers with such lines: the run's address, and the error that ended it. It
imports nothing of this package, so that it starts fast and holds no accelerator.
"""

import base64
import contextlib
import json
import os
import pathlib
import queue
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

PROJECT = "mspn_jax"  # unless the service's own variables name another
TAG = "mspn_jax.run_id"  # MLflow's tag for the id of the workdir
SECONDS_TO_SEND = 300  # to send what is left when the run has ended
PARAMS_A_REQUEST = 100  # MLflow's limit
CHARACTERS_A_PARAM = 500  # MLflow's smallest limit, of its older servers


class WandbRun:
    """A run of Weights & Biases, new or resumed. WANDB_PROJECT, WANDB_MODE, ... are obeyed."""

    def __init__(self, run_id: str, name: str, config: dict[str, Any]):
        import wandb

        self._image = wandb.Image
        settings = wandb.Settings(console="off", silent=True)
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        self._run = wandb.init(
            id=run_id, resume="allow", name=name, project=project, settings=settings
        )
        self._run.config.update(config, allow_val_change=True)
        # The service's own steps cannot go back, as those of a resumed run do.
        self._run.define_metric("*", step_metric="step")
        self.address = self._run.url or self._run.dir

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._run.log({"step": step, **values})

    def picture(self, step: int, name: str, path: pathlib.Path) -> None:
        self._run.log({"step": step, name: self._image(str(path))})

    def end(self, is_complete: bool) -> None:
        self._run.finish(exit_code=0 if is_complete else 1)


class MlflowRun:
    """A run of MLflow, new or resumed. MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME are obeyed."""

    def __init__(self, run_id: str, name: str, config: dict[str, Any]):
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self._metric, self._client = Metric, MlflowClient()
        name_of_all = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name_of_all)
        experiment_id = (
            experiment.experiment_id if experiment else self._client.create_experiment(name_of_all)
        )
        found = self._client.search_runs([experiment_id], f"tags.`{TAG}` = '{run_id}'")
        run = (
            found[0] if found else self._client.create_run(experiment_id, None, {TAG: run_id}, name)
        )
        self._id = run.info.run_id
        self.address = f"{self._client.tracking_uri}, experiment {name_of_all}, run {self._id}"
        self._client.update_run(self._id, status="RUNNING")
        # MLflow's params cannot change. The file has the values of a resumed run.
        values = {key: str(value)[:CHARACTERS_A_PARAM] for key, value in flat(config).items()}
        new = [Param(key, value) for key, value in values.items() if key not in run.data.params]
        for first in range(0, len(new), PARAMS_A_REQUEST):
            self._client.log_batch(self._id, params=new[first : first + PARAMS_A_REQUEST])
        self._client.log_dict(self._id, config, "config.json")

    def scalars(self, step: int, values: dict[str, float]) -> None:
        now = int(time.time() * 1000)
        names = {name: re.sub(r"[^\w./ :-]", "_", name) for name in values}  # PCK@0.2: PCK_0.2
        metrics = [self._metric(names[name], value, now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def picture(self, step: int, name: str, path: pathlib.Path) -> None:
        self._client.log_artifact(self._id, str(path), name)

    def end(self, is_complete: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if is_complete else "KILLED")


RUNS = {"wandb": WandbRun, "mlflow": MlflowRun}


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}. As `ranges.flat`, which this program does not import."""
    values: dict[str, Any] = {}
    for key, value in config.items():
        inner = flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        values |= inner
    return values


def write(lines: Iterator[str], answer: Callable[[dict[str, str]], None]) -> None:
    """Writes a run, from its first line to its end."""
    first = json.loads(next(lines))
    run: Any = RUNS[first["service"]](first["run_id"], first["name"], first["config"])
    answer({"address": run.address})
    is_complete = False
    with tempfile.TemporaryDirectory() as folder:
        for line in lines:
            entry = json.loads(line)
            if "values" in entry:
                run.scalars(entry["step"], entry["values"])
            elif "png" in entry:
                path = pathlib.Path(folder) / f"{entry['step']:07d}.png"
                path.write_bytes(base64.b64decode(entry["png"]))
                run.picture(entry["step"], entry["name"], path)
            else:
                is_complete = entry["is_complete"]
        run.end(is_complete)


def input_lines() -> Iterator[str]:
    """The lines of the input, read by a thread. It ends the process some time after the last."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        lines.put(None)
        time.sleep(SECONDS_TO_SEND)  # no longer: the run has ended, or was killed
        os._exit(1)

    threading.Thread(target=read, daemon=True).start()
    return iter(lines.get, None)


def main() -> None:
    # Ctrl-C and schedulers' signals are meant for the run. This process ends with its input.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # for what libraries print

    def answer(content: dict[str, str]) -> None:
        with contextlib.suppress(BrokenPipeError):  # the run may be gone
            print(json.dumps(content), file=answers, flush=True)

    try:
        write(input_lines(), answer)
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        answer({"error": lines[0]})
        os._exit(1)  # libraries' own clean-up may wait for a network


if __name__ == "__main__":
    main()
