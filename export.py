"""Makes files to deploy: see mspn_jax/commands/export.py, or python export.py --help."""

from mspn_jax.commands import cli

if __name__ == "__main__":
    cli.run("export")
