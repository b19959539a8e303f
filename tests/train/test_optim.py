"""Optimisers by name, what decays, and what each step does."""

import copy
import json

import pytest
import torch
from torch import nn

import kanvolution as kv
from kanvolution.train import TrainerConfig, create_optim, fit, list_optims
from kanvolution.train.optim import needs_closure
from kanvolution.train.progress import Silent
from tests.train.toy import toy_data, toy_model

DECAYING = [name for name in list_optims() if name != "lbfgs"]


def small_model() -> nn.Sequential:
    return nn.Sequential(kv.KANConv2d(3, 4, 3, basis="wavelet"), nn.BatchNorm2d(4), nn.Linear(4, 2))


def decays(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, float]:
    by_id = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    return {name: by_id[id(p)] for name, p in model.named_parameters()}


@pytest.mark.parametrize("name", DECAYING)
def test_norms_biases_and_parameters_of_a_basis_do_not_decay(name: str) -> None:
    model = small_model()
    found = decays(create_optim({"name": name, "weight_decay": 0.3}, model), model)
    assert found == {n: 0.3 if n in ("0.weight", "2.weight") else 0.0 for n in found}


@pytest.mark.parametrize("name", DECAYING)
def test_a_pattern_keeps_further_parameters_from_decaying(name: str) -> None:
    model = small_model()
    found = decays(create_optim({"name": name, "weight_decay": 0.3, "no_decay": ["2.*"]}, model), model)
    assert [n for n, decay in found.items() if decay] == ["0.weight"]


def test_a_pattern_that_matches_nothing_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown pattern of optim.no_decay '2.weigth'. Did you mean '2.weight'"):
        create_optim({"name": "adamw", "no_decay": ["2.weigth"]}, small_model())


@pytest.mark.parametrize("name", list_optims())
def test_every_optimiser_has_all_trainable_parameters_once(name: str) -> None:
    model = small_model()
    model[1].weight.requires_grad_(False)
    held = [id(p) for group in create_optim(name, model).param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", list_optims())
def test_every_optimiser_lowers_the_loss_and_goes_on_equally_from_a_saved_state(name: str) -> None:
    torch.manual_seed(0)
    x, target = torch.randn(64, 6), torch.randn(64, 3)
    model, other = (nn.Linear(6, 3) for _ in range(2))
    optimizer = create_optim({"name": name, "lr": 0.02}, model)

    def run(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> float:
        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = (model(x) - target).square().mean()
            loss.backward()
            return loss

        for _ in range(steps):
            optimizer.step(closure)  # pyright: ignore[reportArgumentType]
        return float(closure().detach())

    before = run(model, optimizer, 0)
    assert run(model, optimizer, 10) < before
    other.load_state_dict(model.state_dict())
    resumed = create_optim({"name": name, "lr": 0.02}, other)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(model, optimizer, 3)
    run(other, resumed, 3)
    assert torch.equal(model.weight, other.weight)


def test_a_step_of_lion_has_one_size_along_the_sign() -> None:
    model = nn.Linear(5, 3, bias=False)
    optimizer = create_optim({"name": "lion", "lr": 0.1, "weight_decay": 0.5}, model)
    before, gradient = model.weight.detach().clone(), torch.randn(3, 5)
    model.weight.grad = gradient.clone()
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), before * (1 - 0.1 * 0.5) - 0.1 * gradient.sign())


@pytest.mark.parametrize("shape", [(8, 6, 3, 3), (6, 20)])
def test_a_step_of_muon_is_orthogonal_over_output_and_everything_else(shape: tuple[int, ...]) -> None:
    weight = nn.Parameter(torch.randn(shape))
    model = nn.ParameterList([weight])
    options = {"lr": 0.1, "weight_decay": 0.0, "scale": "original", "steps": 12}
    optimizer = create_optim({"name": "muon", **options}, model)
    before = weight.detach().clone()
    weight.grad = torch.randn(shape)
    u, _, v = torch.linalg.svd(weight.grad.flatten(1), full_matrices=False)
    optimizer.step()
    step = ((before - weight.detach()) / 0.1).flatten(1)
    # In bfloat16, by iterations that bring singular values near to 1 only.
    torch.testing.assert_close(step, u @ v, atol=0.1, rtol=0)


def test_muon_trains_what_is_no_matrix_or_does_not_decay_by_adamw() -> None:
    model = nn.Sequential(kv.KANConv2d(3, 8, 3, basis="wavelet"), nn.Conv2d(8, 8, 3, groups=8), nn.Linear(8, 2))
    optimizer = create_optim("muon", model)
    muon = {id(p) for group in optimizer.param_groups if group["use_muon"] for p in group["params"]}
    names = {n for n, p in model.named_parameters() if id(p) in muon}
    assert names == {"0.weight", "1.weight"}
    # Wide as a layer of many functions is: still a matrix.
    wide = nn.Sequential(kv.KANConv2d(64, 4, 3, basis="spline"))
    groups = create_optim("muon", wide).param_groups
    assert [p.shape for g in groups if g["use_muon"] for p in g["params"]] == [wide[0].weight.shape]


def test_lbfgs_finds_the_minimum_of_a_quadratic_function() -> None:
    torch.manual_seed(1)
    model = nn.Linear(10, 1).double()
    x = torch.randn(50, 10).double()
    target = x @ torch.arange(10.0).double().unsqueeze(1) + 3
    optimizer = create_optim({"name": "lbfgs", "max_iter": 30, "tolerance_grad": 1e-10}, model)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (model(x) - target).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(model.weight[0].detach(), torch.arange(10.0).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(model.bias.detach(), torch.tensor([3.0]).double(), atol=1e-4, rtol=0)


def test_only_lbfgs_needs_a_closure() -> None:
    assert [name for name in list_optims() if needs_closure(create_optim(name, nn.Linear(2, 2)))] == ["lbfgs"]


@pytest.mark.parametrize("name", list_optims())
def test_every_optimiser_trains_in_the_loop(name: str, tmp_path) -> None:
    model = toy_model()
    trainer = TrainerConfig(epochs=6, batch_size=16)
    fit(
        model,
        toy_data(64),
        optim={"name": name, "lr": {"lbfgs": 0.5, "sgd": 0.1, "lion": 5e-3}.get(name, 0.05)},
        trainer=trainer,
        output_dir=tmp_path / "run",
        progress=Silent(),
    )
    losses = [json.loads(line)["train_loss"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.8 * losses[0], losses


def test_dropout_is_the_same_in_all_evaluations_of_a_step_and_another_in_the_next(tmp_path) -> None:
    masks = []

    class Watch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = toy_model()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                masks.append(torch.rand(4))
            return self.net(x)

    trainer = TrainerConfig(epochs=1, batch_size=16)
    fit(Watch(), toy_data(32), optim="lbfgs", trainer=trainer, output_dir=tmp_path / "run", progress=Silent())
    distinct = {tuple(mask.tolist()) for mask in masks}
    assert len(distinct) == 2 and len(masks) > 4


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"name": "adamw", "lr": 0.0}, r"optim.lr \(=0.0\) must be positive"),
        ({"name": "adamw", "weight_decay": -1.0}, r"optim.weight_decay \(=-1.0\)"),
        ({"name": "adamw", "beta2": 1.0}, r"optim.beta2 \(=1.0\)"),
        ({"name": "sgd", "momentum": 0.0}, r"set optim.nesterov=false"),
        ({"name": "muon", "scale": "orginal"}, "Did you mean 'original'"),
        ({"name": "muon", "steps": 0}, r"optim.steps \(=0\)"),
        ({"name": "lbfgs", "weight_decay": 0.1}, "unknown option of optimiser 'lbfgs'"),
        ({"name": "lbfgs", "max_iter": 0}, r"optim.max_iter \(=0\)"),
        ({"name": "sgd", "momentun": 0.1}, r"unknown option of optimiser 'sgd' 'momentun'. Did you mean 'momentum'"),
        ("adam", r"unknown optimiser 'adam'. Did you mean 'adamw'"),
    ],
)
def test_mistakes_name_the_nearest_or_the_limit(choice, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_optim(choice, nn.Linear(1, 1))


def test_nothing_to_train_and_no_name_are_errors() -> None:
    with pytest.raises(ValueError, match="no trainable parameter"):
        create_optim("adamw", nn.Linear(2, 2).requires_grad_(False))
    with pytest.raises(TypeError, match="must be a name or a dictionary"):
        create_optim(["adamw"], nn.Linear(1, 1))  # pyright: ignore[reportArgumentType]
