"""Times of networks beside one another, so that a busy machine slows all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch


def in_turns(candidates: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each candidate, one after the other in every turn; two turns more are not counted."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(repeats + 2):  # the first ones compile and warm up
        for name, function in candidates.items():
            begun = time.perf_counter()
            function()
            if torch.accelerator.is_available():
                torch.accelerator.synchronize()
            if turn > 1:
                times[name].append(1000 * (time.perf_counter() - begun))
    return times
