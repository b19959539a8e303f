"""Inputs and weights of the stored outputs of torch-conv-kan's networks: they follow from their names."""

import zlib

import numpy as np
import torch
from torch import Tensor


def normal(name: str, shape: list[int]) -> np.ndarray:
    generator = np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode())))
    return generator.standard_normal(tuple(shape)).astype(np.float32)


def value(key: str, shape: list[int], salt: str) -> Tensor:
    """The entry of a state dict that the stored outputs were computed with."""
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    drawn = normal(salt + key, shape)
    if key.endswith("running_var"):
        drawn = 1 + 0.1 * np.abs(drawn)
    elif key.endswith(("running_mean", "bias")) or "beta_weights" in key:
        drawn = 0.1 * drawn
    elif len(shape) >= 2 and not key.endswith("scale"):
        drawn = drawn / np.sqrt(np.prod(shape[2:] if "poly_weights" in key else shape[1:]))
    else:
        drawn = 1 + 0.1 * drawn
    return torch.from_numpy(drawn.astype(np.float32))
