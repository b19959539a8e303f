import random

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from kanvolution.train.randomness import EpochSampler, SeededImages, Ticket, seed_step


class Noise(Dataset):
    """Items that depend on all generators an augmentation may use."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([index, random.random(), np.random.rand(), float(torch.rand(()))], dtype=torch.float64)


def epoch(number: int, workers: int = 0, skip: int = 0, seed: int = 0) -> torch.Tensor:
    sampler = EpochSampler(12, seed)
    sampler.begin(number, skip)
    context = {"multiprocessing_context": "fork"} if workers else {}
    loader = DataLoader(SeededImages(Noise(), seed), 3, sampler=sampler, num_workers=workers, **context)
    return torch.cat(list(loader))


def test_an_epoch_is_a_permutation_and_differs_from_the_next_and_from_other_seeds() -> None:
    orders = [epoch(1), epoch(2), epoch(1, seed=1)]
    assert all(sorted(order[:, 0].tolist()) == list(range(12)) for order in orders)
    assert len({tuple(order[:, 0].tolist()) for order in orders}) == 3
    assert len(torch.cat(orders)[:, 3].unique()) == 36


def test_images_depend_on_seed_and_epoch_alone() -> None:
    first = epoch(3)
    torch.manual_seed(5)
    random.seed(5)
    assert torch.equal(first, epoch(3))
    assert torch.equal(first, epoch(3, workers=2))
    assert torch.equal(first[6:], epoch(3, skip=6))


def test_preparing_images_leaves_the_generators_as_they_were() -> None:
    seed_step(0, 1, 2, 0)
    expected = (random.random(), np.random.rand(), torch.rand(()))
    seed_step(0, 1, 2, 0)
    SeededImages(Noise(), 0)[Ticket(1, 5)]
    assert (random.random(), np.random.rand(), torch.rand(())) == expected


def test_steps_and_processes_have_numbers_of_their_own() -> None:
    values = set()
    for place in [(0, 1, 0, 0), (0, 1, 1, 0), (0, 2, 0, 0), (0, 1, 0, 1), (1, 1, 0, 0)]:
        seed_step(*place)
        values.add(float(torch.rand(())))
    assert len(values) == 5


def test_a_limit_shortens_every_epoch_to_other_images() -> None:
    sampler = EpochSampler(12, 0, limit=4)
    assert len(sampler) == 4
    first = [ticket.image for ticket in sampler]
    sampler.begin(2)
    assert len(first) == 4 and [ticket.image for ticket in sampler] != first
