"""Evaluates a checkpoint: see mspn_jax/commands/eval.py, or python eval.py --help."""

from mspn_jax.commands import cli

if __name__ == "__main__":
    cli.run("eval")
