"""Random numbers that depend on the seed and the place in the run alone.

Every step begins with generators seeded from (seed, epoch, step, process), every batch of images is prepared with
generators seeded from (seed, epoch, first image). So nothing about random numbers has to be stored to continue a run,
and neither the number of workers nor how far they read ahead changes an image.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

_ORDER, _IMAGES, _STEP = range(3)


def _mixed(*numbers: int) -> int:
    """A seed of 64 bits from several numbers; similar numbers give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def seed_step(seed: int, epoch: int, step: int, process: int) -> None:
    """Seed Python's, NumPy's and torch's global generators, on all devices, for a training step of a process."""
    mixed = _mixed(_STEP, seed, epoch, step, process)
    random.seed(mixed)
    np.random.seed(mixed % 2**32)
    torch.manual_seed(mixed)


@contextlib.contextmanager
def _seeded(mixed: int) -> Iterator[None]:
    """Within the block the global generators of the CPU start from a seed; afterwards they are as before."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(mixed)
        np.random.seed(mixed % 2**32)
        torch.default_generator.manual_seed(mixed)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)


class Ticket(NamedTuple):
    """Asks for an image in an epoch. It carries the epoch to wherever the image is prepared, other processes too."""

    epoch: int
    image: int


class EpochSampler(Sampler[Ticket]):
    """A new order of all images in every epoch, or a part of it.

    Args:
        size: number of images.
        seed: of the orders.
        limit: how many images of an order to give; None for all.
    """

    def __init__(self, size: int, seed: int, limit: int | None = None) -> None:
        self.size = size
        self.seed = seed
        self.count = size if limit is None else min(size, limit)
        self.begin(1)

    def begin(self, epoch: int, skip: int = 0) -> None:
        """Which order is given next, and how many of its images are left out at the front."""
        self.epoch = epoch
        self.skip = skip

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Ticket]:
        generator = torch.Generator().manual_seed(_mixed(_ORDER, self.seed, self.epoch) % 2**63)
        order = torch.randperm(self.size, generator=generator)[self.skip : self.count].tolist()
        return iter([Ticket(self.epoch, index) for index in order])


class SeededImages(Dataset):
    """A data set whose items are asked for with a `Ticket`, and whose augmentation follows from seed and ticket.

    The images of a batch are prepared with one stream of random numbers, that of its first image.
    """

    def __init__(self, images: Dataset, seed: int) -> None:
        self.images = images
        self.seed = seed

    def __len__(self) -> int:
        return len(self.images)  # pyright: ignore[reportArgumentType]

    def __getitem__(self, ticket: Ticket) -> Any:
        return self.__getitems__([ticket])[0]

    def __getitems__(self, tickets: Sequence[Ticket]) -> list[Any]:
        with _seeded(_mixed(_IMAGES, self.seed, *tickets[0])):
            indices = [ticket.image for ticket in tickets]
            together = getattr(self.images, "__getitems__", None)
            return [self.images[i] for i in indices] if together is None else together(indices)
