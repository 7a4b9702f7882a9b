"""What a training run tells: a progress bar, `metrics.jsonl`, and TensorBoard's events."""

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
import tensorboardX
from tensorboardX.proto.summary_pb2 import Summary
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from mspn_jax.drawing import encode_picture
from mspn_jax.storage import files, mirror, paths

log = logging.getLogger(__name__)

_STEPS_BEFORE_TRACE, _STEPS_OF_TRACE = 5, 5


class TrainingReport:
    """Use as a context; once a step: `waiting_for_data` around the wait, then `step`.

    On a terminal it shows a bar, elsewhere a line every `every_steps`. Only the first process
    writes.
    """

    def __init__(
        self, workdir: str | os.PathLike, *, first_step: int, num_steps: int,
        steps_per_epoch: int, batch_size: int, every_steps: int, profile: bool = False,
        check: Callable[[], None] = lambda: None,
    ):  # fmt: skip
        """`check` is called before files are copied to a workdir in a bucket, and may raise."""
        self.num_steps = num_steps
        self.steps_per_epoch = steps_per_epoch
        self.batch_size = batch_size
        self.every_steps = every_steps
        self.bar = None
        self.file = self.events = None
        self._in_flight: Any = {}
        self._trace_from = first_step + _STEPS_BEFORE_TRACE if profile else None
        self._workdir = os.fspath(workdir)
        # The first process's is copied to a bucket; the others write only to a disk.
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
            self.file = self._stack.enter_context(path.open("a"))
            self.events = self._stack.enter_context(
                tensorboardX.SummaryWriter(str(path.parent), purge_step=first_step + 1)
            )
            if sys.stderr.isatty():
                self.bar = self._stack.enter_context(
                    tqdm(initial=first_step, total=num_steps, unit="step", dynamic_ncols=True)
                )
                self._stack.enter_context(logging_redirect_tqdm([logging.getLogger("mspn_jax")]))
        self._restart_clock()

    def __enter__(self) -> "TrainingReport":
        return self

    def __exit__(self, *exception) -> None:
        self._stack.__exit__(*exception)

    def sync(self) -> None:
        """Copies to a workdir in a bucket what was written: before the checkpoint that follows it.

        Raises:
          StorageError: the bucket refuses or does not answer.
        """
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
        """Around what is no part of a step (evaluating, saving): it is left out of the speed."""
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start

    def step(
        self, step: int, metrics: dict[str, Any], learning_rate: Callable[[int], Any]
    ) -> dict[str, float]:
        """Takes the metrics of the step that was just started.

        Waits until the step before is finished: the devices have always one more to go on with,
        and the host is never further ahead.

        Args:
          step: how many steps are done with this one.
          metrics: of `training.train_step`, still on the devices.
          learning_rate: the schedule, of the number of updates.

        Returns:
          The metrics of the step before; none of the first.
        """
        self._steps += 1
        finished, self._in_flight = _on_host(self._in_flight), metrics
        self._trace(step)
        if step % self.every_steps == 0 or step == self.num_steps:
            self._tell(step, learning_rate)
        return finished

    def _tell(self, step: int, learning_rate: Callable[[int], Any]) -> None:
        # Of this step alone: a mean since the last line would depend on where a run was resumed.
        now = _on_host(self._in_flight)
        now.pop("stop", None)
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

    def _trace(self, step: int) -> None:
        """Begins and ends the trace that --profile asks for."""
        if self._trace_from is None or self._trace_folder is None:
            return
        last = min(self._trace_from + _STEPS_OF_TRACE, self.num_steps)
        if step == self._trace_from:
            jax.block_until_ready(self._in_flight)
            jax.profiler.start_trace(self._trace_folder)
        elif step == last and step > self._trace_from:
            jax.block_until_ready(self._in_flight)
            jax.profiler.stop_trace()
            log.info(
                "the trace of steps %d to %d is in %s/plugins/profile",
                self._trace_from + 1, step, self._workdir,
            )  # fmt: skip

    def evaluation(self, step: int, figures: dict[str, float]) -> None:
        """COCO's figures at a step."""
        self.write(step, figures)
        brief = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
        log.info("step %d: %s", step, brief)

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Puts an RGB picture into TensorBoard."""
        if self.events is None:
            return
        with self.pause():
            height, width, colors = pixels.shape
            # SummaryWriter.add_image would encode it with Pillow, which nothing else here needs.
            entry = Summary.Image(
                height=height, width=width, colorspace=colors,
                encoded_image_string=encode_picture(pixels, ".png"),
            )  # fmt: skip
            summary = Summary(value=[Summary.Value(tag=name, image=entry)])
            self.events.file_writer.add_summary(summary, step)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Appends a line to `metrics.jsonl`, and the same numbers to TensorBoard."""
        if self.file is None or self.events is None:
            return
        line = {"step": step, "epoch": round(step / self.steps_per_epoch, 4), **values}
        try:
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
        except OSError as error:  # which does not know the file: the disk is full, say
            raise OSError(error.errno, error.strerror, self.file.name) from None
        for name, value in values.items():
            self.events.add_scalar(name, value, step)
        self.events.flush()


def _on_host(metrics: dict[str, Any]) -> dict[str, float]:
    """What a step gave, once it is finished."""
    return {name: float(value) for name, value in jax.device_get(metrics).items()}


def _forget_after(path: pathlib.Path, step: int) -> None:
    """Takes away the lines of steps that a resumed run will do again.

    And the evaluation of the step it begins at, which it will tell once more.
    """
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            entry = json.loads(line)
            if entry["step"] < step or (entry["step"] == step and "AP" not in entry):
                kept.append(line)
        except (ValueError, KeyError):
            continue  # a line that was cut off when the run was killed
    files.write_text(path, "".join(f"{line}\n" for line in kept))
