"""Bytes of a training step: what is kept for backward, and the most that there is at once."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import torch
from torch import Tensor

from kanvolution.benchmark.contestants import Contestant


def kept(contestant: Contestant) -> int:
    """Bytes of the distinct storages that a forward saves for backward, parameters and buffers left out."""
    module = contestant.module
    known = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # a graph that holds a result of its own would stay

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), contestant.context():
        y = module(contestant.x)
    del y
    return sum(saved.values())


def peak(contestant: Contestant) -> int:
    """The most bytes that a training step holds at once beside what there is before it (parameters, the input).

    Gradients are among them. On a GPU it is what PyTorch's allocator says; on a CPU the largest sum of what the
    allocator was asked for and has not got back, as the profiler records it. Unlike the resident memory of the process,
    that is the same in every run, and knows what compiled loops allocate. It does not know what oneDNN allocates for
    itself, neither for the plain convolution nor for ours.
    """
    device = contestant.x.device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        contestant.step()
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it reports every start and stop
    with torch.autograd.profiler.profile(use_kineto=False, profile_memory=True) as profile:
        result = contestant.step()
        del result
    recorded: Any = profile
    events = [event for event in recorded.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def keep_freed_memory() -> None:
    """Let this process keep blocks below 32 MiB that tensors on a CPU have given back; glibc is its C library.

    glibc decides by what has happened before which blocks it returns to the system, and that clears a block page by
    page when it is asked for again: time that is no contestant's own. Larger blocks are always returned, with or
    without this.
    """
    library = ctypes.CDLL(None)
    library.mallopt(_M_MMAP_THRESHOLD, 2**25)
    library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # as in malloc.h
