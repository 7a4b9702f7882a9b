"""Fine-tunes the quickstart's network, which knows drawn people, on drawn animals."""

from mspn_jax.configs import animals, finetune


def get_config():
    config = animals.get_config()
    config.variant = "animals_finetune"
    config.init.checkpoint = "runs/quickstart"
    config.num_steps = 400
    return finetune.fine_tuned(config)
