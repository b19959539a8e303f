"""KAN: a stack of linear layers."""

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn

import kanvolution as kv
from tests.tolerances import assert_close

every_basis = pytest.mark.parametrize("basis", kv.list_bases())


@every_basis
def test_it_is_its_layers(basis: str) -> None:
    model, x = kv.KAN([6, 8, 3], basis), torch.randn(5, 2, 6)
    first, last = model.layers
    assert isinstance(first, kv.KANLinear) and isinstance(last, kv.KANLinear)
    assert torch.equal(model(x), last(first(x)))
    assert model(x).shape == (5, 2, 3) and model(x[0, 0]).shape == (3,)
    assert_close(model(x)[1, 0], model(x[1, 0]))


@every_basis
def test_variance_is_kept_where_a_norm_is(basis: str) -> None:
    model = kv.KAN([32, 64, 64, 32], basis, norm="layer")
    assert 0.7 < model(torch.randn(256, 32)).std() < 1.4


@every_basis
def test_gradients(basis: str) -> None:
    model = kv.KAN([3, 4, 2], basis, norm="layer", act="silu", dtype=torch.float64)
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)
    x = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)

    def call(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x, *parameters), fast_mode=True)


@every_basis
def test_compile_export_autocast_state_dict(basis: str) -> None:
    model, x = (
        kv.KAN([6, 8, 3], basis, norm="layer", act="auto", dropout=0.1, input_dropout=0.1).eval(),
        torch.randn(4, 6),
    )
    expected = model(x)
    assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), expected)
    batch = torch.export.Dim("batch", min=1, max=64)
    assert_close(torch.export.export(model, (x,), dynamic_shapes=({0: batch},)).module()(x[:3]), expected[:3])
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(model(x), expected, 5e-2)
    other = copy.deepcopy(model)
    for p in other.parameters():
        nn.init.normal_(p)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), expected)


def test_parts_and_their_order() -> None:
    model = kv.KAN([4, 5, 6, 2], "spline", norm="layer", act="auto", dropout=0.2, input_dropout=0.1, grid_size=3)
    hidden = [kv.KANLinear, nn.LayerNorm, nn.PReLU, nn.Dropout]
    assert [type(m) for m in model.layers] == [nn.Dropout, *hidden, *hidden, kv.KANLinear]
    assert [m.p for m in model.layers if isinstance(m, nn.Dropout)] == [0.1, 0.2, 0.2]
    linear = [m for m in model.layers if isinstance(m, kv.KANLinear)]
    assert [m.bias is None for m in linear] == [True, True, False] and linear[0].basis.grid_size == 3


def test_learns_a_function_that_is_no_sum() -> None:
    model = kv.KAN([2, 5, 1], "chebyshev", degree=4)
    x = 2 * torch.rand(512, 2) - 1
    y = torch.exp(torch.sin(3 * x[:, :1]) + x[:, 1:] ** 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(400):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02 * y.var().item()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kv.KAN([4]), r"sizes \(=\[4\]\) must name at least input and output"),
        (lambda: kv.KAN([4, 0]), r"sizes \(=0\) must be >= 1"),
        (lambda: kv.KAN([4, 2], "grm"), "Did you mean 'gram'"),
        (lambda: kv.KAN([4, 2], degre=3), "Did you mean 'degree'"),
        (lambda: kv.KAN([4, 2], norm="layr"), "Did you mean 'layer'"),
        (lambda: kv.KAN([4, 3, 2], act="sillu"), "Did you mean 'silu'"),
        (lambda: kv.KAN([4, 2], dropout=1), r"dropout \(=1\) must be in \[0, 1\)"),
    ],
)
def test_bad_values(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
