"""Trains MSPN: see mspn_jax/commands/train.py, or python train.py --help."""

from mspn_jax.commands import cli

if __name__ == "__main__":
    cli.run("train")
