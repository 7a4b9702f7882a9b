"""What a stage, a batch and a device more cost; and whether anything compiles twice.

    python benchmarks/scale.py [--stages 1 2 3 4] [--batch 4 8 16] [--devices 1 2] [--of forward]

Stages: the time of a training step and of a forward pass over that of the first of --stages, beside
the ratio of their operations. Batches: time and memory over those of the first. Devices: crops a
second over those of the first, each device with a batch of its own. On a CPU the devices are made,
and share its cores: then the ratio should stay near 1, and what it lacks is what sharing costs.
Last, a short training and evaluation: programs compiled after the first step of each should be 0.
"""

import argparse
import pathlib
import sys
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks.compiled import Program, compiled, compiled_step
from benchmarks.report import Report, new_parser
from benchmarks.timing import in_turn, ratio, spread
from benchmarks.workload import folded, new_adam, new_network, new_state, random_batch
from mspn_jax import inference, training
from mspn_jax.data import evaluation_set, pipeline
from mspn_jax.data.records import open_records
from mspn_jax.devices import REPLICATED, SHARDED, on_each_device, replicate, shard
from mspn_jax.evaluation import scoring
from mspn_jax.folding import fold
from mspn_jax.skeletons import COCO
from mspn_jax.synthetic import people

KINDS = ("step", "forward")
COMPILED = "/jax/core/compile/backend_compile_duration"  # JAX's own event


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--stages", type=int, nargs="*", default=[1, 2, 3, 4])
    parser.add_argument("--batch", type=int, nargs="*", default=[4, 8, 16], help="with one stage")
    parser.add_argument("--devices", type=int, nargs="*", default=[], help="with one stage")
    parser.add_argument("--of", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    args = parser.parse_args()
    if args.devices:
        jax.config.update("jax_num_cpu_devices", max(args.devices))
        if max(args.devices) > jax.local_device_count():
            sys.exit(f"error: --devices {max(args.devices)}: here are {jax.local_device_count()}")

    report = Report(args.json)
    smallest = min(args.batch, default=8)
    for kind in args.of:
        for name, cases in (
            ("stages", [Case(stages=n, batch=smallest) for n in args.stages]),
            ("batch", [Case(batch=n) for n in args.batch]),
            ("devices", [Case(batch=smallest, devices=n) for n in args.devices]),
        ):
            if len(cases) > 1:
                compare(kind, name, cases, args, report)
    report.row(programs_compiled_after_the_first_step_and_evaluation=compilations())


class Case(NamedTuple):
    """What is run; `batch` is of each device."""

    stages: int = 1
    batch: int = 8
    devices: int = 1


def compare(kind: str, name: str, cases: list[Case], args: argparse.Namespace, report: Any) -> None:
    """Times the cases in turn, and prints each over the first."""
    made = [ready(kind, case, args) for case in cases]
    seconds = in_turn({str(case): way for case, (_, way) in zip(cases, made)}, args.repeats)
    first, (first_program, _) = cases[0], made[0]
    for case, (program, _) in zip(cases, made):
        crops, first_crops = (c.batch * c.devices for c in (case, first))
        pace = [crops / t for t in seconds[str(case)]]
        columns: dict[str, Any] = {
            "of": kind,
            name: getattr(case, name),
            "crops_per_s": spread(pace),
            "time_over_first": ratio(seconds[str(case)], seconds[str(first)]),
            "operations_over_first": program.operations * case.devices
            / (first_program.operations * first.devices),
            "memory_a_device_GB": program.peak_bytes / 1e9,
            "memory_over_first": program.peak_bytes / first_program.peak_bytes,
        }  # fmt: skip
        if name == "devices":
            first_pace = [first_crops / t for t in seconds[str(first)]]
            columns["crops_per_s_over_first"] = ratio(pace, first_pace)
        report.row(**columns, compile_s=program.seconds)


def ready(kind: str, case: Case, args: argparse.Namespace) -> tuple[Program, Callable[[], Any]]:
    """(program, way) of a case."""
    network = new_network(case.stages, args.dtype, args.quick)
    devices = jax.local_devices()[: case.devices]
    batch = random_batch(case.batch * case.devices, network.crop_hw)
    dealt = shard(vars(batch), devices)

    if kind == "forward":  # inference.estimate_on_devices, on some of them
        network = folded(network)
        variables = replicate(network.variables, devices)

        def on_one(variables: Any, crops: Any) -> Any:
            flip_test = False
            return inference.estimate(
                network.model, variables, crops, COCO.flip_permutation, flip_test
            )

        estimate = on_each_device(on_one, (REPLICATED, SHARDED), SHARDED, devices)
        program = compiled(estimate, variables, dealt["crops"])
        return program, lambda: jax.device_get(program.run(variables, dealt["crops"]))

    state: Any = replicate(training.new_state(network.variables, new_adam()), devices)
    step = training.train_step(network.model, new_adam())
    program = compiled_step(training.on_all_devices(step, devices), state, dealt)

    def way() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(program.run(state, dealt))

    return program, way


def compilations(num_steps: int = 6) -> int:
    """Trains and evaluates a tiny network as train.py does; counts what is compiled after the
    first step and the first evaluation."""
    counts = [0]

    def count(event: str, duration_secs: float, **details: Any) -> None:
        counts[-1] += event == COMPILED

    jax.monitoring.register_event_duration_secs_listener(count)
    network = new_network(1, "float32", quick=True)
    batch_size = 8 * jax.local_device_count()
    with tempfile.TemporaryDirectory() as root:
        splits = {"train2017": 24, "val2017": 12}
        people.write_dataset(root, splits)
        records = open_records(root, "train2017", COCO, only_with_people=True)
        validation = evaluation_set.open_split(root, "val2017", COCO)
        step = training.on_all_devices(training.train_step(network.model, new_adam()))
        model = network.model.clone(folded=True)
        estimate = inference.estimate_on_devices(model, COCO.flip_permutation)
        batches = pipeline.training_batches(
            records, COCO, crop_hw=network.crop_hw, batch_size=batch_size
        )
        state: Any = new_state(network)
        for i in range(num_steps):
            state, _ = step(state, shard(vars(next(batches))))
            if i in (0, num_steps - 1):
                scoring.evaluate(
                    estimate, fold(state.variables), validation, COCO, crop_hw=network.crop_hw,
                    batch_size=batch_size, padding=1.25,
                )  # fmt: skip
            if i == 0:
                assert counts[-1] > 0, f"nothing was compiled: does JAX still send {COMPILED}?"
                counts.append(0)
        batches.close()
    return counts[-1]


if __name__ == "__main__":
    main()
