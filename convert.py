"""Converts checkpoints: see mspn_jax/commands/convert.py, or python convert.py --help."""

from mspn_jax.commands import cli

if __name__ == "__main__":
    cli.run("convert")
