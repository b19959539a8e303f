import pytest
import torch
from torch import nn

import kanvolution as kv
from kanvolution.train import TrainerConfig, fit, load_run
from kanvolution.train.ema import Ema
from kanvolution.train.progress import Silent
from tests.train.toy import toy_data, toy_model


def test_the_mean_follows_its_formula_with_the_warm_up() -> None:
    model = nn.BatchNorm1d(3).double()
    values = torch.rand(30, 3, dtype=torch.float64)
    ema, mean, statistics = Ema(model, 0.8), model.weight.detach().clone(), model.running_mean.clone()
    for t, value in enumerate(values, start=1):
        with torch.no_grad():
            model.weight.copy_(value)
            model.running_mean.copy_(2 * value)
        ema.update()
        decay = min(0.8, (1 + t) / (10 + t))
        mean = decay * mean + (1 - decay) * value
        statistics = decay * statistics + (1 - decay) * 2 * value
    with ema.swapped():
        torch.testing.assert_close(model.weight.detach(), mean)
        torch.testing.assert_close(model.running_mean, statistics)
    # Without warm-up it is what torch's own averaging gives.
    assert torch.equal(model.weight.detach(), values[-1])


def test_the_long_run_equals_torchs_averaged_model() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    averaged = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    averaged.update_parameters(model)  # its first update copies
    ema = Ema(model, 0.5)
    ema.updates = 100  # the warm-up is over
    for _ in range(5):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3))
        ema.update()
        averaged.update_parameters(model)
    with ema.swapped():
        torch.testing.assert_close(model.weight, averaged.module.weight)


def test_swapping_twice_is_exact_and_shared_tensors_are_swapped_once() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model.append(model[0])
    ema = Ema(model, 0.9)
    with torch.no_grad():
        model[0].weight.mul_(3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with ema.swapped():
        assert torch.equal(model[0].weight * 3, before["0.weight"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_mean_is_validated_saved_and_left_in_the_model(tmp_path) -> None:
    seen = {}

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = toy_model(kv.ConvSpec("gram", norm="instance"))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen[self.training] = self.net.head.weight.detach().clone()
            return self.net(x)

    model = Watched()
    trainer = TrainerConfig(epochs=2, batch_size=8, ema=0.99)
    fit(model, toy_data(), output_dir=tmp_path / "run", trainer=trainer, progress=Silent())
    saved = load_run(tmp_path / "run", Watched()).model.net.head.weight
    assert torch.equal(saved, seen[False]) and torch.equal(saved, model.net.head.weight)
    assert not torch.equal(saved, seen[True])


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_range(decay: float) -> None:
    with pytest.raises(ValueError, match=r"trainer.ema \(="):
        TrainerConfig(ema=decay)
