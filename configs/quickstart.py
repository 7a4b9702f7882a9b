"""A small two-stage MSPN on drawn people: minutes on two CPU cores. `make quickstart` runs it."""

from configs import default


def get_config():
    config = default.get_config("quickstart", num_stages=2)
    config.crop_hw = (128, 96)
    config.model.blocks_per_unit = (1, 1, 1, 1)
    config.model.stem_channels = 16
    config.model.unit_channels = 64

    config.data.root = "data/synthetic"  # python -m mspn_jax.data.synthetic draws them
    # Drawn people are as many as one likes: little needs to be made of each.
    config.augment.half_body_probability = 0.0
    config.augment.rotation_probability = 0.0
    config.augment.scale = 0.2

    config.batch_size = 16
    config.num_epochs = 6
    config.optimizer.learning_rate = 0.16  # at batch 256, so 0.01 at 16
    config.optimizer.warmup_steps = 50
    config.optimizer.drop_epochs = (4, 5.5)
    config.eval.every_epochs = 0
    return config
