"""python -m mspn_jax, the same as mspn."""

from mspn_jax.commands.cli import main

if __name__ == "__main__":
    main()
