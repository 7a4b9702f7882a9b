"""The time of each part of inference or of a training step, on a CPU.

    python benchmarks/parts.py [--of forward step] [--stages 1] [--batch 8] [--repeats 5] [--torch]

`jax.profiler` traces each round. Its events name the compiled program's instructions, whose
metadata names the model's operation. Parts that run at the same time add up to more than the whole.
Convolutions and products run on Eigen's threads, where a trace sees only their start: they are
taken to last until the next instruction starts.

--torch adds PyTorch, channels-last, by `torch.profiler`. Both are traced in turn, round by round.
"""

import collections
import functools
import itertools
import pathlib
import re
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks import beside
from benchmarks.compiled import compiled, two_programs
from benchmarks.report import Report, new_parser
from benchmarks.step import torch_step
from benchmarks.timing import spread
from benchmarks.workload import (
    Network,
    folded,
    heatmaps_on_devices,
    new_adam,
    new_network,
    new_state,
    random_batch,
)
from mspn_jax import training
from mspn_jax.devices import replicate, shard

INSTRUCTION = re.compile(
    r"^\s+(?:ROOT )?%(?P<name>[\w.\-]+) = (?:\([^)]*\)|\S+) (?P<opcode>[\w\-]+)\("
    r"(?:.*op_name=\"(?P<origin>[^\"]*)\")?"
)
ON_EIGENS_THREADS = {
    "convolution": "convolutions: 3x3, stem",
    "dot": "products: 1x1 convolutions, resizing",
}
OTHERS = {
    "reduce_sum": "sums of batch norm",
    "reduce_window_max": "max pooling",
    "select_and_scatter_add": "max pooling",
    "": "what XLA adds: transposed copies, max pooling's gradient",
}


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--of", nargs="+", choices=("forward", "step"), default=["forward", "step"])
    parser.add_argument("--stages", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--torch", action="store_true", help="beside PyTorch")
    args = parser.parse_args()
    if jax.default_backend() != "cpu":
        sys.exit("error: needs a CPU: only there are a trace's events the program's instructions")
    report = Report(args.json)
    network = new_network(args.stages, "float32", args.quick)
    theirs = beside.torch_beside(network, ["channels-last"] if args.torch else [], report)
    for of in args.of:
        report.say(f"{of}, batch {args.batch}, {args.stages} stages:")
        programs, way = (forward if of == "forward" else step)(network, args.batch)
        traces = {"ours": functools.partial(traced, programs, way)}
        if theirs is not None:
            from benchmarks import torch_parts

            their_way = torchs_way(of, network, args.batch, theirs)
            traces["PyTorch"] = functools.partial(torch_parts.traced, their_way)
        for whose, rounds in in_rounds(traces, args.repeats).items():
            parts = {part: spread([each[part] for each, _ in rounds]) for part in rounds[0][0]}
            for part, milliseconds in sorted(parts.items(), key=lambda entry: -entry[1].median):
                report.row(whose=whose, part=part, milliseconds=milliseconds)
            report.row(whose=whose, whole_milliseconds=spread([1e3 * t for _, t in rounds]))


Trace = Callable[[], tuple[collections.Counter, float]]


def in_rounds(
    traces: dict[str, Trace], repeats: int
) -> dict[str, list[tuple[collections.Counter, float]]]:
    """What each trace finds, in turn; the first two rounds warm up and are not counted."""
    found: dict[str, list] = {name: [] for name in traces}
    for counted in range(-2, repeats):
        for name, trace in traces.items():
            result = trace()
            if counted >= 0:
                found[name].append(result)
    return found


def torchs_way(
    of: str, network: Network, batch_size: int, theirs: beside.Torch
) -> Callable[[], Any]:
    batch = random_batch(batch_size, network.crop_hw)
    (setup,) = theirs.setups
    if of == "step":
        return torch_step(network, batch, theirs, setup, "float32")
    return theirs.mspn.forward_way(
        theirs.new_network(setup), batch.crops, setup, "float32", flip_permutation=None
    )


def forward(network: Network, batch_size: int) -> tuple[list[str], Callable[[], Any]]:
    network = folded(network)
    variables = replicate(network.variables)
    crops = shard(random_batch(batch_size, network.crop_hw).crops)
    program = heatmaps_on_devices(network, flip_test=False).lower(variables, crops).compile()
    return [program.as_text()], lambda: program(variables, crops)


def step(network: Network, batch_size: int) -> tuple[list[str], Callable[[], Any]]:
    state: Any = new_state(network)
    batch = shard(vars(random_batch(batch_size, network.crop_hw)))
    step = training.on_all_devices(training.train_step(network.model, new_adam()))
    programs = [compiled(*each).run for each in two_programs(step, state, batch)]
    both = training.TrainStep(*programs)

    def way() -> Any:
        nonlocal state
        state, metrics = both(state, batch)
        return metrics

    return [program.as_text() for program in programs], way


def traced(programs: list[str], way: Callable[[], Any]) -> tuple[collections.Counter, float]:
    """(milliseconds of each part in a round, seconds of the round)."""
    part_of = {instruction: part for text in programs for instruction, part in parts_of(text)}
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            start = time.perf_counter()
            jax.block_until_ready(way())
            seconds = time.perf_counter() - start
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(path))
    events = sorted(
        (event.start_ns, event.start_ns + event.duration_ns, *part_of[instruction])
        for plane in data.planes
        for line in plane.lines
        for event in line.events
        for stats in [dict(event.stats)]
        if (instruction := (stats.get("hlo_module"), stats.get("hlo_op"))) in part_of
    )
    parts: collections.Counter = collections.Counter()
    for (start, end, part, seen_whole), (next_start, *_) in itertools.pairwise(events):
        parts[part] += ((end if seen_whole else next_start) - start) / 1e6
    return parts, seconds


def parts_of(program: str) -> list[tuple[tuple[str, str], tuple[str, bool]]]:
    """Of a program's text: ((module, instruction), (part, whether a trace sees its end))."""
    module = program.split(maxsplit=2)[1].rstrip(",")
    found = []
    for line in program.splitlines():
        if match := INSTRUCTION.match(line):
            name, opcode, origin = match.groups(default="")
            part = ON_EIGENS_THREADS.get(opcode) or OTHERS.get(
                origin.rpartition("/")[2], "norm, ReLU, sums of branches, copies"
            )
            # XLA drops the metadata of the kernels' gradients.
            if "transpose(" in origin or (opcode == "convolution" and not origin):
                part += ", backward"
            part = "Adam" if module == "jit_update" else part
            found.append(((module, name), (part, opcode not in ON_EIGENS_THREADS)))
    return found


if __name__ == "__main__":
    main()
