"""4xMSPN-50: 4 stages, MPII, 256x256. The authors report PCKh@0.5 .911, and publish no weights."""

from mspn_jax.configs import mspn50_mpii_256x256


def get_config():
    config = mspn50_mpii_256x256.get_config()
    config.variant = "4xmspn50_mpii_256x256"
    config.model.num_stages = 4
    return config
