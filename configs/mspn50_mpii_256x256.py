"""MSPN-50: 1 stage, MPII, 256x256, with the authors' recipe; docs/mpii.md has the differences."""

from mspn_jax.configs import default

JOINTS = ("head_top", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")


def get_config():
    config = default.get_config("mspn50_mpii_256x256", num_stages=1)
    config.skeleton = "mpii"
    config.crop_hw = (256, 256)
    config.data.root = "data/mpii"  # mspn import and mspn split make it
    config.data.train_split = "train"
    config.data.val_split = "val"
    config.augment.half_body_probability = 0.5
    config.augment.shift_probability = 0.0
    config.augment.scale = 0.25
    config.augment.rotation_probability = 0.5
    config.augment.rotation_deg = 60.0
    config.num_steps = 28_800
    config.optimizer.learning_rate = 4e-3  # at batch 256: the authors' 5e-4 for each of 8 GPUs
    config.optimizer.schedule = "linear"
    config.optimizer.warmup_share = 2_400 / 28_800
    config.eval.every_epochs = 20
    config.eval.metrics = ("PCKh@0.5", "PCKh@0.1", *(f"PCKh@0.5/{joint}" for joint in JOINTS))
    return config
