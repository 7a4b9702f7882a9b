"""Fine-tunes a published network on some hundreds of people or things: docs/own_data.md."""

from ml_collections import ConfigDict

from mspn_jax.configs import default


def get_config():
    config = default.get_config("finetune", num_stages=1)
    config.skeleton = ""  # the data's own
    config.data.root = "data/own"
    config.data.train_split = "train"
    config.data.val_split = "val"
    config.init.checkpoint = "mspn50"  # other keypoints get new heads
    config.augment.color_probability = 0.5  # few photographs show few cameras and lights
    config.batch_size = 32
    config.num_epochs = 100
    config.optimizer.learning_rate = 4e-3  # at batch 256, so 5e-4 at 32
    config.eval.every_epochs = 10
    config.stop_after = 4
    return fine_tuned(config)


def fine_tuned(config: ConfigDict) -> ConfigDict:
    """Sets what fine-tuning on few people needs, whatever the network."""
    config.optimizer.schedule = "cosine"
    config.ema_decay = 0.99
    config.eval.metrics = ("PCK@0.05", "PCK@0.1", "EPE")
    config.eval.report = True
    config.checkpoint.every_steps = 100
    config.log_every_steps = 10
    return config
