"""The log of a training run: a progress bar, `metrics.jsonl`, TensorBoard's events, a service."""

import contextlib
import json
import logging
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from mspn_jax.reports.events import EventLog
from mspn_jax.reports.service_log import ServiceLog
from mspn_jax.storage import files, mirror, paths

log = logging.getLogger(__name__)

_STEPS_BEFORE_TRACE, _STEPS_OF_TRACE = 5, 5


class TrainingReport:
    """A context. Once a step: `waiting_for_data` around the wait, then `step`.

    On a terminal it shows a bar, elsewhere a line every `every_steps`. Only the first process
    writes files. A file that cannot be written stops nothing.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        first_step: int,
        num_steps: int,
        steps_per_epoch: int,
        batch_size: int,
        every_steps: int,
        profile: bool = False,
        check: Callable[[], None] = lambda: None,
        service: ServiceLog | None = None,
    ):
        """`check`, which may raise, is called before files are copied to a workdir in a bucket."""
        self.num_steps = num_steps
        self.steps_per_epoch = steps_per_epoch
        self.batch_size = batch_size
        self.every_steps = every_steps
        self.bar = None
        self.lines: files.Log | None = None
        self.service = service
        self._logs: list[EventLog | ServiceLog] = [service] if service else []
        self._trace_from = first_step + _STEPS_BEFORE_TRACE if profile else None
        self._workdir = os.fspath(workdir)
        # In a bucket only the first process has a folder that is copied there.
        self._trace_folder = None if paths.in_bucket(workdir) else self._workdir
        self._mirror: mirror.Mirror | None = None
        self._stack = contextlib.ExitStack()
        if jax.process_index() == 0:
            self._mirror = self._stack.enter_context(
                mirror.Mirror(workdir, take=["metrics.jsonl"], seconds=mirror.SECONDS, check=check)
            )
            path = self._mirror.local / "metrics.jsonl"
            self._trace_folder = str(self._mirror.local)
            _forget_after(path, first_step)
            self.lines = files.Log(path)
            self._logs.append(EventLog(path.parent, first_step + 1))
            if sys.stderr.isatty():
                self.bar = self._stack.enter_context(
                    tqdm(initial=first_step, total=num_steps, unit="step", dynamic_ncols=True)
                )
                self._stack.enter_context(logging_redirect_tqdm([logging.getLogger("mspn_jax")]))
        self._restart_clock()

    def __enter__(self) -> "TrainingReport":
        return self

    def __exit__(self, *exception) -> None:
        if self.lines is not None:
            self.lines.append(b"")  # once more what could not be written
        if self.service is not None:
            self.service.close(is_complete=exception[0] is None)
        self._stack.__exit__(*exception)

    def sync(self) -> None:
        """Copies what was written to a workdir in a bucket. Call it before saving a checkpoint."""
        if self._mirror is not None:
            self._mirror.sync()

    def _restart_clock(self) -> None:
        self._since, self._waited, self._steps = time.perf_counter(), 0.0, 0

    @contextlib.contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leaves what is inside (an evaluation, a save) out of the speed."""
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start

    def step(self, step: int, metrics: dict[str, Any], learning_rate: Callable[[int], Any]) -> None:
        """Counts a step that was just started. Every `every_steps` it waits for it and logs it.

        The metrics are those of `training.train_step`, still on the devices; the learning rate is a
        function of the number of updates.
        """
        self._steps += 1
        self._trace(step, metrics)
        if step % self.every_steps == 0 or step == self.num_steps:
            self._log_step(step, metrics, learning_rate)

    def _log_step(
        self, step: int, metrics: dict[str, Any], learning_rate: Callable[[int], Any]
    ) -> None:
        # The metrics of this step alone: a mean would depend on where the run was resumed.
        now = {name: float(value) for name, value in jax.device_get(metrics).items()}
        updates = step - int(now["skipped"])
        elapsed = time.perf_counter() - self._since
        speed = {
            "crops_per_second": self._steps * self.batch_size / elapsed,
            "data_wait": self._waited / elapsed,
        }
        self._restart_clock()
        memory = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
        if memory is not None:
            speed["device_memory_gb"] = memory / 1e9
        rate = float(learning_rate(max(updates - 1, 0)))
        self.write(step, {**now, "learning_rate": rate, **speed})
        brief = (
            f"loss {now['loss']:.1f}, unexplained {now['unexplained']:.3f},"
            f" {speed['crops_per_second']:.1f} crops/s, data wait {speed['data_wait']:.0%}"
        )
        if self.bar is not None:
            self.bar.set_postfix_str(brief, refresh=False)
            self.bar.update(step - self.bar.n)
        else:
            epoch = step / self.steps_per_epoch
            log.info("step %d/%d, epoch %.1f: %s", step, self.num_steps, epoch, brief)

    def _trace(self, step: int, metrics: dict[str, Any]) -> None:
        """Starts and stops the trace that --profile asks for."""
        if self._trace_from is None or self._trace_folder is None:
            return
        first, last = self._trace_from, min(self._trace_from + _STEPS_OF_TRACE, self.num_steps)
        if step == first:
            jax.block_until_ready(metrics)
            jax.profiler.start_trace(self._trace_folder)
        elif step == last and step > first:
            jax.block_until_ready(metrics)
            folder = f"{self._workdir}/plugins/profile"
            try:
                jax.profiler.stop_trace()
            except Exception as error:  # the profiler's own errors, as of a full disk
                log.warning("%s: the trace cannot be written (%s)", folder, error)
            else:
                log.info("the trace of steps %d to %d is in %s", first + 1, step, folder)

    def evaluation(self, step: int, metrics: dict[str, float]) -> None:
        """Logs the metrics of an evaluated step."""
        self.write(step, metrics)
        brief = ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())
        log.info("step %d: %s", step, brief)

    def picture(self, step: int, name: str, pixels: UInt8[np.ndarray, "H W 3"]) -> None:
        """Puts an RGB picture into TensorBoard's events, and into the service."""
        with self.pause():
            for each in self._logs:
                each.picture(step, name, pixels)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Appends a line to `metrics.jsonl`, and gives the same numbers to the other logs."""
        if self.lines is None:
            return
        line = {"step": step, "epoch": round(step / self.steps_per_epoch, 4), **values}
        self.lines.append(f"{json.dumps(line)}\n".encode())
        for each in self._logs:
            each.scalars(step, values)


def _forget_after(path: pathlib.Path, step: int) -> None:
    """Removes the lines of the steps that a resumed run repeats, and damaged lines.

    The evaluation of `step` itself is removed too: the run logs it again.
    """
    if not path.exists():
        return
    lines = path.read_bytes().splitlines()
    entries = [_entry(line) for line in lines]
    damaged = [number for number, entry in enumerate(entries, start=1) if entry is None]
    if set(damaged) - {len(lines)}:  # a run that was killed leaves half a line at the end
        log.warning("%s: removed %d damaged lines, first line %d", path, len(damaged), damaged[0])
    kept = [
        line
        for line, entry in zip(lines, entries, strict=True)
        if entry is not None
        and (entry["step"] < step or (entry["step"] == step and "AP" not in entry))
    ]
    files.write_bytes(path, b"".join(line + b"\n" for line in kept))


def _entry(line: bytes) -> dict[str, Any] | None:
    """A line of `metrics.jsonl`; None if it is damaged."""
    try:
        entry = files.parsed_object(line)
    except ValueError:
        return None
    return entry if isinstance(entry.get("step"), int) else None
