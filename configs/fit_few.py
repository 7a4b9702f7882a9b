"""Fits a few people, to see that everything learns: docs/coco.md has the command and the metric."""

from mspn_jax.configs import default


def get_config():
    config = default.get_config("fit_few", num_stages=1)
    # Some joints are labelled far beyond their person's box, and what a cell covers of so wide a
    # crop must stay small: perfect heatmaps give these people AP 1.00, at 256x192 only 0.93.
    config.crop_hw = (384, 288)
    config.padding = 2.0
    # Deep where it is coarse: who is in the middle of a crop of several can only be told from far.
    config.model.blocks_per_unit = (1, 1, 2, 3)
    config.model.stem_channels = 32
    config.model.unit_channels = 64

    config.data.val_split = config.data.train_split
    config.data.first_people = 32
    for key in config.augment:
        if key.endswith("probability"):
            config.augment[key] = 0.0

    config.batch_size = 8
    config.num_epochs = 320  # of four steps each
    config.num_hard_keypoints = 17
    config.optimizer.learning_rate = 0.32  # at batch 256, so 0.01 at 8
    config.optimizer.warmup_steps = 20
    config.optimizer.drop_epochs = (195.0, 245.0, 280.0, 303.0)
    config.optimizer.drop_factor = 0.3
    config.eval.every_epochs = 0
    config.eval.flip_test = False
    return config
