"""A training run's log in Weights & Biases or MLflow.

Their libraries may wait for a network in any call, and when Python exits. So they run in a process
of their own, `service_writer`. Training waits for it only at the end, and then a minute at most.
"""

import base64
import contextlib
import importlib.util
import json
import logging
import pathlib
import queue
import re
import secrets
import subprocess
import sys
import threading
from typing import Any

import numpy as np
from jaxtyping import UInt8

from mspn_jax.drawing import encode_picture
from mspn_jax.errors import UsageError
from mspn_jax.storage import files, paths

log = logging.getLogger(__name__)

SERVICES = ("wandb", "mlflow")  # modules, and extras of this package
RUN_ID_FILE = "run_id"

_WRITER = pathlib.Path(__file__).with_name("service_writer.py")
_MAX_WAITING = 1000  # the most entries that wait for the process
_SECONDS_TO_SEND = 60.0  # at the end of a run
_SECONDS_WHEN_STOPPED = 2.0


def check_installed(service: str) -> None:
    """Raises UsageError if a service's library is not installed."""
    spec = importlib.util.find_spec(service)
    if spec is None or spec.origin is None:  # a folder of this name, such as wandb makes
        raise UsageError(
            f"config.log={service}: {service} is not installed: pip install 'mspn-jax[{service}]'"
        )


def run_id_of(workdir: paths.Path) -> str:
    """The id of a workdir's run, which is written into it at the first call."""
    path = workdir / RUN_ID_FILE
    with contextlib.suppress(FileNotFoundError, ValueError):
        if re.fullmatch(r"[0-9a-f]{16}", text := files.read_text(path).strip()):
            return text
    run_id = secrets.token_hex(8)
    files.write_text(path, f"{run_id}\n")
    return run_id


class ServiceLog:
    """A run in one of `SERVICES`, new or continued. `config` is what json can hold.

    The first failure is logged as a warning, and the log is dropped.
    """

    def __init__(self, service: str, *, run_id: str, name: str, config: dict[str, Any]):
        self.service = service
        self._lock = threading.Lock()
        self._is_lost = False
        self._waiting: queue.Queue[bytes | None] = queue.Queue(_MAX_WAITING)
        self._process = subprocess.Popen(
            [sys.executable, "-P", _WRITER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # so that Ctrl-C does not reach it
        )
        self._put(service=service, run_id=run_id, name=name, config=config)
        for work in (self._send, self._listen):
            threading.Thread(target=work, name=service, daemon=True).start()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._put(step=step, values=values)

    def picture(self, step: int, name: str, pixels: UInt8[np.ndarray, "H W 3"]) -> None:
        png = base64.b64encode(encode_picture(pixels, ".png")).decode()
        self._put(step=step, name=name, png=png)

    def close(self, is_complete: bool) -> None:
        """Waits for the process for at most a minute, or two seconds if the run was stopped.

        After that the process continues alone, for some minutes at most.
        """
        if self._is_lost:
            return
        self._put(is_complete=is_complete)
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
        seconds = _SECONDS_TO_SEND if is_complete else _SECONDS_WHEN_STOPPED
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            log.info("%s: not everything is sent yet; this goes on in the background", self.service)

    def _put(self, **entry: Any) -> None:
        if self._is_lost:
            return
        try:
            self._waiting.put_nowait(json.dumps(entry).encode() + b"\n")
        except queue.Full:
            self._lose("it does not keep up, or does not answer")

    def _send(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError), self._process.stdin as pipe:  # `_listen` logs the reason
            while (line := self._waiting.get()) is not None:
                pipe.write(line)
                pipe.flush()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        reason = ""
        for line in self._process.stdout:
            answer = json.loads(line)
            if "address" in answer:
                log.info("%s: %s", self.service, answer["address"])
            reason = answer.get("error", reason)
        if status := self._process.wait():
            self._lose(reason or f"its process ended with status {status}")

    def _lose(self, reason: str) -> None:
        with self._lock:
            if self._is_lost:
                return
            self._is_lost = True
        log.warning("%s: %s; continuing without it", self.service, reason)
        with contextlib.suppress(OSError):
            self._process.kill()
