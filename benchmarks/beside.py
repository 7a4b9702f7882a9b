"""PyTorch beside ours: whether it is there, whether it computes the same, its fastest way."""

import argparse
import importlib.util
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.report import Report
from benchmarks.workload import Network, random_crops
from mspn_jax import convert
from mspn_jax.heatmaps import target_levels
from mspn_jax.model import NUM_UNITS, normalise

SETUPS = ("plain", "channels-last", "compiled", "channels-last-compiled")
TOLERANCE = 1e-4  # of the largest heatmap value


def add_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--torch", nargs="*", choices=SETUPS, default=SETUPS,
        help="ways for PyTorch to run, of which the fastest is compared; none: leave it out",
    )  # fmt: skip


class Torch:
    """PyTorch with a network's weights. Raises AssertionError if it does not compute the same.

    Attributes:
      mspn: the module `torch_mspn`.
      state_dict: the weights, with mmpose's names.
    """

    def __init__(self, network: Network, names: list[str], report: Report):
        from benchmarks import torch_mspn

        self.mspn = torch_mspn
        self.setups = [torch_mspn.SETUPS[name] for name in names]
        self.model = network.model.clone(dtype=np.dtype("float32"))
        self.report = report
        self.state_dict = convert.to_torch(network.variables)
        difference = self._difference(network)
        assert difference < TOLERANCE, f"heatmaps differ by {difference:.1e} of their maximum"
        report.say(
            f"PyTorch's heatmaps, all {network.model.num_stages * NUM_UNITS} of them, with the"
            f" same weights: {difference:.1e} of the maximum apart at most"
        )

    def _difference(self, network: Network) -> float:
        crops = random_crops(1, network.crop_hw)
        setup = self.mspn.SETUPS["plain"]
        theirs = self.new_network(setup).eval()
        with self.mspn.torch.inference_mode():
            maps = theirs(self.mspn.normaliser(setup)(crops))
        expected = np.stack([m.cpu().numpy().transpose(0, 2, 3, 1) for m in maps])
        with jax.default_matmul_precision("highest"):
            ours = jax.jit(self.model.apply)(network.variables, normalise(crops))
        ours = np.asarray(ours).reshape(expected.shape)
        return float(np.abs(ours - expected).max() / np.abs(expected).max())

    def new_network(self, setup: Any) -> Any:
        return self.mspn.new_network(self.model, self.state_dict, setup)

    def fastest(self, new_way: Callable[[Any], Callable[[], Any]]) -> tuple[str, Callable[[], Any]]:
        """(name, way) of the setup that is soonest done with the second of two runs after one."""
        best: tuple[float, str, Any] = (np.inf, "", None)
        for setup in self.setups:
            way = new_way(setup)
            try:
                way()  # where it compiles
            except RuntimeError as error:
                self.report.say(f"PyTorch {setup.name}: left out, {str(error).splitlines()[0]}")
                continue
            times = []
            for _ in range(2):
                start = time.perf_counter()
                way()
                times.append(time.perf_counter() - start)
            best = min(best, (min(times), setup.name, way), key=lambda entry: entry[0])
        return best[1:]


def torch_beside(network: Network, names: list[str], report: Report) -> Torch | None:
    """PyTorch where it is wanted, installed and comparable; otherwise a line that says why not."""
    if not names:
        return None
    if importlib.util.find_spec("torch") is None:
        report.say("PyTorch is not installed: nothing is compared with it")
        return None
    if jax.device_count() > 1:
        report.say("PyTorch is compared on one device only, and here are more")
        return None
    return Torch(network, names, report)


def targets_for_torch(targets: Any, num_stages: int) -> list[np.ndarray]:
    """(B, L, H, W, K) -> for every stage and unit the (B, K, H, W) that it learns."""
    levels = target_levels(num_stages, NUM_UNITS, targets.shape[1])
    return [
        np.ascontiguousarray(np.asarray(targets[:, level]).transpose(0, 3, 1, 2))
        for stage in levels
        for level in stage
    ]
