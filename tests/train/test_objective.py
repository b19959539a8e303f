"""What a training step minimises: the task's loss, the losses of modules, penalties; and a task's view of a batch."""

import json

import pytest
import torch
from torch import nn

import kanvolution as kv
from kanvolution.train import Objective, Penalties, TrainerConfig, create_task, fit
from kanvolution.train.progress import Silent
from tests.train.toy import toy_data, toy_model

INFO = toy_data().info


def task(**penalties: float):
    return create_task({"name": "classification", "penalties": penalties}, INFO)


def test_every_term_is_in_the_loss_and_reported() -> None:
    model = toy_model(kv.ConvSpec("gram", structure=kv.Experts(2, k=1))).train()
    x, target = torch.randn(8, 1, 8, 8), torch.arange(8) % 4
    with Objective(task(weight_l1=1e-3, weight_l2=1e-2, activation_l1=0.1, activation_l2=0.2), model) as objective:
        torch.manual_seed(1)
        total = objective(model(x), target)
        parts = objective.means()
    torch.manual_seed(1)
    with kv.ActivationPenalty(model, l1=0.1, l2=0.2) as activations:
        output = model(x)
        expected = {
            "weight_penalty": kv.weight_penalty(model, l1=1e-3, l2=1e-2),
            "activation_penalty": activations.take(),
        }
    assert parts == pytest.approx({name: float(term.detach()) for name, term in expected.items()}, rel=1e-5)
    balance = kv.collect_losses(model)
    assert balance > 0
    loss = nn.functional.cross_entropy(output, target) + balance + sum(expected.values())
    torch.testing.assert_close(total, loss)


def test_means_run_over_the_calls_since_begin_and_leave_out_a_validation() -> None:
    model = toy_model()
    target = torch.arange(4)
    with Objective(task(activation_l2=1.0), model) as objective:
        scale = torch.tensor([1.0, 2.0])
        values = []
        model(100 * torch.randn(4, 1, 8, 8))  # a validation
        objective.begin()
        for s in scale:
            x = s * torch.ones(4, 1, 8, 8)
            with kv.ActivationPenalty(model, l2=1.0) as alone:
                output = model(x)
                values.append(float(alone.take().detach()))
            objective(output, target)
        assert objective.means()["activation_penalty"] == pytest.approx(sum(values) / 2)
        objective.begin()
        assert objective.means() == {}


def test_hooks_are_gone_after_the_block() -> None:
    model = toy_model()
    with Objective(task(activation_l1=1.0), model):
        assert any(m._forward_hooks for m in model.modules())
    assert not any(m._forward_hooks for m in model.modules())


def test_a_run_reports_its_penalties_and_they_act(tmp_path) -> None:
    sizes = {}
    for strength in (0.0, 0.1):
        model = toy_model()
        folder = tmp_path / str(strength)
        fit(
            model,
            toy_data(),
            task={"name": "classification", "penalties": {"weight_l1": strength, "activation_l1": strength}},
            trainer=TrainerConfig(epochs=3, batch_size=8),
            output_dir=folder,
            progress=Silent(),
        )
        sizes[strength] = float(kv.weight_penalty(model, l1=1.0).detach())
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        reported = {"train_weight_penalty", "train_activation_penalty"} & set(records[0])
        assert len(reported) == (2 if strength else 0)
        if strength:
            # Mean over the steps of an epoch; the weights move little within the last.
            assert records[-1]["train_weight_penalty"] == pytest.approx(strength * sizes[strength], rel=0.1)
            assert records[-1]["train_loss"] > records[-1]["train_weight_penalty"]
        assert not any(m._forward_hooks for m in model.modules())
    assert sizes[0.1] < 0.98 * sizes[0.0]


def test_penalties_out_of_range_misspelt_or_without_a_layer_to_act_on() -> None:
    with pytest.raises(ValueError, match=r"task.penalties.weight_l1 \(=-1.0\)"):
        Penalties(weight_l1=-1.0)
    with pytest.raises(ValueError, match=r"unknown option of task.penalties 'weigth_l1'. Did you mean 'weight_l1'"):
        task(weigth_l1=1.0)
    with pytest.raises(ValueError, match=r"task.penalties.weight_l2 \(=0.1\): Linear has no Kolmogorov-Arnold layer"):
        Objective(task(weight_l2=0.1), nn.Linear(2, 2))
