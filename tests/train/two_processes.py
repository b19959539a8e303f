"""What test_processes.py runs in each of two processes: `torchrun --nproc_per_node=2 two_processes.py FOLDER`."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import kanvolution as kv
from kanvolution.train import NonFiniteLossError, TrainerConfig, fit
from kanvolution.train.progress import Silent
from tests.train.toy import toy_data, toy_model

RANK = int(os.environ.get("RANK", "0"))
SPEC = kv.ConvSpec("gram", norm="instance")  # no statistics of a batch, which two halves of it have not in common
OPTIMS: dict[str, dict[str, Any]] = {
    "sgd": {"name": "sgd", "lr": 0.05},
    "adamw": {"name": "adamw", "lr": 0.01},
    "lbfgs": {"name": "lbfgs", "lr": 0.1},
}
EVERYTHING: dict[str, Any] = {"ema": 0.9, "accumulation": 2, "batch_size": 4, "checkpoint_steps": 1}


class Killed(BaseException):
    """Ends both processes' runs without any of their own handling."""


def dying(model: nn.Module, call: int) -> nn.Module:
    """The model, which ends the run in every process at the given forward of training."""
    calls = []

    def count(module: nn.Module, arguments: Any) -> None:
        calls.append(module.training)
        if sum(calls) == call:
            raise Killed

    model.register_forward_pre_hook(count)
    return model


class PoisonOf(nn.Module):
    """NaN in one of the processes."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.net = toy_model()
        self.poison = nn.Identity() if rank != RANK else Nan()

    def forward(self, x: Tensor) -> Tensor:
        return self.poison(self.net(x))


class Nan(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * float("nan")


def train(folder: Path, spec: kv.ConvSpec = SPEC, model: nn.Module | None = None, **options: Any) -> nn.Module:
    """A run on the CPU; options of the trainer and of `fit` mixed."""
    fit_options = {k: options.pop(k) for k in ("optim", "resume") if k in options}
    trainer = TrainerConfig(**{"epochs": 2, "batch_size": 8, "cpu": True, **options})
    where = {} if "resume" in fit_options else {"output_dir": folder}
    model = toy_model(spec) if model is None else model
    common = {"trainer": trainer, "schedule": "constant", "tracker": "none", "progress": Silent()}
    fit(model, toy_data(), **{**common, **where, **fit_options})
    return model


def keep(folder: Path, model: nn.Module) -> None:
    torch.save(model.state_dict(), folder / f"rank{RANK}.pt")


def main(folder: Path) -> None:
    for name, optim in OPTIMS.items():
        keep(folder / name, train(folder / name, optim=optim))

    dropout = kv.ConvSpec("gram", dropout=0.2)  # batch norm: its statistics are resumed as well
    train(folder / "whole", dropout, **EVERYTHING)
    try:
        train(folder / "resumed", model=dying(toy_model(dropout), 7), **EVERYTHING)
    except Killed:
        keep(folder / "resumed", train(folder, dropout, resume=folder / "resumed", **EVERYTHING))

    train(folder / "sharded", optim=OPTIMS["sgd"], fsdp=True)
    try:
        train(folder / "sharded_resumed", model=dying(toy_model(SPEC), 4), optim=OPTIMS["adamw"], fsdp=True, ema=0.9)
    except Killed:
        train(folder, optim=OPTIMS["adamw"], fsdp=True, resume=folder / "sharded_resumed", ema=0.9)
    train(folder / "sharded_whole", optim=OPTIMS["adamw"], fsdp=True, ema=0.9)

    experts = kv.ConvSpec("gram", norm="instance", structure=kv.Experts(3, k=1))
    keep(folder / "experts", train(folder / "experts", experts))

    said = {}
    for name, attempt in {
        "poison": lambda: train(folder / "poison", model=PoisonOf(1)),
        "not empty": lambda: train(folder / "sgd"),
        "finished": lambda: train(folder, resume=folder / "sgd"),
    }.items():
        try:
            attempt()
        except (ValueError, NonFiniteLossError) as error:
            said[name] = f"{type(error).__name__}: {error}"
    (folder / f"said{RANK}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    torch.distributed.barrier()  # none leaves while another still needs it
    (Path(sys.argv[1]) / f"done{RANK}").touch()
    torch.distributed.destroy_process_group()
