"""The keys of the training loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from kanvolution.checks import integer_at_least
from kanvolution.registry import unknown_name

PRECISIONS = ("no", "bf16", "fp16")


def _key(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass
class TrainerConfig:
    """How the loop runs. Raises ValueError for a value out of range."""

    epochs: int = _key(20, "passes over the training images")
    batch_size: int = _key(64, "images taken at once, on each device")
    accumulation: int = _key(1, "batches whose gradients are averaged for one step")
    grad_clip: float = _key(1.0, "largest norm of the gradient; 0 leaves it as it is, and so does optim=lbfgs")
    ema: float = _key(0.0, "decay of a running mean of the weights, validated and saved in their place; 0: none")
    mixed_precision: str = _key("no", "no, bf16 or fp16 (fp16 needs a GPU)")
    compile: bool = _key(False, "compile the model with torch.compile")
    channels_last: bool = _key(False, "keep images and weights in channels-last order, faster on most GPUs")
    grad_checkpointing: bool = _key(False, "keep fewer activations and compute them again in backward")
    fsdp: bool = _key(False, "spread weights and optimiser state over the processes (FSDP) instead of copying them")
    sync_batch_norm: bool = _key(False, "batch norms take mean and variance over the images of all processes (GPUs)")
    max_steps: int = _key(0, "at most so many steps, and so many batches of validation, in an epoch; 0: all")
    checkpoint_steps: int = _key(0, "save the state for resume every so many steps too, not only after each epoch")
    keep_last: int = _key(1, "newest states kept for resume until the run is finished")
    keep_best: str | None = _key(None, "metric of validation (top1, ...) whose best weights are kept in best/ as well")
    num_workers: int = _key(0, "processes that prepare images; 0 is best for small images in memory")
    cpu: bool = _key(False, "use the CPU even where there is a GPU")

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulation", "keep_last"):
            integer_at_least(f"trainer.{name}", getattr(self, name), 1)
        for name in ("max_steps", "checkpoint_steps", "num_workers"):
            integer_at_least(f"trainer.{name}", getattr(self, name), 0)
        if not self.grad_clip >= 0:
            raise ValueError(f"trainer.grad_clip (={self.grad_clip}) must be >= 0; 0 switches clipping off")
        if not 0 <= self.ema < 1:
            raise ValueError(f"trainer.ema (={self.ema}) must be >= 0 and < 1, e.g. 0.999; 0 switches it off")
        if self.mixed_precision not in PRECISIONS:
            raise ValueError(unknown_name("trainer.mixed_precision", self.mixed_precision, PRECISIONS))
        if self.mixed_precision == "fp16" and (self.cpu or not torch.cuda.is_available()):
            raise ValueError("trainer.mixed_precision (='fp16') needs a GPU; on a CPU use bf16 or no")
        if self.sync_batch_norm and (self.cpu or not torch.cuda.is_available()):
            raise ValueError(
                "trainer.sync_batch_norm (=True) needs GPUs, since PyTorch's SyncBatchNorm has no form for CPUs; set "
                "it to false, or take a norm without statistics of the batch: conv.norm=instance, layer or group"
            )
        if self.mixed_precision == "fp16" and self.fsdp:
            raise ValueError("trainer.mixed_precision (='fp16') does not go with trainer.fsdp; use bf16")
