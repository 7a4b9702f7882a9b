"""Evaluates a checkpoint: see mspn_jax/commands/eval.py, or python eval.py --help."""

from mspn_jax.commands.eval import command

if __name__ == "__main__":
    command()
