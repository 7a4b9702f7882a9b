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
from collections.abc import Callable, Sequence
from typing import Any

import jax

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks import beside
from benchmarks.forward import new_heatmaps
from benchmarks.report import Report, new_parser
from benchmarks.step import new_step
from benchmarks.timing import rounds, seconds_of, spread
from benchmarks.workload import folded, new_network, random_batch

SETUP = "channels-last"  # of PyTorch
INSTRUCTION = re.compile(
    r"^\s+(?:ROOT )?%(?P<name>[\w.\-]+) = (?:\([^)]*\)|\S+) (?P<opcode>[\w\-]+)\("
    r"(?:.*op_name=\"(?P<origin>[^\"]*)\")?"
)
CONVOLUTIONS = "convolutions: 3x3, stem"
PRODUCTS = "products: 1x1 convolutions, resizing"
ON_EIGENS_THREADS = {"convolution": CONVOLUTIONS, "dot": PRODUCTS}
OTHERS = {
    "reduce_sum": "sums of batch norm",
    "reduce_window_max": "max pooling",
    "select_and_scatter_add": "max pooling",
    "": "what XLA adds: transposed copies, max pooling's gradient",
}
OF_TORCH = {
    "native_batch_norm": "batch norm",
    "native_batch_norm_backward": "batch norm, backward",
    "max_pool2d_with_indices": "max pooling",
    "max_pool2d_with_indices_backward": "max pooling, backward",
    "threshold_backward": "ReLU, backward",
    "upsample_bilinear2d": PRODUCTS,
    "upsample_bilinear2d_backward": f"{PRODUCTS}, backward",
    "_fused_adam_": "Adam",
}

Traced = tuple[collections.Counter, float]  # milliseconds of each part, seconds of the round


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
    batch = random_batch(args.batch, network.crop_hw)
    theirs = beside.torch_beside(network, [SETUP] if args.torch else [], report)
    for of in args.of:
        report.say(f"{of}, batch {args.batch}, {args.stages} stages:")
        if of == "forward":
            program, way = new_heatmaps(folded(network), batch.crops, flip_test=False)
            programs = [program.run]
            their_way = theirs and theirs.inference(SETUP, batch.crops, "float32")
        else:
            program, way = new_step(network, batch)
            programs = [program.run.gradients, program.run.update]
            their_way = theirs and theirs.training_step(SETUP, batch, "float32")
        traces = {"ours": functools.partial(traced, [p.as_text() for p in programs], way)}
        if their_way is not None:
            traces["PyTorch"] = functools.partial(traced_in_torch, their_way)
        for whose, found in rounds(traces, args.repeats, warm_ups=2).items():
            parts = {part: spread([each[part] for each, _ in found]) for part in found[0][0]}
            for part, milliseconds in sorted(parts.items(), key=lambda entry: -entry[1].median):
                report.row(whose=whose, part=part, milliseconds=milliseconds)
            report.row(whose=whose, whole_milliseconds=spread([1e3 * t for _, t in found]))


def traced(texts: list[str], way: Callable[[], Any]) -> Traced:
    """One round of a way, by the texts of its programs."""
    part_of = {instruction: part for text in texts for instruction, part in parts_of(text)}
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            seconds = seconds_of(way)
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


def traced_in_torch(way: Callable[[], Any]) -> Traced:
    import torch

    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, record_shapes=True) as profile:
        seconds = seconds_of(way)
    parts: collections.Counter = collections.Counter()
    for event in profile.key_averages(group_by_input_shape=True):
        part = torchs_part(event.key.removeprefix("aten::"), event.input_shapes)
        parts[part] += event.self_cpu_time_total / 1e3
    return parts, seconds


def torchs_part(operation: str, input_shapes: Sequence[Sequence[int]]) -> str:
    if operation == "mkldnn_convolution":  # of x and the kernel
        return PRODUCTS if input_shapes[1][-1] == 1 else CONVOLUTIONS
    if operation == "convolution_backward":  # of y's gradient, x and the kernel
        return f"{PRODUCTS if input_shapes[2][-1] == 1 else CONVOLUTIONS}, backward"
    return OF_TORCH.get(operation, "ReLU, sums of branches, losses, copies, Python")


if __name__ == "__main__":
    main()
