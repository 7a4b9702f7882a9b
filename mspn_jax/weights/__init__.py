"""A network's weights: our checkpoints, a training run's, PyTorch's files, and what turns one into
another."""

from mspn_jax.weights.conversion import from_torch, to_torch
from mspn_jax.weights.torch.state_dicts import read as read_torch

__all__ = ["from_torch", "read_torch", "to_torch"]
