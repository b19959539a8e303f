"""One process or many: what they share, and what the first one does for all."""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import nn

from kanvolution.extras import require
from kanvolution.train.config import TrainerConfig

T = TypeVar("T")


def is_main() -> bool:
    """Whether this process is the first of those that torchrun (or another launcher) started; true without one."""
    return int(os.environ.get("RANK", "0")) == 0


@contextlib.contextmanager
def accelerator_of(trainer: TrainerConfig, seed: int) -> Iterator[Any]:
    """The `accelerate.Accelerator` of a run.

    A process group that it has to make stays for the runs that follow, since torch cannot make a second one from the
    same launch; it ends with the process.
    """
    accelerate = require("accelerate", "train")
    state = require("accelerate.state", "train")
    distributed = torch.distributed
    # Accelerate keeps its settings in class-wide state and refuses others later: every run starts anew, and a program
    # that uses Accelerate itself finds its own again.
    shared = [getattr(state, name)._shared_state for name in ("AcceleratorState", "PartialState", "GradientState")]
    before = [dict(values) for values in shared]
    for values in shared:
        values.clear()
    existed = distributed.is_initialized()
    accelerate.utils.set_seed(seed)
    try:
        accelerator = accelerate.Accelerator(cpu=trainer.cpu, mixed_precision=trainer.mixed_precision)
        if distributed.is_initialized() and not existed:
            atexit.register(_end_process_group)
        yield accelerator
    finally:
        for values, old in zip(shared, before, strict=True):
            values.clear()
            values.update(old)


def share_buffers(model: nn.Module) -> None:
    """The buffers of the first process, statistics of batch norms say, in all processes."""
    for buffer in model.buffers():
        torch.distributed.broadcast(buffer, src=0)


def synchronise_batch_norms(model: nn.Module) -> None:
    """Let the batch norms of a model take mean and variance over the images of all processes, in place.

    Their parameters and statistics stay the same tensors, under the same names.
    """
    # Part by part: for a batch norm that is itself a model it returns another module.
    for name, child in list(model.named_children()):
        setattr(model, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))


def _end_process_group() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def on_main(accelerator: Any, action: Callable[[], T]) -> T:
    """Run `action` in the main process alone; its result, of plain types, is the result in every process.

    Raises:
        Exception: what `action` raised. In the other processes it is a ValueError for a ValueError, and an OSError for
            any other.
    """
    if accelerator.num_processes == 1:
        return action()
    outcome: list[Any] = [None, None, None]
    failure: Exception | None = None
    if accelerator.is_main_process:
        try:
            outcome[0] = action()
        except Exception as error:
            failure = error
            outcome[1:] = ["value" if isinstance(error, ValueError) else "system", str(error)]
    require("accelerate.utils", "train").broadcast_object_list(outcome)
    if failure is not None:
        raise failure
    if outcome[1] is not None:
        raise (ValueError if outcome[1] == "value" else OSError)(outcome[2])
    return outcome[0]


def shard(model: nn.Module, accelerator: Any) -> None:
    """Spread the parameters of a model over the processes, in place (FSDP).

    It is moved to the run's device first, with the values of the first process everywhere. Parts with 100,000 weights
    or more are units: the parameters of one unit are gathered while it is computed. What is left belongs to the unit
    of the whole model.

    Raises:
        ValueError: there is no process group.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if not torch.distributed.is_initialized():
        raise ValueError(
            "trainer.fsdp (=True) spreads the model over processes, and this is the only one; start several with "
            "torchrun --nproc_per_node=GPUS -m kanvolution.cli train ..., or set it to false"
        )
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    model.to(accelerator.device)
    for value in [*model.parameters(), *model.buffers()]:
        torch.distributed.broadcast(value.detach(), src=0)
    units: list[nn.Module] = []
    for module in reversed(list(model.modules())):  # from the inside
        taken = {id(p) for unit in units for p in unit.parameters()}
        own = sum(p.numel() for p in module.parameters() if id(p) not in taken)
        if module is not model and own >= 100_000 and not isinstance(module, nn.ModuleList | nn.ModuleDict):
            units.append(module)
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
