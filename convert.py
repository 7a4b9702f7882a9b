"""Converts checkpoints: see mspn_jax/commands/convert.py, or python convert.py --help."""

from mspn_jax.commands.convert import command

if __name__ == "__main__":
    command()
