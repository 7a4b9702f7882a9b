"""Prints the machine and tables of a benchmark, and writes both to the file of `--json`."""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import sys
from typing import Any

import jax

from benchmarks.timing import Spread, brief
from mspn_jax import cpu

PACKAGES = ("jax", "jaxlib", "flax", "torch", "onnxruntime", "opencv-python-headless", "numpy")


def new_parser(doc: str) -> argparse.ArgumentParser:
    """Returns a parser with the options of all benchmarks. Sets up the CPU as the commands do."""
    cpu.prepare()
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7, help="rounds; medians are printed")
    parser.add_argument("--quick", action="store_true", help="a tiny network, to see it run")
    parser.add_argument(
        "--json", type=pathlib.Path, metavar="FILE", help="also write the rows to FILE"
    )
    return parser


class Report:
    """Prints tables row by row. A row with other columns than the last starts a new table."""

    def __init__(self, json_file: pathlib.Path | None):
        if json_file is not None and not json_file.parent.is_dir():
            sys.exit(f"error: {json_file}: its folder does not exist")
        self.json_file = json_file
        self.kept: dict[str, Any] = {
            "command": " ".join(sys.argv),
            "machine": machine(),
            "notes": [],
            "rows": [],
        }
        for name, value in self.kept["machine"].items():
            print(f"{name}: {value}")
        self._columns: list[str] = []
        self._write()

    def say(self, note: str) -> None:
        """Prints a line between the tables."""
        print(note, flush=True)
        self.kept["notes"].append(note)
        self._columns = []

    def row(self, **cells: Any) -> None:
        columns = [name.replace("_", " ") for name in cells]
        if columns != self._columns:
            print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
            self._columns = columns
        print(f"| {' | '.join(map(_printed, cells.values()))} |", flush=True)
        kept = {k: v._asdict() if isinstance(v, Spread) else v for k, v in cells.items()}
        self.kept["rows"].append(kept)
        self._write()

    def _write(self) -> None:
        if self.json_file is not None:
            self.json_file.write_text(json.dumps(self.kept, indent=2) + "\n")


def _printed(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return brief(value)
    return str(value)


def machine() -> dict[str, str]:
    """Describes what timings depend on: device, host, versions, allocator and load."""
    device = jax.devices()[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    installed = {package.name: package.version for package in importlib.metadata.distributions()}
    versions = [f"{name} {installed[name]}" for name in PACKAGES if name in installed]
    settings = [
        f"{name}={os.environ.get(name, '(not set)')}" for name in ("OMP_WAIT_POLICY", "XLA_FLAGS")
    ]
    return {
        "date": datetime.date.today().isoformat(),
        "device": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
        "host": f"{_processor()}, {cores} cores, {platform.system()}",
        "versions": ", ".join([f"Python {platform.python_version()}", *versions]),
        "environment": " ".join(settings),
        "load before": ", ".join(f"{load:.1f}" for load in os.getloadavg()),
    }


def _processor() -> str:
    information = pathlib.Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(": ")[2]
    return platform.processor() or platform.machine()
