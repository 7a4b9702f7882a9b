"""Looks at a data set before training: mspn_jax/commands/browse.py has the flags."""

from mspn_jax.commands import cli

if __name__ == "__main__":
    cli.run("browse")
