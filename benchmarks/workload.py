"""The benchmarks' networks (published or tiny) and inputs (random or drawn people)."""

import argparse
import contextlib
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mspn_jax import inference, optimizer, training
from mspn_jax.data.pipeline import TrainingBatch
from mspn_jax.devices import REPLICATED, SHARDED, on_each_device, replicate
from mspn_jax.folding import for_inference
from mspn_jax.model import MSPN
from mspn_jax.skeletons import COCO
from mspn_jax.synthetic import people
from mspn_jax.variables import initial_variables
from mspn_jax.weights.description import Description

CROP_HW = (256, 192)
TINY_CROP_HW = (64, 64)
TINY: dict[str, Any] = {"blocks_per_unit": (1, 1, 1, 1), "stem_channels": 8, "unit_channels": 16}
LEARNING_RATE = 1e-4


class Network(NamedTuple):
    model: MSPN
    variables: Any
    crop_hw: tuple[int, int]


def new_network(num_stages: int, dtype: str, quick: bool) -> Network:
    """A network with initial kernels and random norms.

    With initial norms, a comparison with another implementation would not see norms mixed up.
    """
    model = MSPN(num_stages, dtype=jnp.dtype(dtype), **(TINY if quick else {}))
    crop_hw = TINY_CROP_HW if quick else CROP_HW
    rng = np.random.default_rng(0)

    def random_norm(path, leaf):
        match path[-1].key:
            case "scale" | "var":
                return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
            case "bias" | "mean":
                return rng.normal(0, 0.1, leaf.shape).astype(np.float32)
        return leaf

    variables = initial_variables(model, 0, crop_hw)
    return Network(model, jax.tree.map_with_path(random_norm, variables), crop_hw)


def describe(network: Network) -> Description:
    names = ("num_stages", "num_keypoints", "blocks_per_unit", "stem_channels", "unit_channels")
    sizes = {name: getattr(network.model, name) for name in names}
    return Description("new", sizes, COCO, network.crop_hw)


def random_crops(batch_size: int, crop_hw: tuple[int, int]) -> np.ndarray:
    """(B, H, W, 3) uint8, as smooth as pictures."""
    few = np.random.default_rng(0).integers(0, 256, (batch_size, 8, 8, 3), np.uint8)
    height, width = crop_hw
    return few.repeat(height // 8, axis=1).repeat(width // 8, axis=2)


def random_batch(batch_size: int, crop_hw: tuple[int, int]) -> TrainingBatch:
    rng = np.random.default_rng(1)
    shape = (batch_size, COCO.num_keypoints)
    return TrainingBatch(
        crops=random_crops(batch_size, crop_hw),
        keypoints_crop_xy=rng.uniform(0, crop_hw[::-1], (*shape, 2)).astype(np.float32),
        visibility=rng.choice([0.0, 1.0, 2.0], shape, p=[0.3, 0.1, 0.6]).astype(np.float32),
    )


def add_split_options(parser: argparse.ArgumentParser, split: str) -> None:
    """The options for `split_of`."""
    parser.add_argument("--root", help="a folder in COCO's layout; default: drawn people")
    parser.add_argument("--split", default=split)
    parser.add_argument("--detections", default="", help="a detector's results; default: annotated")


@contextlib.contextmanager
def split_of(args: argparse.Namespace, num_pictures: int) -> Iterator[dict[str, Any]]:
    """Arguments that open a split, with a scratch folder for records; or that of drawn people."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        root = pathlib.Path(args.root or scratch / "drawn")
        if args.root is None:
            people.write_dataset(root, {args.split: num_pictures}, picture_hw=(480, 640))
        yield {"root": root, "split": args.split, "skeleton": COCO, "records_dir": scratch}


def folded(network: Network) -> Network:
    """The network as evaluation runs it: batch norm folded, unused heads left out."""
    return Network(*for_inference(network.model, network.variables), network.crop_hw)


def heatmaps_on_devices(network: Network, flip_test: bool) -> Any:
    """`inference.estimate_on_devices` without decoding: (variables, crops) -> (B, h, w, K)."""

    def on_one(variables: Any, crops: Any) -> Any:
        return inference.predict_heatmaps(
            network.model, variables, crops, COCO.flip_permutation, flip_test
        )

    return on_each_device(on_one, (REPLICATED, SHARDED), SHARDED)


def new_state(network: Network) -> training.TrainState:
    """The state with which train.py starts, on the devices."""
    return replicate(training.new_state(network.variables, new_adam()))


def new_adam():
    return optimizer.adam(lambda step: LEARNING_RATE)
