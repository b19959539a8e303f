"""How cases are measured."""

from __future__ import annotations

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


@dataclass(frozen=True)
class Settings:
    """How cases are measured.

    Args:
        backends: the backends of our layers that take part (see `ops.BACKENDS`).
        rounds: how many times each contestant is timed.
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

    backends: tuple[str, ...] = ("eager", "compile")
    rounds: int = 7
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
        for backend in self.backends:
            check_backend(backend)
        named: tuple[tuple[str, str, Mapping[str, object]], ...] = (
            ("clock", self.clock, CLOCKS),
            ("dtype", self.dtype, DTYPES),
        )
        for kind, name, known in named:
            if name not in known:
                raise ValueError(unknown_name(kind, name, known))
        for name in ("rounds", "threads", "batch", "size"):
            value = getattr(self, name)
            if value is not None:
                integer_at_least(name, value, 1)
        device = torch.device(self.device).type
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"device (={self.device!r}): PyTorch finds no CUDA device here; use device='cpu'")
        if device != "cpu" and self.clock != "wall":
            raise ValueError(f"clock (={self.clock!r}) measures processors, and device is {device!r}; use clock='wall'")
        if device not in ("cpu", "cuda"):
            raise ValueError(f"device (={self.device!r}) must be 'cpu' or 'cuda': times of others are not waited for")

    def now(self) -> float:
        """Seconds of the clock, when all work given to the device is done."""
        if torch.device(self.device).type == "cuda":
            torch.cuda.synchronize(self.device)
        return CLOCKS[self.clock]()
