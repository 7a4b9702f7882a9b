"""The config beside imported annotations: a network and a schedule that fit them."""

import math

import numpy as np
from jaxtyping import Float

from mspn_jax.skeletons import Skeleton

_STEPS = 4000  # of a training; few instances make it shorter
# crop_hw: the least width over height of boxes
_SHAPES = {(192, 256): 1.2, (256, 256): 0.83, (256, 192): 0.0}
_TEXT = '''"""{name}: {count} instances with {keypoints} keypoints, from {tool}. To be edited.

{command}
"""

from pathlib import Path

from mspn_jax.configs import finetune


def get_config():
    config = finetune.get_config()  # the network of mspn50, and a schedule that fits any run
    config.variant = "{name}"
    config.data.root = str(Path(__file__).resolve().parent)
    config.init.checkpoint = "mspn50"  # the published network, fetched once; "": new weights
    config.crop_hw = {crop_hw}  # height, width: of the most usual boxes
    # Without an accelerator, a small network instead, with new weights:
    # config.init.checkpoint = ""
    # config.model.blocks_per_unit, config.model.stem_channels = (2, 2, 1, 1), 16
    # config.model.unit_channels = 64
    config.batch_size = {batch_size}
    config.num_epochs = {num_epochs}  # {steps:,} steps
    config.num_hard_keypoints = {keypoints}  # all of them
    config.eval.every_epochs = {every_epochs}
    return config
'''


def config_text(skeleton: Skeleton, aspects: Float[np.ndarray, "N"], tool: str) -> str:
    """A config file for a folder of annotations; `aspects` are width over height of the boxes."""
    count = len(aspects)
    aspect = float(np.median(aspects)) if count else 1.0
    crop_hw = next(shape for shape, least in _SHAPES.items() if aspect >= least)
    batch_size = 32 if count >= 2000 else 16
    steps_an_epoch = max(math.ceil(0.8 * count / batch_size), 1)  # of the usual split
    num_epochs = min(max(math.ceil(_STEPS / steps_an_epoch), 20), 200)
    steps = num_epochs * steps_an_epoch
    return _TEXT.format(
        name=skeleton.name,
        count=f"{count:,}",
        keypoints=skeleton.num_keypoints,
        tool=tool,
        command=f"mspn train --config THIS_FILE --workdir runs/{skeleton.name}",
        crop_hw=crop_hw,
        batch_size=batch_size,
        num_epochs=num_epochs,
        steps=steps,
        every_epochs=max(num_epochs // 10, 1),
    )
