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
import tensorboardX
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

log = logging.getLogger(__name__)


class TrainingReport:
    """Use as a context; once a step: `waiting_for_data` around the wait, then `step`.

    On a terminal it shows a bar, elsewhere a line every `every_steps`. Only the first process
    writes.
    """

    def __init__(
        self, workdir: str | os.PathLike, *, first_step: int, num_steps: int,
        steps_per_epoch: int, batch_size: int, every_steps: int,
    ):  # fmt: skip
        self.num_steps = num_steps
        self.steps_per_epoch = steps_per_epoch
        self.batch_size = batch_size
        self.every_steps = every_steps
        self.bar = None
        self.file = self.events = None
        self._in_flight: Any = None
        self._stack = contextlib.ExitStack()
        if jax.process_index() == 0:
            path = pathlib.Path(workdir) / "metrics.jsonl"
            _forget_after(path, first_step)
            self.file = self._stack.enter_context(path.open("a"))
            self.events = self._stack.enter_context(
                tensorboardX.SummaryWriter(str(workdir), purge_step=first_step + 1)
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
        self._stack.close()

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

    def step(self, step: int, metrics: dict[str, Any], learning_rate: Callable[[int], Any]) -> None:
        """Takes the metrics of the step that was just started.

        Waits until the step before is finished: the devices have always one more to go on with,
        and the host is never further ahead.

        Args:
          step: how many steps are done with this one.
          metrics: of `training.train_step`, still on the devices.
          learning_rate: the schedule.
        """
        self._steps += 1
        jax.block_until_ready(self._in_flight)
        self._in_flight = metrics
        if step % self.every_steps and step < self.num_steps:
            return
        # Of this step alone: a mean since the last line would depend on where a run was resumed.
        now = {name: float(values[0]) for name, values in jax.device_get(metrics).items()}
        elapsed = time.perf_counter() - self._since
        speed = {
            "crops_per_second": self._steps * self.batch_size / elapsed,
            "data_wait": self._waited / elapsed,
        }
        self._restart_clock()
        self.write(step, {**now, "learning_rate": float(learning_rate(step - 1)), **speed})
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

    def write(self, step: int, values: dict[str, float]) -> None:
        """Appends a line to `metrics.jsonl`, and the same numbers to TensorBoard."""
        if self.file is None or self.events is None:
            return
        line = {"step": step, "epoch": round(step / self.steps_per_epoch, 4), **values}
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        for name, value in values.items():
            self.events.add_scalar(name, value, step)
        self.events.flush()


def _forget_after(path: pathlib.Path, step: int) -> None:
    """Takes away the lines of steps that a resumed run will do again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError):
            continue  # a line that was cut off when the run was killed
    path.write_text("".join(f"{line}\n" for line in kept))
