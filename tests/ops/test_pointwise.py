import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kanvolution import ops
from kanvolution.ops.backends import HAS_CPP_COMPILER
from kanvolution.ops.pointwise import POINTWISE, exp
from tests.tolerances import assert_close

POINTS = torch.cat([torch.linspace(-12, 12, 4001), torch.tensor([0.0, -0.0, 1e-30, -1e-6, 1e-3, 88.0, -89.0, 3e38])])
needs_compiler = pytest.mark.skipif(not HAS_CPP_COMPILER, reason="no C++ compiler")
pytestmark = pytest.mark.compiler


@pytest.mark.parametrize("name", POINTWISE)
def test_derivatives_are_those_of_the_values(name: str) -> None:
    x = torch.linspace(-4, 4, 64, dtype=torch.float64).requires_grad_()
    y = POINTWISE[name].value(x)
    assert_close(POINTWISE[name].derivative(x, y), torch.autograd.grad(y.sum(), x)[0])


@needs_compiler
def test_tanh_of_compiled_loops_is_right_to_two_units_in_the_last_place() -> None:
    found = torch.compile(POINTWISE["tanh"].value, fullgraph=True)(POINTS)
    exact = torch.tanh(POINTS.double())
    unit = torch.from_numpy(np.spacing(exact.abs().float().numpy())).double()
    assert ((found.double() - exact).abs() <= 2 * unit).all()
    assert torch.equal(torch.signbit(found), torch.signbit(POINTS))
    ends = torch.compile(POINTWISE["tanh"].value, fullgraph=True)(torch.tensor([math.inf, -math.inf, math.nan] * 16))
    assert ends[:2].tolist() == [1, -1] and ends[2].isnan()


@needs_compiler
@pytest.mark.parametrize("name", ["sigmoid", "silu"])
def test_compiled_loops_compute_the_same(name: str) -> None:
    x = torch.linspace(-80, 80, 1001)
    found = torch.compile(POINTWISE[name].value, fullgraph=True)(x)
    exact = POINTWISE[name].value(x.double())
    assert torch.allclose(found.double(), exact, rtol=1e-5, atol=1e-37)
    near = x.abs() <= 12
    assert torch.allclose(found[near].double(), exact[near], rtol=10 * torch.finfo(x.dtype).eps, atol=0)


@needs_compiler
@pytest.mark.parametrize("name", ["sigmoid", "silu", "tanh"])
def test_gradients_of_code_that_users_compile_are_finite_far_out(name: str) -> None:
    x = torch.tensor([-1e5, -200.0, -120.0, -90.0, 0.0, 0.3, 120.0, 1e5], requires_grad=True)
    value = POINTWISE[name].value
    (found,) = torch.autograd.grad(torch.compile(value, fullgraph=True)(x).sum(), x)
    assert_close(found, torch.autograd.grad(value(x).sum(), x)[0])


@pytest.mark.parametrize("factor", [1.0, -1.0, -0.5])
def test_exponentials_by_powers_of_two(factor: float) -> None:
    x = torch.linspace(-80, 80, 1001)
    assert torch.allclose(exp(x, factor).double(), torch.exp(factor * x.double()), rtol=1e-5, atol=1e-37)


class _Everything(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        bell = ops.rbf(x, torch.zeros(1), 1.0) + ops.wavelet(x, torch.ones(1), torch.zeros(1), "mexican_hat")
        return ops.legendre(x, 2, input_map="tanh", base="silu").sum(2) + bell.sum(2)


def test_exported_programs_have_the_functions_by_their_names() -> None:
    program = torch.export.export(_Everything(), (torch.randn(2, 3, 8),))
    names = {str(node.target) for node in program.graph.nodes}
    assert "aten.tanh.default" in names and "aten.exp.default" in names
    assert not any("exp2" in name for name in names)
