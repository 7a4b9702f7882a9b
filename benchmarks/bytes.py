"""Memory traffic by part, as compiled for a GPU or TPU, beside a plain Flax network.

    pip install -e '.[compile]'
    python benchmarks/bytes.py [--device h100 v5e] [--stages 1 4] [--batch 32]

No such device is needed. `gradients` is the training step without the optimiser, `training` the
whole step, `inference` evaluation with flip test. `ours GB` is this network, `plain GB` an equal
one of `nn.Conv`, `nn.BatchNorm`, `nn.max_pool` and `jax.image.resize`. `floor GB` is what the
convolutions alone read and write, with everything else fused into them: each reads its operands and
writes its result once, and so do the two of its gradients.

Every kernel counts, with its operands and results. What a TPU keeps in its VMEM does not.
"""

import collections
import itertools
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks.plain_mspn import PlainMSPN
from benchmarks.report import Report, new_parser
from benchmarks.workload import CROP_HW, TINY, new_adam, random_batch
from mspn_jax import compiled, inference, training
from mspn_jax.devices import REPLICATED, SHARDED, jit, map_over, sharding
from mspn_jax.errors import MissingCompilerError
from mspn_jax.hardware import HARDWARE, absent_devices, check_compiler
from mspn_jax.model import MSPN
from mspn_jax.skeletons import COCO

DTYPE = jnp.bfloat16
PROGRAMS = ("gradients", "training", "inference")


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--device", nargs="+", choices=HARDWARE, default=["h100"])
    parser.add_argument("--program", nargs="+", choices=PROGRAMS, default=PROGRAMS)
    parser.add_argument("--stages", type=int, nargs="+", default=[1], help="1 to 4")
    parser.add_argument("--batch", type=int, default=32, help="crops")
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")  # of this machine, not of libtpu
    try:
        for device in args.device:
            check_compiler(HARDWARE[device], 1)
    except MissingCompilerError as error:
        parser.error(str(error))
    report = Report(args.json)
    size = (TINY if args.quick else {}) | {"dtype": DTYPE}
    for device, stages, program in itertools.product(args.device, args.stages, args.program):
        networks = {
            "ours": MSPN(stages, folded=program == "inference", **size),
            "plain": PlainMSPN(stages, **size),
        }
        parts = {}
        for name, network in networks.items():
            try:
                made = compile_for(device, program, network, args.batch)
            except jax.errors.JaxRuntimeError as error:
                report.say(f"{name} does not compile for {device}: {str(error)[:120]}...")
                continue
            parts[name] = by_part(made)
            memory = made.peak_bytes / 1e9
            report.say(f"{name}: {memory:.2f} GB of memory, compiled in {made.seconds:.0f} s")
        floor = floor_bytes(MSPN(stages, **size), program, args.batch)
        for part in dict.fromkeys(itertools.chain(*parts.values())):
            report.row(
                device=device,
                stages=stages,
                program=program,
                part=part,
                **{f"{name}_GB": parts[name][part] / 1e9 for name in parts},
                floor_GB=floor / 1e9 if part == "all" else "",
            )
        if len(parts) == 2:
            ratio = parts["ours"]["all"] / parts["plain"]["all"]
            report.say(f"ours moves {ratio:.2f} of the plain network's bytes")


def compile_for(device: str, program: str, model: nn.Module, batch: int) -> compiled.Program:
    devices = absent_devices(HARDWARE[device], 1)

    def on(spec, tree):
        where = sharding(spec, devices)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree)

    variables = on(REPLICATED, shapes(model, program))
    rows = on(SHARDED, vars(random_batch(batch, CROP_HW)))
    if program == "inference":
        estimate = inference.estimate_on_devices(
            model, COCO.flip_permutation, flip_test=True, devices=devices
        )
        return compiled.compiled(estimate, variables, rows["crops"])
    adam = new_adam()
    step = training.train_step(model, adam)
    if program == "gradients":
        specs = (REPLICATED, REPLICATED, SHARDED)
        gradients = jit(map_over(step.gradients, specs, REPLICATED, devices), devices)
        return compiled.compiled(gradients, variables["params"], variables["batch_stats"], rows)
    state = jax.eval_shape(lambda variables: training.new_state(variables, adam), variables)
    return compiled.compiled(training.on_all_devices(step, devices), on(REPLICATED, state), rows)


def shapes(model: nn.Module, program: str) -> Any:
    """The shapes of the variables that a program uses."""
    method = "predict" if program == "inference" else "units"
    images = jnp.zeros((1, *CROP_HW, 3))
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, method=method), images)


# The first that holds; op_name is JAX's path of a kernel's last operation.
PARTS: dict[str, Callable[[compiled.Kernel], bool]] = {
    "upsampling": lambda k: "upsample" in k.op_name or "resize" in k.op_name,
    "convolutions": lambda k: "cudnn" in k.target or bool(k.opcodes & {"convolution", "dot"}),
    "pooling": lambda k: (
        any(name in k.op_name for name in ("max_pool", "scatter")) or "reduce-window" in k.opcodes
    ),
    "sums over the batch": lambda k: "MSPN" in k.op_name and "reduce" in k.opcodes,
    "norm, ReLU, adding": lambda k: "MSPN" in k.op_name,
    "copies ahead to VMEM": lambda k: bool(k.opcodes & compiled.COPIES),
    "losses, optimiser, weights": lambda k: True,
}


def by_part(made: compiled.Program) -> dict[str, float]:
    """Part -> bytes; "all" is their sum."""
    total: dict[str, float] = collections.Counter()
    for kernel in compiled.kernels(made.run.as_text()):
        total[next(part for part, holds in PARTS.items() if holds(kernel))] += kernel.num_bytes
    return {part: total[part] for part in PARTS} | {"all": sum(total.values())}


def floor_bytes(model: MSPN, program: str, batch: int) -> float:
    """What the convolutions alone read and write."""
    activations = weights = 0

    def count(call, args, kwargs, context):
        nonlocal activations, weights
        y = call(*args, **kwargs)
        params = context.module.variables.get("params", {})
        if context.method_name == "__call__" and "kernel" in params:
            factor = getattr(context.module, "upsampling", 1) ** 2
            read, written = args[0].size, y.size // factor
            activations += read + written
            weights += params["kernel"].size
        return y

    with nn.intercept_methods(count):
        shapes(model, program)
    width = jnp.dtype(DTYPE).itemsize
    if program == "inference":  # twice for the flip test
        return 2 * batch * activations * width + 4 * weights
    # Forward; then the gradient of the kernel, and that of the input: three such products.
    moments = {"gradients": 0, "training": 7}[program]  # Adam's: three written, four read
    return 3 * batch * activations * width + 4 * weights * (2 + moments)


if __name__ == "__main__":
    main()
