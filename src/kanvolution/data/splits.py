"""Splits of a data set: seeded, disjoint, and with the share of every class kept where there are labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def stratified_split(labels: Sequence[int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices of the training part and of the held-out part, in increasing order; the same for the same arguments.

    Args:
        labels: class of every sample.
        fraction: share of every class to hold out, in (0, 1), rounded to whole samples and at least one.
        seed: of the choice.

    Raises:
        ValueError: `fraction` out of range, or a class of a single sample.

    Example:
        >>> from kanvolution.data import stratified_split
        >>> train, held_out = stratified_split([0] * 10 + [1] * 5, fraction=0.2, seed=0)
        >>> len(train), len(held_out)
        (12, 3)
    """
    _check(fraction)
    array = np.asarray(labels)
    # RandomState and not default_rng: its streams are frozen, so the split is the same with every NumPy.
    random = np.random.RandomState(seed)
    train: list[int] = []
    held_out: list[int] = []
    for label in np.unique(array):
        members = random.permutation(np.flatnonzero(array == label))
        if len(members) < 2:
            raise ValueError(f"class {label} has {len(members)} sample; a split needs at least 2 of each class")
        count = min(max(1, round(len(members) * fraction)), len(members) - 1)
        held_out += members[:count].tolist()
        train += members[count:].tolist()
    return sorted(train), sorted(held_out)


def random_split(count: int, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices below `count` of the training part and of the held-out part, as `stratified_split` of a single class.

    Raises:
        ValueError: `fraction` out of range, or fewer than two samples.
    """
    _check(fraction)
    if count < 2:
        raise ValueError(f"there is {count} sample; a split needs at least 2")
    return stratified_split([0] * count, fraction, seed)


def _check(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise ValueError(f"fraction (={fraction}) must be between 0 and 1, e.g. 0.2 for a fifth")
