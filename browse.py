"""Looks at a data set before training: mspn_jax/commands/browse.py has the flags."""

from mspn_jax.commands.browse import command

if __name__ == "__main__":
    command()
