"""Compilation for absent devices.

The tests that need XLA's compilers for them run by `make test-compile`.
"""

import os
import re
import runpy
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest
from xla_flags import QUICK_TO_COMPILE

from commands import HERE, run
from mspn_jax.commands import compiling, configured
from mspn_jax.commands.compiling import AbortError, Outcome, in_a_process, largest_batch, lines
from mspn_jax.compiled import bytes_of_kernels, compiled
from mspn_jax.errors import MissingCompilerError
from mspn_jax.hardware import HARDWARE, INSTALL, Tpu, absent_devices, check_compiler

H100, V5E = HARDWARE["h100"], HARDWARE["v5e"]


def config_of(variant: str, **changed):
    config = runpy.run_path(str(HERE / "configs" / f"{variant}_coco_256x192.py"))["get_config"]()
    with config.unlocked():
        config.update(changed)
    return config


# Without the compilers.


def test_a_batch_that_does_not_fit_is_answered_with_the_largest_that_does():
    """10 GB, and 100 MB a crop."""
    tried = []

    def compile_for(batch):
        tried.append(batch)
        return Outcome(batch, 1.0, 10_000_000_000 + 100_000_000 * batch, 1.0)

    room = int((H100.usable_bytes - 10e9) / 100e6)
    assert largest_batch(compile_for, compile_for(8), H100, 8) == room // 8 * 8
    assert len(tried) <= 4  # the first included
    assert largest_batch(compile_for, compile_for(1000), H100, 8) == room // 8 * 8


def test_a_batch_that_the_compiler_refuses_is_halved_until_it_fits():
    def compile_for(batch):
        if batch > 100:
            return Outcome(batch, error="RESOURCE_EXHAUSTED: ran out of memory")
        return Outcome(batch, 1.0, int(V5E.usable_bytes / 104 * batch), 1.0)

    assert largest_batch(compile_for, compile_for(512), V5E, 8) == 64  # 104 is refused


def test_there_may_be_no_batch_that_fits():
    def compile_for(batch):
        return Outcome(batch, error="RESOURCE_EXHAUSTED: ran out of memory")

    assert largest_batch(compile_for, compile_for(64), V5E, 8) == 0


def test_a_failed_check_of_the_compiler_is_told_and_survived():
    with pytest.raises(AbortError, match=r"XLA aborts: .*tiling.cc:627.* Check failed: a == b"):
        in_a_process(_fails_a_check)
    assert in_a_process(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        in_a_process(divmod, 7, 0)


def _fails_a_check() -> None:
    os.write(2, b"noise\nF1124 12:00:00.0 7 tiling.cc:627] Check failed: a == b \n*** more noise\n")
    os.abort()


def test_the_time_of_a_crop_is_that_of_its_arithmetic_or_of_its_traffic():
    batch = 10
    traffic_bound = Outcome(batch, 2.0, 10**9, batch * H100.bytes_per_second / 500)
    shown = "\n".join(lines(traffic_bound, H100, seconds_of_arithmetic=1 / 800))
    assert "at most     500 crops a second" in shown and "1.00 of 63.7 GB" in shown
    shown = "\n".join(lines(traffic_bound, H100, seconds_of_arithmetic=1 / 400))
    assert "at most     400 crops a second" in shown
    shown = "\n".join(lines(Outcome(batch, 2.0, 10**11, 1.0), H100, 1.0))
    assert "does not fit" in shown
    uncounted = "\n".join(lines(Outcome(batch, 2.0, 10**9), H100, 1 / 400))
    assert "traffic not counted" in uncounted and "at most     400" in uncounted
    assert lines(Outcome(batch, error="why"), H100, 1.0) == ["  does not compile: why"]


def test_operations_are_those_of_the_model():
    """4.87 GMACs forward, twice as much back; with the flip test twice through the last map."""
    config = config_of("mspn50", batch_size=64)
    description = configured.describe(config)
    (training, step_rows, step_flops), (name, rows, flops) = compiling.plans(config, description, 8)
    assert (training, step_rows, name, rows) == ("training", 8, "inference", 8)
    assert step_flops == pytest.approx(6 * 4.87e9, rel=2e-3)
    assert 0.9 < flops / (4 * 4.87e9) < 1


def test_traffic_is_what_the_entry_computation_reads_and_writes():
    text = """HloModule jit_f

%fused_computation (param_0.1: f32[8,64], param_1: bf16[64]) -> bf16[2,64] {
  %param_0.1 = f32[8,64]{1,0} parameter(0)
  %param_1 = bf16[64]{0} parameter(1)
  %part = f32[2,64]{1,0} slice(%param_0.1), slice={[0:2], [0:64]}
  %row = bf16[2,64]{1,0} broadcast(%param_1), dimensions={1}
  %cast = bf16[2,64]{1,0} convert(%part)
  ROOT %sum = bf16[2,64]{1,0} add(%cast, %row)
}

ENTRY %main.7 (x: f32[8,64], y: bf16[64]) -> (bf16[2,64], f32[8,64]) {
  %x = f32[8,64]{1,0} parameter(0)
  %y = bf16[64]{0} parameter(1)
  %fusion = bf16[2,64]{1,0} fusion(%x, %y), kind=kLoop, calls=%fused_computation
  %start = f32[8,64]{1,0} all-reduce-start(%x), replica_groups={{0,1}}, to_apply=%add
  %done = f32[8,64]{1,0} all-reduce-done(%start)
  ROOT %out = (bf16[2,64]{1,0}, f32[8,64]{1,0}) tuple(%fusion, %done)
}
"""
    fusion = 2 * 64 * 4 + 64 * 2 + 2 * 64 * 2  # two rows of x, y, and the result
    all_reduce = 2 * 8 * 64 * 4
    assert bytes_of_kernels(text) == fusion + all_reduce


def test_a_loop_counts_as_often_as_it_runs():
    text = """HloModule jit_f

%body (state: (s32[], f32[8])) -> (s32[], f32[8]) {
  %state = (s32[], f32[8]{0}) parameter(0)
  %row = f32[8]{0} get-tuple-element(%state), index=1
  %twice = f32[8]{0} add(%row, %row)
  ROOT %next = (s32[], f32[8]{0}) tuple(%state, %twice)
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %start = (s32[], f32[8]{0}) tuple(%x)
  %loop = (s32[], f32[8]{0}) while(%start), condition=%c, body=%body, \
backend_config={"known_trip_count":{"n":"5"},"known_init_step":{"init":"0","step":"1"}}
  ROOT %out = f32[8]{0} get-tuple-element(%loop), index=1
}
"""
    assert bytes_of_kernels(text) == 5 * 3 * 8 * 4


def test_what_a_tpu_keeps_on_the_chip_does_not_count():
    """Padded to tiles: (8, 100) float32 to (8, 128), (20, 64) bfloat16 to (24, 128)."""
    text = """HloModule jit_f

ENTRY %main (x: f32[8,100], y: bf16[20,64]) -> f32[8,100] {
  %x = f32[8,100]{1,0:T(8,128)} parameter(0)
  %y = bf16[20,64]{1,0:T(8,128)(2,1)} parameter(1)
  %ahead = (f32[8,100]{1,0:T(8,128)S(1)}, f32[8,100]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%x)
  %x.1 = f32[8,100]{1,0:T(8,128)S(1)} copy-done(%ahead)
  %part = ((bf16[20,64]{1,0:T(8,128)(2,1)}), bf16[8,64]{1,0:T(8,128)(2,1)S(1)}, s32[]{:S(2)}) \
slice-start(%y), slice={[0:8], [0:64]}
  %y.1 = bf16[8,64]{1,0:T(8,128)(2,1)S(1)} slice-done(%part)
  %inner = f32[8,100]{1,0:T(8,128)S(1)} fusion(%x.1, %y.1, %y), kind=kOutput, calls=%unknown
  ROOT %out = f32[8,100]{0,1:T(8,128)} negate(%inner)
}
"""
    ahead, part = 8 * 128 * 4, 8 * 128 * 2
    inner = 24 * 128 * 2
    out = 104 * 128 * 4  # the first axis is the minor one
    assert bytes_of_kernels(text) == ahead + part + inner + out


def test_the_count_of_traffic_is_xlas_where_both_count():
    def f(x, y):
        return jnp.tanh(x @ y), (x * 2).sum()

    program = compiled(jax.jit(f), jnp.ones((64, 128)), jnp.ones((128, 32)))
    assert 0.5 < program.bytes_moved / program.run.cost_analysis()["bytes accessed"] < 2


def test_devices_that_do_not_exist_are_refused():
    with pytest.raises((MissingCompilerError, ValueError), match=r"libtpu is not|at most 256"):
        check_compiler(V5E, 1000)


def test_what_is_not_installed_is_named():
    def missing(hardware):
        try:
            check_compiler(hardware, 1)
        except MissingCompilerError as error:
            return str(error)

    if missing(H100) is None:
        pytest.skip("JAX's plugin for CUDA is installed")
    assert INSTALL in missing(H100)
    done = run(
        "mspn_jax", "compile", "--config", HERE / "configs/quickstart.py", "--device", "h100"
    )
    assert done.returncode == 1
    assert INSTALL in done.stderr and len(done.stderr.splitlines()) == 1


# With them.


@pytest.fixture(autouse=True)
def full_optimization(monkeypatch):
    """Restores what conftest.py lowers for CPUs."""
    flags = os.environ["XLA_FLAGS"].replace(QUICK_TO_COMPILE, "")
    monkeypatch.setenv("XLA_FLAGS", flags)


class Facts(NamedTuple):
    """What the tests ask of a compiled program, whose text has megabytes.

    Attributes:
      float_types: of all arrays in it.
      convolutions: (type of the result, precision) of each.
      upsampling: precision of each product of matrices that upsamples.
      sums: types of what reductions give.
      calls_host: whether it calls Python.
    """

    seconds: float
    peak_bytes: int
    bytes_moved: float
    float_types: set[str]
    convolutions: set[tuple[str, str]]
    upsampling: set[str]
    sums: set[str]
    calls_host: bool


def compile_facts(config, device: str, num_devices: int, program: str) -> Facts:
    jax.config.update("jax_platforms", "cpu")
    devices = absent_devices(HARDWARE[device], num_devices)
    description = configured.describe(config)
    build = {"training": compiling.training_step, "inference": compiling.inference}[program]
    made = compiled(*build(config, description, devices, config.batch_size))
    # A TPU's compiler makes the greatest value bfloat16 where only its index is used.
    text = re.sub(r"\(bf16\[[\d,]*\]\S*, s32\[", "(s32[", made.run.as_text())
    convolutions, upsampling = set(), set()
    for line in text.splitlines():
        if "__cudnn$conv" not in line and not re.search(r" (convolution|dot)\(", line):
            continue
        result = re.search(r"= \(?(\w+)\[", line)[1]
        precision = re.search(r"operand_precision=\{([\w,]*)\}", line)
        stated = precision[1] if precision else "default"
        if "upsample" in line:
            upsampling.add(stated)
        else:
            convolutions.add((result, stated))
    return Facts(
        made.seconds,
        made.peak_bytes,
        made.bytes_moved,
        set(re.findall(r"\b(f64|f32|bf16|f16|f8\w*|tf32)\[", text)),
        convolutions,
        upsampling,
        set(re.findall(r"= (\w+)\[[\d,]*\]\S* reduce\(", text)),
        "callback" in text,
    )


def facts(config, device: str, num_devices: int = 1, program: str = "training") -> Facts:
    try:
        check_compiler(HARDWARE[device], num_devices)
    except MissingCompilerError as error:
        pytest.skip(f"{error}; or run: make test-compile")
    return in_a_process(compile_facts, config, device, num_devices, program)


def check_precision(found: Facts, dtype: str) -> None:
    assert found.sums <= {"f32", "pred", "s32"}
    assert found.upsampling <= {"highest,highest"}
    assert not found.calls_host
    # The types of the two operands that are multiplied. Added ones, such as a bias, may differ.
    stated = {tuple(precision.split(",")[:2]) for _, precision in found.convolutions}
    if dtype == "float32":
        assert found.float_types == {"f32"}
        assert stated == {("highest", "highest")}
    else:
        assert found.float_types == {"f32", "bf16"}
        assert ("bf16", "default") in found.convolutions and stated == {("default",)}


@pytest.mark.slow
@pytest.mark.parametrize("program", ["training", "inference"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("num_devices", [1, 8])
def test_mspn50_compiles_for_gpus(program, dtype, num_devices):
    found = facts(
        config_of("mspn50", dtype=dtype, batch_size=32 * num_devices), "h100", num_devices, program
    )
    check_precision(found, dtype)
    assert found.peak_bytes < H100.usable_bytes
    most_gb = {
        ("training", "bfloat16"): 17.2,  # one device 16.2; eight also move their all-reduces
        ("training", "float32"): 32.5,
        ("inference", "bfloat16"): 4.9,
        ("inference", "float32"): 14.5,
    }
    assert found.bytes_moved <= most_gb[program, dtype] * 1e9


@pytest.mark.slow
@pytest.mark.parametrize("program", ["training", "inference"])
def test_four_stages_compile_for_a_gpu(program):
    found = facts(config_of("4xmspn50", dtype="bfloat16", batch_size=32), "h100", 1, program)
    check_precision(found, "bfloat16")
    assert found.peak_bytes < H100.usable_bytes


@pytest.mark.slow
@pytest.mark.parametrize("program", ["training", "inference"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("num_devices", [1, 8])
def test_a_smaller_network_compiles_for_tpus(program, dtype, num_devices):
    """A TPU's compiler takes minutes for a network of full size.

    Smaller crops would have maps of one pixel, whose upsampling XLA makes a sum in bfloat16.
    """
    config = config_of("mspn50", dtype=dtype, batch_size=8 * num_devices, crop_hw=(64, 64))
    config.model.blocks_per_unit = (1, 1, 1, 1)
    config.model.stem_channels, config.model.unit_channels = 16, 32
    found = facts(config, "v5e", num_devices, program)
    check_precision(found, dtype)
    assert isinstance(V5E, Tpu) and found.peak_bytes < V5E.usable_bytes


@pytest.mark.slow
def test_the_command_tells_what_a_device_can_do():
    try:
        check_compiler(H100, 1)
    except MissingCompilerError as error:
        pytest.skip(f"{error}; or run: make test-compile")
    arguments = ("mspn_jax", "compile", "--config", HERE / "configs/quickstart.py")
    done = run(*arguments, "--device", "h100", "--program", "inference", "--config.data.root=none")
    assert done.returncode == 0, done.stderr
    for word in ("compiled in", "memory", "a crop", "at most", "largest"):
        assert word in done.stdout
    done = run(
        *arguments,
        "--device",
        "l4",
        "--program",
        "training",
        "--config.batch_size=200000",
        "--nolargest_batch",
    )
    assert done.returncode == 1 and "does not fit" in done.stdout
