"""Weights of a network: checkpoints, a run's checkpoints, PyTorch's files, and conversion."""

from mspn_jax.weights.conversion import from_torch, to_torch
from mspn_jax.weights.torch.state_dicts import read as read_torch

__all__ = ["from_torch", "read_torch", "to_torch"]
