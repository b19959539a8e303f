"""How cases are measured."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from kanvolution.checks import integer_at_least
from kanvolution.ops.backends import check_backend
from kanvolution.registry import unknown_name

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
"""wall: elapsed time. cpu: the time processors worked on this process; on a shared machine the steadier one."""

DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""The types that convolutions compute in; the 16-bit ones by autocast, with parameters in float32."""


BY_DEVICE: dict[str, tuple[tuple[str, ...], int]] = {
    "cpu": (("eager", "compile"), 1),
    "cuda": (("eager", "triton"), 10),
}
"""Backends and repeats by the type of a device."""


@dataclass(frozen=True)
class Settings:
    """How cases are measured.

    Args:
        backends: the backends of our layers that take part (see `ops.BACKENDS`); by default those of `BY_DEVICE`.
        rounds: how many times each contestant is timed.
        repeats: calls in a row whose mean is one time, fewer where they are long; by default as in `BY_DEVICE`. On a
            GPU, as in training, Python prepares a call while the device still works on the one before.
        captured: whether the GPU's work for a call is recorded once as a CUDA graph, and its replay is timed: the time
            of the device alone, without Python's. Both together are what a layer costs: the larger is what one sees.
        keep_memory: whether the process keeps blocks below 32 MiB that tensors on a CPU have given back, from then on;
            it needs glibc. See `benchmark.memory.keep_freed_memory`.
        clock: a name of `CLOCKS`; "wall" on a GPU.
        threads: threads of PyTorch; None leaves them as they are.
        device: "cpu", "cuda", ...
        dtype: a name of `DTYPES`.
        channels_last: whether inputs and weights are channels-last.
        profile: whether a training step's time is taken apart (see `benchmark.parts`).
        cold: whether compilation starts with empty caches, and its time is reported.
        batch, size: in place of the cases' own.
        peer: a checkout of torch-conv-kan, whose layers then take part beside ours with their weights.

    Raises:
        ValueError: an unknown name, or a value out of range.
    """

    backends: tuple[str, ...] = ()
    rounds: int = 7
    repeats: int | None = None
    captured: bool = False
    keep_memory: bool = False
    clock: str = "wall"
    threads: int | None = None
    device: str = "cpu"
    dtype: str = "float32"
    channels_last: bool = False
    profile: bool = False
    cold: bool = False
    batch: int | None = None
    size: int | None = None
    peer: str | Path | None = None

    def __post_init__(self) -> None:
        device = torch.device(self.device).type
        backends, repeats = BY_DEVICE.get(device, BY_DEVICE["cpu"])
        # The one way to fill in a field of a frozen dataclass.
        object.__setattr__(self, "backends", self.backends or backends)
        object.__setattr__(self, "repeats", repeats if self.repeats is None else self.repeats)
        for backend in self.backends:
            check_backend(backend)
        named: tuple[tuple[str, str, Mapping[str, object]], ...] = (
            ("clock", self.clock, CLOCKS),
            ("dtype", self.dtype, DTYPES),
        )
        for kind, name, known in named:
            if name not in known:
                raise ValueError(unknown_name(kind, name, known))
        for name in ("rounds", "repeats", "threads", "batch", "size"):
            value = getattr(self, name)
            if value is not None:
                integer_at_least(name, value, 1)
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"device (={self.device!r}): PyTorch finds no CUDA device here; use device='cpu'")
        if device != "cpu" and self.clock != "wall":
            raise ValueError(f"clock (={self.clock!r}) measures processors, and device is {device!r}; use clock='wall'")
        if self.captured and device != "cuda":
            raise ValueError(f"captured (=True) records the work of a GPU, and device is {device!r}; use device='cuda'")
        if self.captured and self.profile:
            raise ValueError("captured and profile (=True): a recorded step has no parts; measure them apart")
        if self.keep_memory and (device != "cpu" or platform.libc_ver()[0] != "glibc"):
            raise ValueError("keep_memory (=True) is for tensors on a CPU and glibc; leave it out here")
        if device not in ("cpu", "cuda"):
            raise ValueError(f"device (={self.device!r}) must be 'cpu' or 'cuda': times of others are not waited for")

    def now(self) -> float:
        """Seconds of the clock, when all work given to the device is done."""
        if torch.device(self.device).type == "cuda":
            torch.cuda.synchronize(self.device)
        return CLOCKS[self.clock]()
