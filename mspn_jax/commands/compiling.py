"""Compiles a config's programs for devices that are absent, and reports memory and traffic."""

import math
import multiprocessing
import os
import pathlib
import re
import sys
import tempfile
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mspn_jax import training
from mspn_jax.commands import configured, stopping
from mspn_jax.compiled import compiled
from mspn_jax.cost import costs
from mspn_jax.devices import REPLICATED, SHARDED, Devices, sharding
from mspn_jax.hardware import HARDWARE, Gpu, Tpu, absent_devices
from mspn_jax.variables import variable_shapes
from mspn_jax.weights.description import Description

_STEPS_PER_EPOCH = 1000  # only scales the learning rate; the program is the same
_TRIES = 3
_WORTH_A_TRY = 1.02  # times the batch that is known to fit


class Outcome(NamedTuple):
    """What the compiler tells of one device's program."""

    batch: int  # crops a device
    seconds: float | None = None
    peak_bytes: int | None = None
    # None with micro-batches on a TPU: its compiler hides how often a loop runs
    bytes_moved: float | None = None
    error: str = ""  # why it does not compile; the other values are None then

    def fits(self, hardware: Gpu | Tpu) -> bool:
        return self.peak_bytes is not None and self.peak_bytes <= hardware.usable_bytes

    @property
    def is_too_large(self) -> bool:
        """A TPU's compiler refuses what does not fit."""
        return "RESOURCE_EXHAUSTED" in self.error


def plans(
    config: ConfigDict, description: Description, num_devices: int
) -> list[tuple[str, int, float]]:
    """(program, crops a device, floating-point operations of a crop's convolutions), by program."""
    forward, predict = (
        2.0 * sum(row.macs for row in costs(description.new_model(), description.crop_hw, method))
        for method in ("__call__", "predict")
    )
    passes = 2 if config.eval.flip_test else 1
    return [
        ("training", config.batch_size // num_devices, 3 * forward),
        ("inference", math.ceil(config.eval.batch_size / num_devices), passes * predict),
    ]


def lines(outcome: Outcome, hardware: Gpu | Tpu, seconds_of_arithmetic: float) -> list[str]:
    """The lines to print for a program. `seconds_of_arithmetic` is for one crop."""
    if outcome.peak_bytes is None:
        return [f"  does not compile: {outcome.error}"]
    usable = hardware.usable_bytes / 1e9
    moved = (outcome.bytes_moved or 0) / outcome.batch
    seconds_of_traffic = moved / hardware.bytes_per_second
    traffic = (
        f"{seconds_of_traffic * 1e6:.1f} us of memory traffic ({moved / 1e6:.0f} MB)"
        if moved
        else "memory traffic not counted"
    )
    return [
        f"  compiled in {outcome.seconds:.1f} s",
        f"  memory      {outcome.peak_bytes / 1e9:.2f} of {usable:.1f} GB a device"
        + ("" if outcome.fits(hardware) else ": does not fit"),
        f"  a crop      {seconds_of_arithmetic * 1e6:.1f} us of arithmetic, {traffic}",
        f"  at most     {1 / max(seconds_of_arithmetic, seconds_of_traffic):,.0f} crops a second a"
        " device",
    ]


def largest_batch(
    compile_for: Callable[[int], Outcome], outcome: Outcome, hardware: Gpu | Tpu, step: int
) -> int:
    """The largest batch a device that was compiled and fits, a multiple of `step`; 0 for none.

    Memory grows almost linearly with the batch, so a few guesses are enough.
    """
    while outcome.is_too_large and outcome.batch >= 2 * step:
        outcome = compile_for(outcome.batch // 2 // step * step)
    largest = outcome.batch if outcome.fits(hardware) else 0
    seen = [(0, 0)]  # crops, bytes
    for _ in range(_TRIES):
        if not outcome.peak_bytes:
            break
        seen.append((outcome.batch, outcome.peak_bytes))
        (crops, num_bytes), (more_crops, more_bytes) = sorted(seen)[-2:]
        slope = (more_bytes - num_bytes) / (more_crops - crops)
        guess = int(crops + (hardware.usable_bytes - num_bytes) / slope) // step * step
        if guess <= _WORTH_A_TRY * largest:
            break
        outcome = compile_for(guess)
        if outcome.fits(hardware):
            largest = guess
    return largest


class AbortError(RuntimeError):
    """A process aborted, for example in a failed check of XLA, which Python cannot catch."""


def in_a_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls the function in a process of its own. Raises AbortError if that one aborts."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    with tempfile.NamedTemporaryFile() as said:
        process = context.Process(
            target=_call, args=(sending, said.name, function, arguments), daemon=True
        )
        process.start()
        sending.close()
        try:
            result, error = receiving.recv()
        except EOFError:
            text = pathlib.Path(said.name).read_text(errors="replace")
            reason = re.search(r"\S+ Check failed: .*|Fatal.*", text)
            raise AbortError(
                f"XLA aborts: {reason[0] if reason else 'without a message'}"
            ) from None
        finally:
            process.kill()  # it may compile for minutes more
            process.join()
    if error is not None:
        raise error
    return result


def _call(
    sending: Connection, said: str, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    """Sends (result, None) or (None, exception). Ends with the process that started this one."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.dup2(os.open(said, os.O_WRONLY | os.O_APPEND), sys.stderr.fileno())  # libtpu logs much
    try:
        sending.send((function(*arguments), None))
    except Exception as error:
        sending.send((None, error))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def compile_program(
    config: ConfigDict,
    description: Description,
    name: str,
    num_devices: int,
    program: str,
    batch: int,
) -> Outcome:
    jax.config.update("jax_platforms", "cpu")
    devices = absent_devices(HARDWARE[name], num_devices)
    build = {"training": training_step, "inference": inference}[program]
    try:
        made = compiled(*build(config, description, devices, batch * num_devices))
    except jax.errors.JaxRuntimeError as error:
        return Outcome(batch, error=str(error).partition("\n")[0])
    counted = isinstance(HARDWARE[name], Gpu) or config.accumulate == 1 or program != "training"
    return Outcome(batch, made.seconds, made.peak_bytes, made.bytes_moved if counted else None)


def training_step(
    config: ConfigDict, description: Description, devices: Devices, rows: int
) -> tuple[Any, Any, Any]:
    """The jitted training step of `mspn train`, and the shapes of its state and batch."""
    network = configured.new_training(
        config,
        description,
        steps_per_epoch=_STEPS_PER_EPOCH,
        num_steps=_STEPS_PER_EPOCH * config.num_epochs,
    )
    variables = variable_shapes(network.model, description.crop_hw)
    state = jax.eval_shape(
        lambda variables: training.new_state(variables, network.optimizer, config.ema_decay > 0),
        variables,
    )
    num_keypoints = description.new_skeleton().num_keypoints
    batch = {
        "crops": jax.ShapeDtypeStruct((rows, *description.crop_hw, 3), jnp.uint8),
        "keypoints_crop_xy": jax.ShapeDtypeStruct((rows, num_keypoints, 2), jnp.float32),
        "visibility": jax.ShapeDtypeStruct((rows, num_keypoints), jnp.float32),
        "signal": jax.ShapeDtypeStruct((len(devices or jax.devices()),), jnp.int32),
    }
    jitted = training.on_all_devices(stopping.with_signals(network.step), devices)
    return jitted, _placed(state, REPLICATED, devices), _placed(batch, SHARDED, devices)


def inference(
    config: ConfigDict, description: Description, devices: Devices, rows: int
) -> tuple[Any, Any, Any]:
    """The jitted inference, and the shapes of its variables and crops."""
    jitted = configured.new_estimate(config, description, devices=devices)
    model = description.new_model(folded=True)
    variables = variable_shapes(model, description.crop_hw, method="predict")
    crops = jax.ShapeDtypeStruct((rows, *description.crop_hw, 3), jnp.uint8)
    return jitted, _placed(variables, REPLICATED, devices), _placed(crops, SHARDED, devices)


def _placed(shapes: Any, spec: Any, devices: Devices) -> Any:
    where = sharding(spec, devices)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), shapes
    )
