"""From a config to its skeleton, network, training step and inference."""

import json
import logging
import os
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from mspn_jax import inference, optimizer, skeletons, training
from mspn_jax.commands import ranges
from mspn_jax.data import categories
from mspn_jax.data.coco import SKELETON_FILE, annotation_file, load_json
from mspn_jax.devices import AXIS, Devices
from mspn_jax.errors import UsageError
from mspn_jax.model import MSPN, is_encoder
from mspn_jax.skeletons import SKELETONS, Skeleton
from mspn_jax.storage import files, mirror, paths
from mspn_jax.weights.description import Description

log = logging.getLogger("mspn_jax")


def describe(config: Any, source: str = "") -> Description:
    """The config's network as `model.json` describes it."""
    skeleton = skeleton_of(config)
    return Description(
        variant=config.variant,
        model=config.model.to_dict() | {"num_keypoints": skeleton.num_keypoints},
        skeleton=skeleton,
        crop_hw=tuple(config.crop_hw),
        padding=config.padding,
        source=source,
    )


class Training(NamedTuple):
    """A network and its training step."""

    model: MSPN
    schedule: optax.Schedule  # step -> learning rate
    optimizer: optax.GradientTransformation
    step: training.TrainStep  # the step of one device


def new_training(
    config: Any, description: Description, *, steps_per_epoch: int, num_steps: int
) -> Training:
    """The config's network, optimiser and training step, for a run of `num_steps`."""
    model = description.new_model(
        dtype=jnp.dtype(config.dtype),
        axis_name=AXIS if config.sync_batch_norm else None,
        remat=config.remat,
    )
    schedule = new_schedule(config, steps_per_epoch, num_steps)
    encoder_rate = config.optimizer.encoder_rate
    adam = optimizer.adam(
        schedule,
        config.clip_norm,
        None if encoder_rate == 1 else lambda path: encoder_rate if is_encoder(path) else 1.0,
    )
    step = training.train_step(
        model,
        adam,
        config.num_hard_keypoints,
        num_micro_batches=config.accumulate,
        ema_decay=config.ema_decay,
    )
    return Training(model, schedule, adam, step)


def new_schedule(config: Any, steps_per_epoch: int, num_steps: int) -> optax.Schedule:
    """The config's schedule: step -> learning rate."""
    rates = config.optimizer
    of_any_run = {"cosine": optimizer.cosine_schedule, "linear": optimizer.linear_schedule}
    if rates.schedule in of_any_run:
        return of_any_run[rates.schedule](
            rates.learning_rate, config.batch_size, num_steps, rates.warmup_share
        )
    return optimizer.learning_rate_schedule(
        rates.learning_rate,
        config.batch_size,
        steps_per_epoch,
        rates.warmup_steps,
        rates.drop_epochs,
        rates.drop_factor,
    )


def warn_of_schedule(config: Any, steps_per_epoch: int, num_steps: int) -> None:
    """Warns of a schedule that does not fit the run."""
    rates = config.optimizer
    if rates.schedule != "drops":
        return
    remedy = "config.optimizer.schedule=cosine fits a run of any length"
    if rates.warmup_steps >= num_steps:
        log.warning(
            "the learning rate does not reach its peak: the warm-up is %d steps"
            " (config.optimizer.warmup_steps), and the run ends at step %d. %s",
            rates.warmup_steps,
            num_steps,
            remedy,
        )
    elif rates.drop_epochs and min(rates.drop_epochs) * steps_per_epoch >= num_steps:
        log.warning(
            "the learning rate never falls: config.optimizer.drop_epochs begin at %g, and the run"
            " ends at epoch %.1f. %s",
            min(rates.drop_epochs),
            num_steps / steps_per_epoch,
            remedy,
        )


def new_estimate(
    config: Any, description: Description, model: MSPN | None = None, devices: Devices = None
) -> Any:
    """`inference.estimate_on_devices` of the described network, or of a folded `model`."""
    return inference.estimate_on_devices(
        model or description.new_model(dtype=jnp.dtype(config.dtype), folded=True),
        description.new_skeleton().flip_permutation,
        config.eval.flip_test,
        devices=devices,
        decoding=config.eval.decoding,
    )


def check_batch(batch_size: int, num_parts: int, num_devices: int) -> None:
    """Raises UsageError if a batch does not divide by the devices and their micro-batches."""
    if batch_size % (num_devices * num_parts):
        raise UsageError(
            f"batch_size {batch_size} does not divide among {num_devices} devices"
            + (f" in {num_parts} parts each (accumulate)" if num_parts > 1 else "")
        )


def skeleton_of(config: Any) -> Skeleton:
    """The config's skeleton. Where `config.skeleton` is empty, it is the data's own."""
    if config.skeleton:
        return skeleton_named(config.skeleton)
    return _logged(skeleton_of_data(config.data.root, config.data.train_split))


def skeleton_of_data(root: str, split: str, default: Skeleton | None = None) -> Skeleton:
    """A data set's own skeleton: `root`/skeleton.json, or what its `categories` describe."""
    folder = paths.path(root)
    path = folder / SKELETON_FILE
    with paths.named(folder):
        has_file = path.exists()
    if has_file:
        return skeletons.read(mirror.fetched(path))
    file = annotation_file(root, split)
    return categories.described(load_json(file, keep=True), file, default)


def skeleton_named(name: str) -> Skeleton:
    """A built-in skeleton by name, or one from a file. Logs what the file holds."""
    if name in SKELETONS:
        return SKELETONS[name]
    if not os.path.isfile(name):
        raise UsageError(
            f"no skeleton {name!r}: neither one of {', '.join(SKELETONS)}, nor a file"
            " (docs/own_data.md says what it holds)"
        )
    return _logged(skeletons.read(name))


def _logged(skeleton: Skeleton) -> Skeleton:
    pairs = sum(side == "left" for side in skeleton.sides)
    log.info(
        "skeleton %s: %d keypoints, %d limbs, %s",
        skeleton.name,
        skeleton.num_keypoints,
        len(skeleton.limbs),
        f"{pairs} pairs of left and right"
        if pairs
        else "no left or right in the names, so that mirrored pictures keep every name",
    )
    return skeleton


def check_described(config: Any, description: Description) -> None:
    """Raises UsageError if a checkpoint's network is not the config's."""
    model = description.model | {"num_keypoints": config.model.get("num_keypoints")}
    for key, value in config.model.items():
        of_checkpoint = model[key]
        if list(np.ravel(of_checkpoint)) != list(np.ravel(value)):
            raise UsageError(
                f"the checkpoint is of {description.variant}, with {key} {of_checkpoint}, but the"
                f" config says {value}: give the config it was trained with"
            )
    if tuple(config.crop_hw) != description.crop_hw:
        raise UsageError(
            f"the checkpoint is of {description.crop_hw} crops, the config of"
            f" {tuple(config.crop_hw)}"
        )


# Keys that a resumed run cannot change, and why.
_FIXED = {
    "batch_size": "its steps, data and learning rate are counted in it. For less memory a device,"
    " set accumulate",
    "crop_hw": "its weights and its best checkpoint are for crops of that size",
}


def check_resumable(config: ConfigDict, workdir: paths.Path) -> None:
    """Compares a config with that of the workdir's run and logs the differences."""
    path = workdir / "config.json"
    try:
        content = files.parsed_object(files.read_text(path))
    except FileNotFoundError:
        return
    except ValueError as error:
        raise UsageError(
            f"{path}: damaged ({error}), so nothing tells the batch_size that this run began with."
            f" If it was {config.batch_size}, delete the file and run the same command again"
        ) from None
    before = ranges.flat(content)
    now = ranges.flat(as_dict(config))
    for key, why in _FIXED.items():
        if before.get(key, now[key]) != now[key]:
            raise UsageError(
                f"{workdir}: its run began with {key} {before[key]!r} and cannot continue"
                f" with {now[key]!r}: {why}. For another {key}, use another --workdir with"
                f" config.init.checkpoint={workdir}"
            )
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            old, new = before.get(key), now.get(key)
            log.warning("config.%s was %s when this run began, and is now %s", key, old, new)


def as_dict(config: ConfigDict) -> dict[str, Any]:
    """The config as json holds it."""
    return json.loads(config.to_json_best_effort())


def check_same_keypoints(before: Description, now: Description) -> None:
    """Raises UsageError if a resumed run would have other keypoints."""
    names = [d.skeleton and d.skeleton.keypoint_names for d in (before, now)]
    if names[0] != names[1]:
        raise UsageError(
            f"this workdir's run is of keypoints {', '.join(names[0] or ['unknown'])}; the config's"
            f" skeleton has {', '.join(names[1] or ['unknown'])}: give another --workdir"
        )
