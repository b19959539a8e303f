"""Penalties: their formulas and gradients, and that a collector leaves nothing behind."""

import copy
import gc
import io
import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import kanvolution as kv
from kanvolution.layers import kan_layers
from tests.tolerances import assert_close


def network(basis: str = "gram", **options: object) -> nn.Module:
    return kv.create_model("simple4", kv.ConvSpec(basis, **options), num_classes=3, in_chans=2, channels=(4, 4, 4, 4))


@pytest.mark.parametrize("basis", kv.list_bases())
def test_weight_penalty_is_its_formula(basis: str) -> None:
    model = network(basis)
    weights = [block.conv.weight for block in model.stages]
    assert [layer.weight for _, layer in kan_layers(model)] == weights
    expected = sum(0.3 * w.abs().sum() + 0.5 * 0.2 * w.square().sum() for w in weights)
    penalty = kv.weight_penalty(model, l1=0.3, l2=0.2)
    assert_close(penalty, expected)
    penalty.backward()
    for name, parameter in model.named_parameters():
        if any(parameter is w for w in weights):
            assert_close(parameter.grad, 0.3 * parameter.sign() + 0.2 * parameter)
        else:
            assert parameter.grad is None, name


def test_weight_penalty_of_chosen_parameters() -> None:
    model = network(structure=kv.Bottleneck())
    chosen = kv.weight_penalty(model, l1=1.0, filter=lambda name, p: name.startswith("head.") and p.ndim == 2)
    assert_close(chosen, model.head.weight.abs().sum())
    assert kv.weight_penalty(nn.Linear(2, 2), l1=1.0).item() == 0
    assert kv.weight_penalty(nn.Identity(), l2=1.0).item() == 0


def test_weight_penalty_counts_a_shared_weight_once_and_knows_all_layers() -> None:
    layers = [kv.KANLinear(4, 4), kv.KANConv1d(4, 4, 3), kv.KANConvTranspose3d(4, 4, 2)]
    one = sum(kv.weight_penalty(layer, l2=1.0) for layer in layers)
    assert_close(kv.weight_penalty(nn.ModuleList(layers), l2=1.0), one)
    twin = kv.KANLinear(4, 4)
    twin.weight = layers[0].weight
    assert_close(kv.weight_penalty(nn.ModuleList([*layers, twin]), l2=1.0), one)


def test_activation_penalty_is_its_formula() -> None:
    model, x = network(), torch.randn(5, 2, 8, 8)
    outputs = []
    handles = [layer.register_forward_hook(lambda m, i, y: outputs.append(y)) for _, layer in kan_layers(model)]
    with kv.ActivationPenalty(model, l1=0.3, l2=0.2) as penalty:
        model(x)
        term = penalty.take()
    for handle in handles:
        handle.remove()
    assert len(outputs) == 4
    assert_close(term, sum(0.3 * y.abs().mean() + 0.2 * y.square().mean() for y in outputs))
    peer = torch.stack([torch.norm(y, 1, dim=0).mean() for y in outputs]).sum()  # torch-conv-kan's L1
    assert_close(sum(y.abs().mean() for y in outputs), peer / len(x))
    parameters = [model.stages[0].conv.weight, model.stages[3].conv.weight]
    assert all(g.abs().max() > 0 for g in torch.autograd.grad(term, parameters))


def test_activation_penalty_does_not_depend_on_the_batch_size() -> None:
    model = network(norm=None)
    x = torch.randn(6, 2, 8, 8)
    with kv.ActivationPenalty(model, l1=1.0, l2=1.0) as penalty:
        model(x)
        whole = penalty.take()
        model(torch.cat([x, x]))
        assert_close(penalty.take(), whole)
        parts = []
        for i in range(3):
            model(x[2 * i : 2 * i + 2])
            parts.append(penalty.take())
    assert_close(torch.stack(parts).mean(), whole)


def test_where_chooses_the_outputs() -> None:
    model, x = network(), torch.randn(2, 2, 8, 8)
    with kv.ActivationPenalty(model, l1=1.0, where=lambda name, m: isinstance(m, kv.KANConvNormAct)) as penalty:
        model(x)
        assert_close(penalty.take(), sum(_outputs(model, x)))
    with pytest.raises(ValueError, match="chose no module of SimpleNet; see named_modules"):
        kv.ActivationPenalty(model, where=lambda name, m: False)


def _outputs(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    means = []
    for block in model.stages:
        x = block(x)
        means.append(x.abs().mean())
    return means


class Checkpointed(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(self.inner, x, use_reentrant=False)


def test_gradient_checkpointing_counts_once_and_gives_the_same_gradients() -> None:
    plain = network(norm=None)
    saving = copy.deepcopy(plain)
    saving.stages = nn.Sequential(*(Checkpointed(block) for block in saving.stages))
    x = torch.randn(3, 2, 8, 8)
    for model in (plain, saving):
        with kv.ActivationPenalty(model, l1=0.3, l2=0.2) as penalty:
            for _ in range(2):
                (model(x).square().mean() + penalty.take()).backward()
            with pytest.raises(RuntimeError, match="no layer has run"):
                penalty.take()  # nothing was left by the second forward inside backward
    for (name, a), b in zip(saving.named_parameters(), plain.parameters(), strict=True):
        assert_close(a.grad, b.grad, 1e-4), name


def test_compiled_model() -> None:
    model, x = network(), torch.randn(2, 2, 8, 8)
    model.eval()
    with kv.ActivationPenalty(model, l1=1.0) as penalty:
        y = model(x)
        expected = penalty.take()
        grads = torch.autograd.grad(y.sum() + expected, list(model.parameters()))
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        for _ in range(2):
            y = compiled(x)
            term = penalty.take()
            assert_close(term, expected)
        for a, b in zip(torch.autograd.grad(y.sum() + term, list(model.parameters())), grads, strict=True):
            assert_close(a, b, 1e-4)
    with kv.ActivationPenalty(model, l1=2.0) as second:
        compiled(x)
        assert_close(second.take(), 2 * expected)
    compiled(x)
    with kv.ActivationPenalty(model, l1=1.0) as late:
        compiled(x)
        with pytest.raises(RuntimeError, match="open the block before the first call of a compiled model"):
            late.take()
    assert not penalty._terms and not second._terms


def test_a_compiled_model_is_compiled_once() -> None:
    model = network().eval()
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    with kv.ActivationPenalty(model, l1=1.0) as penalty:
        for _ in range(3):
            compiled(torch.randn(2, 2, 8, 8))
            penalty.take()
    assert counter.frame_count == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_terms_are_float32_under_autocast(dtype: torch.dtype) -> None:
    model = network()
    with torch.autocast("cpu", dtype), kv.ActivationPenalty(model, l2=1.0) as penalty:
        model(torch.randn(2, 2, 8, 8))
        term = penalty.take()
    assert term.dtype == torch.float32
    term.backward()


def test_copies_and_pickles_of_an_open_model_do_not_collect() -> None:
    model, x = network().eval(), torch.randn(2, 2, 8, 8)
    with kv.ActivationPenalty(model, l1=1.0) as penalty:
        model(x)
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        twin = copy.deepcopy(model)
        expected = penalty.take()
        assert torch.equal(twin(x), model(x))
        assert_close(penalty.take(), expected)


def test_nothing_is_left_behind() -> None:
    model = network()
    penalty = kv.ActivationPenalty(model, l1=1.0)
    with penalty:
        x = torch.randn(2, 2, 8, 8, requires_grad=True)
        model(x)
        term = penalty.take()
        term.backward()
        alive = [weakref.ref(x), weakref.ref(term)]
        del x, term
        gc.collect()
        assert not any(ref() is not None for ref in alive)
        x = torch.randn(2, 2, 8, 8, requires_grad=True)
        model(x)
    alive = [weakref.ref(x)]
    del x
    gc.collect()
    assert alive[0]() is None  # leaving forgets what was not taken
    assert not any(m._forward_hooks for m in model.modules())
    reference = weakref.ref(model)
    del model, penalty
    gc.collect()
    assert reference() is None


def test_misuse() -> None:
    model = network()
    penalty = kv.ActivationPenalty(model, l1=1.0)
    with penalty, pytest.raises(RuntimeError, match="open already"), penalty:
        pass
    with pytest.raises(ValueError, match=r"l1 \(=-1\) must be finite and >= 0"):
        kv.weight_penalty(model, l1=-1)
    with pytest.raises(ValueError, match=r"l2 \(=-1\) must be finite and >= 0"):
        kv.ActivationPenalty(model, l2=-1)
