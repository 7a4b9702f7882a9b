"""Finds people's keypoints: see mspn_jax/commands/predict.py, or python predict.py --help."""

from mspn_jax.commands import cli

if __name__ == "__main__":
    cli.run("predict")
