"""A small two-stage MSPN on drawn people: minutes on two CPU cores. `make quickstart` runs it."""

from mspn_jax.configs import default


def get_config():
    config = default.get_config("quickstart", num_stages=2)
    config.crop_hw = (128, 96)
    config.padding = 1.1  # crops are small: the person should fill them
    config.model.blocks_per_unit = (2, 2, 1, 1)
    config.model.stem_channels = 16
    config.model.unit_channels = 64

    config.data.root = "data/synthetic"  # python -m mspn_jax.synthetic.people draws them
    # Drawn people are as many as one likes: little needs to be made of each.
    config.augment.half_body_probability = 0.0
    config.augment.rotation_probability = 0.0
    config.augment.scale = 0.1

    config.batch_size = 16
    config.num_epochs = 5
    config.optimizer.learning_rate = 0.16  # at batch 256, so 0.01 at 16
    config.optimizer.warmup_steps = 50
    # So few steps are better spent on all joints than on each person's hardest, and with a rate
    # that falls little by little.
    config.num_hard_keypoints = 17
    config.optimizer.drop_epochs = (1.7, 2.5, 3.1, 3.6, 4.0, 4.35, 4.6, 4.8)
    config.optimizer.drop_factor = 0.5
    config.eval.every_epochs = 0
    return config
