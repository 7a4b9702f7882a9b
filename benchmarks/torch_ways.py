"""PyTorch's ways to run the network: inference and a training step, in several setups."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor

from benchmarks.timing import seconds_of
from benchmarks.torch_mspn import MSPN, mspn_loss
from benchmarks.workload import LEARNING_RATE, Network, random_crops
from mspn_jax import heatmaps
from mspn_jax.data.pipeline import TrainingBatch
from mspn_jax.model import NUM_UNITS, STRIDE, normalise

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Torch:
    """A network's weights in PyTorch. A setup is a name of `beside.SETUPS`."""

    def __init__(self, network: Network, setups: list[str]):
        self.network = network
        self.setups = setups

    def new_mspn(self, setup: str) -> MSPN:
        mspn = MSPN(self.network.model, self.network.variables)
        return mspn.to(DEVICE, memory_format=memory_format(setup))

    def difference(self) -> float:
        """The largest difference from our heatmaps in float32, over the heatmaps' maximum."""
        model, variables, crop_hw = self.network
        crops = random_crops(1, crop_hw)
        mspn = self.new_mspn("plain").eval()
        torch.backends.cudnn.allow_tf32 = False  # a GPU's products of float32 are TF32 elsewhere
        with torch.inference_mode():
            theirs = mspn(mspn.normalised(crops, memory_format("plain")))
        torch.backends.cudnn.allow_tf32 = True
        expected = np.stack([maps.cpu().numpy().transpose(0, 2, 3, 1) for maps in theirs])
        apply = jax.jit(model.clone(dtype=np.dtype("float32")).apply)
        with jax.default_matmul_precision("highest"):
            ours = np.asarray(apply(variables, normalise(jnp.asarray(crops))))
        apart = np.abs(ours.reshape(expected.shape) - expected)
        of_each = (1, 2, 3, 4)
        return float((apart.max(of_each) / np.abs(expected).max(of_each)).max())

    def inference(
        self, setup: str, crops: np.ndarray, dtype: str, flip_permutation: Any = None
    ) -> Callable[[], Tensor]:
        """Crops -> the last heatmaps, merged with the mirrored ones if a permutation is given."""
        mspn = self.new_mspn(setup).eval()

        def heatmaps_of(images: Tensor) -> Tensor:
            if flip_permutation is not None:
                images = torch.cat([images, images.flip(3)])
            with autocast(dtype):
                maps = mspn(images, last_only=True)[0]
            if flip_permutation is None:
                return maps
            maps, mirrored = maps.chunk(2)
            return 0.5 * (maps + mirrored.flip(3)[:, flip_permutation])

        run = torch.compile(heatmaps_of) if "compiled" in setup else heatmaps_of

        @torch.inference_mode()
        def way() -> Tensor:
            maps = run(mspn.normalised(crops, memory_format(setup)))
            synchronise()
            return maps

        return way

    def training_step(self, setup: str, batch: TrainingBatch, dtype: str) -> "TrainingStep":
        return TrainingStep(self.new_mspn(setup).train(), setup, batch, dtype)

    def fastest(
        self, new_way: Callable[..., Callable[[], Any]], *arguments: Any
    ) -> tuple[str, Callable[[], Any]]:
        """(setup, way) of the fastest setup: the better of two runs after a first.

        Args:
          new_way: `inference` or `training_step`; `arguments` follow the setup.
        """
        torch.compiler.reset()  # other batches count towards its limit of recompilations
        found = []
        for setup in self.setups:
            way = new_way(setup, *arguments)
            try:
                way()  # compiles
            except RuntimeError as error:
                print(f"PyTorch {setup}: left out, {str(error).splitlines()[0]}")
                continue
            found.append((min(seconds_of(way), seconds_of(way)), setup, way))
        _, setup, way = min(found, key=lambda entry: entry[0])
        return setup, way


class TrainingStep:
    """A training step that returns its loss. Targets are on the device already.

    With dtype float64 all of it is float64, for `step.check_same_step`.
    """

    def __init__(self, mspn: MSPN, setup: str, batch: TrainingBatch, dtype: str):
        if dtype == "float64":
            mspn.double()
        self.mspn, self.crops, self.memory_format = mspn, batch.crops, memory_format(setup)
        self.adam = torch.optim.Adam(mspn.parameters(), LEARNING_RATE, fused=True)
        targets, weights = targets_of(batch, mspn.like.num_stages)
        on_device = [torch.tensor(target, device=DEVICE) for target in targets]
        keypoint_weights = torch.tensor(weights, device=DEVICE)

        def loss_of(images: Tensor) -> Tensor:
            with autocast(dtype):
                maps = mspn(images)
            return mspn_loss(maps, on_device, keypoint_weights)

        self.loss_of = torch.compile(loss_of) if "compiled" in setup else loss_of

    def __call__(self) -> Tensor:
        self.adam.zero_grad(set_to_none=True)
        loss = self.loss_of(self.mspn.normalised(self.crops, self.memory_format))
        loss.backward()
        self.adam.step()
        synchronise()
        return loss.detach()

    def gradient_norm(self) -> float:
        """Of the last step."""
        squares = [p.grad.double().square().sum() for p in self.mspn.parameters()]
        return float(torch.stack(squares).sum().sqrt())


def targets_of(batch: TrainingBatch, num_stages: int) -> tuple[list[np.ndarray], np.ndarray]:
    """(the (B, K, H, W) targets of every stage and unit, the joints' weights (B, K))."""
    crop_hw = batch.crops.shape[1:3]
    heatmap_hw = (crop_hw[0] // STRIDE, crop_hw[1] // STRIDE)
    keypoints_crop_xy, visibility = map(jnp.asarray, (batch.keypoints_crop_xy, batch.visibility))
    targets, weights = heatmaps.encode(keypoints_crop_xy, visibility, crop_hw, heatmap_hw)
    levels = heatmaps.target_levels(num_stages, NUM_UNITS, targets.shape[1])
    as_torch = np.asarray(targets).transpose(1, 0, 4, 2, 3)
    return [as_torch[level].copy() for stage in levels for level in stage], np.array(weights)


def memory_format(setup: str) -> torch.memory_format:
    return torch.channels_last if "channels-last" in setup else torch.contiguous_format


def autocast(dtype: str) -> contextlib.AbstractContextManager:
    return torch.autocast(DEVICE, torch.bfloat16, enabled=dtype == "bfloat16")


def synchronise() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
