"""PyTorch as a baseline: checks that it computes the same, and finds its fastest settings."""

import argparse
import importlib.util
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.report import Report, new_parser
from benchmarks.timing import ratio, spread
from benchmarks.workload import Network, random_crops
from mspn_jax import heatmaps
from mspn_jax.data.pipeline import TrainingBatch
from mspn_jax.heatmaps import target_levels
from mspn_jax.model import NUM_UNITS, STRIDE, normalise
from mspn_jax.weights import conversion

# On a GPU JAX takes 75% of the memory by default, and must leave half to PyTorch.
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.45")

SETUPS = ("plain", "channels-last", "compiled", "channels-last-compiled")
TOLERANCE = 1e-4  # of the largest heatmap value


def parser_with_torch(doc: str, batches: list[int]) -> argparse.ArgumentParser:
    """A parser with the options of step.py and forward.py."""
    parser = new_parser(doc)
    parser.add_argument("--stages", type=int, nargs="+", default=[1], help="1 to 4")
    parser.add_argument("--batch", type=int, nargs="+", default=batches, help="crops a device")
    on_cpu = jax.default_backend() == "cpu"
    dtypes = ["float32", "bfloat16"]
    parser.add_argument("--dtype", nargs="+", choices=dtypes, default=dtypes[: 1 if on_cpu else 2])
    torch_help = "PyTorch's setups, of which the fastest is compared; none: no comparison"
    parser.add_argument("--torch", nargs="*", choices=SETUPS, default=SETUPS, help=torch_help)
    return parser


class Torch:
    """PyTorch with a network's weights.

    Attributes:
      mspn: the module `torch_mspn`.
      device: what it runs on, "cuda" or "cpu".
    """

    def __init__(self, network: Network, names: list[str]):
        from benchmarks import torch_mspn

        self.mspn = torch_mspn
        self.device = torch_mspn.device().type
        self.model = network.model.clone(dtype=np.dtype("float32"))
        self.state_dict = conversion.to_torch(network.variables)
        self.setups = [torch_mspn.SETUPS[name] for name in names]

    def difference(self, network: Network) -> float:
        """The largest difference of heatmaps, over the largest heatmap value."""
        crops = random_crops(1, network.crop_hw)
        setup = self.mspn.SETUPS["plain"]
        theirs = self.new_network(setup).eval()
        with self.mspn.in_full_precision():
            maps = theirs(self.mspn.normaliser(setup)(crops))
        expected = np.stack([m.cpu().numpy().transpose(0, 2, 3, 1) for m in maps])
        with jax.default_matmul_precision("highest"):
            ours = jax.jit(self.model.apply)(network.variables, normalise(jnp.asarray(crops)))
        ours = np.asarray(ours).reshape(expected.shape)
        return float(np.abs(ours - expected).max() / np.abs(expected).max())

    def new_network(self, setup: Any) -> Any:
        return self.mspn.new_network(self.model, self.state_dict, setup)

    def fastest(self, new_way: Callable[[Any], Callable[[], Any]]) -> tuple[str, Callable[[], Any]]:
        """(name, way) of the fastest setup: the better of two runs after a first."""
        import torch

        torch.compiler.reset()  # other batches count towards its limit of recompilations
        best: tuple[float, str, Any] = (np.inf, "", None)
        for setup in self.setups:
            way = new_way(setup)
            try:
                way()  # compiles
            except RuntimeError as error:
                print(f"PyTorch {setup.name}: left out, {str(error).splitlines()[0]}")
                continue
            times = []
            for _ in range(2):
                start = time.perf_counter()
                way()
                times.append(time.perf_counter() - start)
            best = min(best, (min(times), setup.name, way), key=lambda entry: entry[0])
        return best[1:]


def torch_beside(network: Network, names: list[str], report: Report) -> Torch | None:
    """PyTorch, if it is wanted, installed and comparable. Otherwise the report has the reason."""
    if not names:
        return None
    if importlib.util.find_spec("torch") is None:
        report.say("PyTorch is not installed: no comparison")
        return None
    if jax.device_count() > 1:
        report.say("several devices: no comparison, PyTorch runs on one")
        return None
    theirs = Torch(network, names)
    if theirs.device != {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend()):
        report.say(f"PyTorch runs on {theirs.device}, JAX does not: no comparison")
        return None
    difference = theirs.difference(network)
    assert difference < TOLERANCE, f"heatmaps differ by {difference:.1e} of their maximum"
    report.say(
        f"PyTorch's {network.model.num_stages * NUM_UNITS} heatmaps with the same weights differ by"
        f" at most {difference:.1e} of their maximum"
    )
    return theirs


def columns(
    setup: str | None, crops: int, seconds: dict[str, list[float]], ours: str
) -> dict[str, Any]:
    """A row's columns for PyTorch, whose way is "theirs"; None if it did not run."""
    theirs = seconds.get("theirs")
    return {
        "torch": setup,
        "torch_crops_per_s": spread([crops / t for t in theirs]) if theirs else None,
        "ours_over_torch": ratio(theirs, seconds[ours]) if theirs else None,
    }


def targets_for_torch(
    batch: TrainingBatch, network: Network
) -> tuple[list[np.ndarray], np.ndarray]:
    """(the (B, K, H, W) targets of every stage and unit, the joints' weights (B, K))."""
    height, width = network.crop_hw
    heatmap_hw = (height // STRIDE, width // STRIDE)
    keypoints_crop_xy, visibility = map(jnp.asarray, (batch.keypoints_crop_xy, batch.visibility))
    targets, weights = heatmaps.encode(keypoints_crop_xy, visibility, network.crop_hw, heatmap_hw)
    levels = target_levels(network.model.num_stages, NUM_UNITS, targets.shape[1])
    as_torch = np.asarray(targets).transpose(1, 0, 4, 2, 3)
    of_units = [np.ascontiguousarray(as_torch[level]) for stage in levels for level in stage]
    return of_units, np.array(weights)
