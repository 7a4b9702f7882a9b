"""Whether XLA's kernels for CPUs are better left to YNN or to Eigen, for what `cpu.py` decides.

    python benchmarks/ynn.py [--of forward step] [--stages 1] [--batch 8] [--repeats 7]

Compiles inference and the gradients of a training step once for each way, loads them again from
JAX's cache, and runs them in turn; the time of each over that of XLA's own choice.
"""

import functools
import pathlib
import sys
import tempfile
import time
from typing import Any

import jax

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks.report import Report, new_parser
from benchmarks.timing import in_turn, ratio, spread
from benchmarks.workload import (
    Network,
    folded,
    new_adam,
    new_network,
    predict_heatmaps,
    random_batch,
)
from mspn_jax import training
from mspn_jax.devices import REPLICATED, SHARDED, on_each_device, replicate, shard

OURS = "products too (ours)"
WAYS = {  # what stays with YNN
    "XLA's own": ["INDIVIDUAL_CONVOLUTION", "INDIVIDUAL_DOT", "REDUCE"],
    "convolutions by Eigen": ["INDIVIDUAL_DOT", "REDUCE"],
    OURS: ["REDUCE"],
    "sums too": [],
}


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--of", nargs="+", choices=("forward", "step"), default=["forward", "step"])
    parser.add_argument("--stages", type=int, default=1)
    parser.add_argument("--batch", type=int, nargs="+", default=[8])
    args = parser.parse_args()
    if jax.default_backend() != "cpu":
        sys.exit("error: YNN and Eigen are XLA's on CPUs alone")
    report = Report(args.json)
    network = new_network(args.stages, "float32", args.quick)
    with tempfile.TemporaryDirectory() as cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        for of in args.of:
            for batch_size in args.batch:
                measure(of, network, batch_size, args.repeats, report)


def measure(of: str, network: Network, batch_size: int, repeats: int, report: Report) -> None:
    function, arguments = (forward if of == "forward" else gradients)(network, batch_size)
    lowered = function.lower(*arguments)
    load_seconds, ways = {}, {}
    for name, types in WAYS.items():
        program, load_seconds[name] = loaded(lowered, types, repeats)
        ways[name] = functools.partial(run, program, arguments)
    seconds = in_turn(ways, repeats)
    for name, times in seconds.items():
        report.row(
            of=of, stages=network.model.num_stages, batch=batch_size, way=name,
            load_s=spread(load_seconds[name]), milliseconds=spread([1e3 * t for t in times]),
            time_over_xlas_own=ratio(times, seconds["XLA's own"]),
        )  # fmt: skip


def loaded(lowered: Any, types: list[str], repeats: int) -> tuple[Any, list[float]]:
    """The program with these types left to YNN, and the seconds that loading it takes."""
    program, seconds = lowered.compile(options(types)), []
    for _ in range(repeats):
        jax.clear_caches()
        start = time.perf_counter()
        program = lowered.compile(options(types))
        seconds.append(time.perf_counter() - start)
    return program, seconds


def options(types: list[str]) -> dict[str, str]:
    fusions = ",".join(f"LIBRARY_FUSION_TYPE_{name}" for name in types)
    return {"xla_cpu_experimental_ynn_fusion_type": fusions}


def run(program: Any, arguments: tuple) -> None:
    jax.block_until_ready(program(*arguments))


def forward(network: Network, batch_size: int) -> tuple[Any, tuple]:
    network = folded(network)
    crops = shard(random_batch(batch_size, network.crop_hw).crops)
    function = on_each_device(
        lambda v, c: predict_heatmaps(network.model, v, c, False), (REPLICATED, SHARDED), SHARDED
    )
    return function, (replicate(network.variables), crops)


def gradients(network: Network, batch_size: int) -> tuple[Any, tuple]:
    step = training.on_all_devices(training.train_step(network.model, new_adam()))
    variables = replicate(network.variables)
    batch = shard(vars(random_batch(batch_size, network.crop_hw)))
    return step.gradients, (variables["params"], variables["batch_stats"], batch)


if __name__ == "__main__":
    main()
