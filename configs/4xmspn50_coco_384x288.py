"""4xMSPN-50: 4 stages, COCO, 384x288. The authors report AP .769, and publish no weights of it."""

from mspn_jax.configs import default


def get_config():
    config = default.get_config("4xmspn50_coco_384x288", num_stages=4)
    config.crop_hw = (384, 288)
    return config
