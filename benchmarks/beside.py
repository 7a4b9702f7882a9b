"""What step.py and forward.py share: their options, PyTorch beside ours, their rows."""

import argparse
import importlib.util
import itertools
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from benchmarks.compiled import Program
from benchmarks.peaks import Yardstick
from benchmarks.report import Report, new_parser
from benchmarks.timing import in_turn, pace, ratio
from benchmarks.workload import Network, new_network
from mspn_jax.model import NUM_UNITS

# On a GPU JAX takes 75% of the memory by default, and must leave half to PyTorch.
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.45")

SETUPS = ("plain", "channels-last", "compiled", "channels-last-compiled")
TOLERANCE = 1e-4  # of a heatmap's maximum


def new_parser_with_torch(doc: str, batches: list[int]) -> argparse.ArgumentParser:
    parser = new_parser(doc)
    parser.add_argument("--stages", type=int, nargs="+", default=[1], help="1 to 4")
    parser.add_argument("--batch", type=int, nargs="+", default=batches, help="crops a device")
    on_cpu = jax.default_backend() == "cpu"
    dtypes = ["float32", "bfloat16"]
    parser.add_argument("--dtype", nargs="+", choices=dtypes, default=dtypes[: 1 if on_cpu else 2])
    torch_help = "PyTorch's setups, of which the fastest is compared; none: no comparison"
    parser.add_argument("--torch", nargs="*", choices=SETUPS, default=SETUPS, help=torch_help)
    return parser


class Case(NamedTuple):
    """A network to measure, and the same in PyTorch: a `torch_ways.Torch`, or None."""

    network: Network
    dtype: str
    theirs: Any
    repeats: int


def cases(args: argparse.Namespace, report: Report) -> Iterator[Case]:
    for num_stages, dtype in itertools.product(args.stages, args.dtype):
        network = new_network(num_stages, dtype, args.quick)
        yield Case(network, dtype, torch_beside(network, args.torch, report), args.repeats)


def torch_beside(network: Network, setups: list[str], report: Report) -> Any:
    """PyTorch, if it is wanted, installed and comparable. Otherwise the report has the reason."""
    if not setups:
        return None
    if importlib.util.find_spec("torch") is None:
        report.say("PyTorch is not installed: no comparison")
        return None
    if jax.device_count() > 1:
        report.say("several devices: no comparison, PyTorch runs on one")
        return None
    from benchmarks import torch_ways

    backend = jax.default_backend()
    if {"gpu": "cuda"}.get(backend, backend) != torch_ways.DEVICE:
        report.say(f"PyTorch runs on {torch_ways.DEVICE}, JAX does not: no comparison")
        return None
    theirs = torch_ways.Torch(network, setups)
    difference = theirs.difference()
    assert difference < TOLERANCE, f"heatmaps differ by {difference:.1e} of their maximum"
    report.say(
        f"PyTorch's {network.model.num_stages * NUM_UNITS} heatmaps with the same weights differ by"
        f" at most {difference:.1e} of their maximum"
    )
    return theirs


def measured(
    case: Case,
    program: Program,
    ways: dict[str, Any],
    torchs: tuple[str, Any] | None,
    num_crops: int,
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Times our ways, PyTorch's and the yardstick in turn.

    Args:
      program: what the first of the ways runs.
      torchs: PyTorch's setup and way.
      num_crops: on all devices.

    Returns:
      The seconds of each way, and a row's columns about the first.
    """
    yardstick = Yardstick(case.dtype)
    ways = ways | yardstick.ways
    if torchs is not None:
        ways["PyTorch"] = torchs[1]
    seconds = in_turn(ways, case.repeats)
    first = next(iter(ways))
    ours, theirs = seconds[first], seconds.get("PyTorch")
    operations = program.operations * jax.local_device_count()
    return seconds, {
        "GFLOP_per_crop": operations / num_crops / 1e9,
        "GFLOPs_per_s": pace(operations / 1e9, ours),
        "share_of_peak": yardstick.share(program.operations, first, seconds),
        "peak_from": yardstick.source,
        "share_of_bandwidth": yardstick.share_of_bandwidth(program.bytes_moved, ours),
        "memory_GB": program.peak_bytes / 1e9,
        "torch": torchs[0] if torchs else None,
        "torch_crops_per_s": pace(num_crops, theirs) if theirs else None,
        "ours_over_torch": ratio(theirs, ours) if theirs else None,
    }
