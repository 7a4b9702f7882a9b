"""MSPN-50: 1 stage, CrowdPose, 256x192; docs/crowds.md."""

from mspn_jax.configs import default


def get_config():
    config = default.get_config("mspn50_crowdpose_256x192", num_stages=1)
    config.skeleton = "crowdpose"
    config.data.root = "data/crowdpose"
    config.data.train_split = "trainval"
    config.data.val_split = "test"
    config.eval.box_area_share = 0.53  # CrowdPose has no areas, and its evaluation takes these
    return config
