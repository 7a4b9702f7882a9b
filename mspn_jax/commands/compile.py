"""Compiles a config for devices that this machine does not need to have. Runs nothing:
mspn compile --config FILE --device h100 [--devices 8] [--config.any.key=value]

For the training step and for inference it prints whether and how fast they compile; the memory that
a device needs and has; the least time for a crop's operations and memory traffic, and so the most
crops a second; and the largest batch that fits. The exit status is 1 if a program does not compile
or does not fit. The device's compiler must be installed, on Linux and x86-64:
pip install 'mspn-jax[compile]'.
"""

import math
import sys

import jax
import jax.numpy as jnp
from absl import flags
from ml_collections import config_flags

from mspn_jax.commands import compiling, configured
from mspn_jax.errors import MissingCompilerError, UsageError
from mspn_jax.hardware import HARDWARE, check_compiler
from mspn_jax.storage import files

_CONFIG = config_flags.DEFINE_config_file("config", None, "a file of configs/")
_DEVICE = flags.DEFINE_enum("device", None, list(HARDWARE), "what to compile for", required=True)
_DEVICES = flags.DEFINE_integer("devices", 1, "how many of them", lower_bound=1)
_PROGRAM = flags.DEFINE_enum(
    "program", "both", ["training", "inference", "both"], "what to compile"
)
_LARGEST_BATCH = flags.DEFINE_bool(
    "largest_batch", True, "look for the largest batch that fits: compiles once or twice more"
)
_JSON = flags.DEFINE_string("json", None, "a file to write the outcome to")
flags.mark_flag_as_required("config")

jax.config.update("jax_platforms", "cpu")  # leaves real devices untouched

_ALIGNMENT = 8  # the largest batch is a multiple of it


def main() -> None:
    config, hardware, num_devices = _CONFIG.value, HARDWARE[_DEVICE.value], _DEVICES.value
    description = configured.describe(config)
    configured.check_batch(config.batch_size, config.accumulate, num_devices)
    dtype = jnp.dtype(config.dtype)
    try:
        check_compiler(hardware, num_devices)
    except (MissingCompilerError, ValueError) as error:
        raise UsageError(f"--device {error}") from None
    print(
        f"{config.variant} in {dtype.name} for {num_devices} x {hardware.kind},"
        f" by jax {jax.__version__}"
    )
    found = {}
    for name, batch, flops in compiling.plans(config, description, num_devices):
        if _PROGRAM.value not in (name, "both"):
            continue

        program = (config, description, hardware.name, num_devices, name)

        def compile_for(batch: int, program: tuple = program) -> compiling.Outcome:
            try:
                return compiling.in_a_process(compiling.compile_program, *program, batch)
            except compiling.AbortError as error:
                return compiling.Outcome(batch, error=str(error))

        print(f"\n{name}, {batch} crops a device", flush=True)
        outcome = compile_for(batch)
        lines = compiling.lines(outcome, hardware, flops / hardware.flops(dtype))
        print("\n".join(lines), flush=True)
        found[name] = outcome._asdict() | {"flops_per_crop": flops, "fits": outcome.fits(hardware)}
        if _LARGEST_BATCH.value and (outcome.peak_bytes or outcome.is_too_large):
            step = math.lcm(_ALIGNMENT, config.accumulate if name == "training" else 1)
            largest = compiling.largest_batch(compile_for, outcome, hardware, step)
            print(f"  largest     batch {largest:,} a device, {num_devices * largest:,} in all")
            found[name]["largest_batch"] = largest
    if _JSON.value:
        files.write_json(_JSON.value, found, indent=2)
    if not all(each["fits"] for each in found.values()):
        sys.exit(1)
