"""From a config to the data sets that are trained on, and their batches."""

from collections.abc import Generator
from typing import Any

import jax

from mspn_jax.commands.configured import skeleton_of_data
from mspn_jax.data import augment, mixture, pipeline
from mspn_jax.data.coco import DataSet
from mspn_jax.data.mixture import Mixture
from mspn_jax.data.pipeline import TrainingBatch
from mspn_jax.errors import UsageError
from mspn_jax.skeletons import SKELETONS, Skeleton
from mspn_jax.storage import paths


def data_sets(config: Any, skeleton: Skeleton) -> list[tuple[DataSet, Skeleton]]:
    """`data.root`, whose skeleton is the training's, and those of `data.also` with their own."""
    first = DataSet(config.data.root, config.data.train_split)
    others = list(map(DataSet.parse, config.data.also))
    for each in others:
        if not paths.is_folder(paths.path(each.root)):
            raise UsageError(f"config.data.also: {each.root}: no such folder")
    return [(first, skeleton), *((each, _own_skeleton(each, skeleton)) for each in others)]


def _own_skeleton(data_set: DataSet, skeleton: Skeleton) -> Skeleton:
    """A data set's skeleton: one that is known already, if it has the same keypoints.

    So records that were made with the known one serve again.
    """
    own = skeleton_of_data(data_set.root, data_set.split, default=skeleton)
    known = (skeleton, *SKELETONS.values())
    return next((each for each in known if each.keypoint_names == own.keypoint_names), own)


def open_training(config: Any, skeleton: Skeleton) -> Mixture:
    """The records of all data sets of a training, in one."""
    return mixture.open_mixture(
        data_sets(config, skeleton),
        skeleton,
        first_people=config.data.first_people,
        records_dir=config.data.records_dir,
    )


def new_batches(
    config: Any, training: Mixture, skeleton: Skeleton, first_step: int
) -> Generator[TrainingBatch, None, None]:
    """This process's rows of the batches from `first_step` on."""
    return pipeline.training_batches(
        training.records,
        skeleton,
        crop_hw=tuple(config.crop_hw),
        batch_size=config.batch_size,
        first_step=first_step,
        settings=augment.Settings(**config.augment),
        padding=config.padding,
        seed=config.seed,
        process=jax.process_index(),
        num_processes=jax.process_count(),
        num_threads=config.data.num_threads,
        shares=training.shares,
    )
