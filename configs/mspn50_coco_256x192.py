"""MSPN-50: 1 stage of ResNet-50's width, COCO, 256x192."""

from mspn_jax.configs import default


def get_config():
    return default.get_config("mspn50_coco_256x192", num_stages=1)
