import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kanvolution.train import NonFiniteLossError, TrainerConfig, fit, load_run
from kanvolution.train.health import diagnose
from kanvolution.train.progress import Silent
from tests.train.toy import toy_data, toy_model


class Poison(nn.Module):
    """x, and NaN from the given training step on."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        self.step -= self.training
        return x * (float("nan") if self.step <= 0 else 1.0)


def poisoned(step: int) -> nn.Module:
    """A toy model with poison behind its second stage. It keeps the names of its weights."""
    model = toy_model()
    model.stages[1] = _Behind(model.stages[1], Poison(step))
    return model


class _Behind(nn.Sequential):
    def state_dict(self, *args: Any, **options: Any) -> Any:
        return self[0].state_dict(*args, **options)


def train(folder, model: nn.Module, **options: Any) -> None:
    trainer = TrainerConfig(epochs=3, batch_size=8, **options)
    fit(model, toy_data(), output_dir=folder, trainer=trainer, progress=Silent())


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_a_loss_that_is_not_a_number_names_step_layer_rate_and_checkpoint(tmp_path) -> None:
    model = poisoned(4 + 3)
    before = hooks(model)
    with pytest.raises(NonFiniteLossError) as caught:
        train(tmp_path / "run", model)
    error, text = caught.value, str(caught.value)
    assert (error.epoch, error.step) == (2, 3)
    assert "the loss is nan at epoch 2, step 3 (lr " in text and "lower optim.lr" in text
    assert "the output of layer 'stages.1.1' (Poison) is the first that is not finite" in text
    state = re.search(r"last good checkpoint is (\S+)", text)[1]
    assert state == str(tmp_path / "run" / "checkpoints" / "step-000000004.pt")
    assert hooks(model) == before
    run = load_run(tmp_path / "run")
    assert run.epoch == 1 and all(p.isfinite().all() for p in run.model.parameters())


def test_the_weights_are_not_touched_by_a_bad_loss(tmp_path) -> None:
    model = poisoned(1)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(NonFiniteLossError, match=r"epoch 1, step 1 .*step-000000000.pt"):
        train(tmp_path / "run", model)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_what_is_found() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Identity(), nn.Linear(2, 2))
    x = torch.ones(1, 2)
    assert "every layer's output is finite" in diagnose(model, x, lambda: model(x))
    bad = torch.tensor([[1.0, float("inf")]])
    assert "images of the batch" in diagnose(model, bad, lambda: model(bad))

    class Parent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x / 0)

    parent = Parent()
    assert "what goes into layer 'net' (Sequential)" in diagnose(parent, x, lambda: parent(x))
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    assert "the weights are not finite after the step before (2.weight)" in diagnose(model, x, lambda: model(x))


def test_a_gradient_that_is_not_finite_is_told_at_the_next_step(tmp_path) -> None:
    class Root(nn.Module):
        """The square root's slope is infinite at 0."""

        def __init__(self) -> None:
            super().__init__()
            self.net = toy_model()
            self.scale = nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) + self.scale.abs().sqrt()

    with pytest.raises(NonFiniteLossError, match=r"epoch 1, step 2 .*the weights are not finite after the step before"):
        train(tmp_path / "run", Root())
