"""3xMSPN-50: 3 stages of ResNet-50's width, COCO, 256x192."""

from mspn_jax.configs import default


def get_config():
    return default.get_config("3xmspn50_coco_256x192", num_stages=3)
