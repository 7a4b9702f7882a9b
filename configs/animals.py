"""Drawn animals with 11 keypoints; docs/own_data.md makes one's own of it. Minutes on two cores."""

from mspn_jax.configs import quickstart


def get_config():
    config = quickstart.get_config()
    config.variant = "animals"
    config.skeleton = "data/animals/quadruped.json"  # mspn_jax.synthetic.animals writes it
    config.data.root = "data/animals"
    config.crop_hw = (96, 128)  # animals are wider than high
    config.num_hard_keypoints = 11  # all of them
    config.num_epochs = 8
    config.optimizer.drop_epochs = (2.7, 4.0, 5.0, 5.8, 6.4, 7.0, 7.4, 7.7)
    return config
