"""Every family, joined ones too, against its textbook formula and SciPy: values, gradients, layouts, precisions."""

from typing import Any

import numpy as np
import pytest
import scipy.interpolate
import scipy.special
import torch
from torch import Tensor

from kanvolution import ops
from kanvolution.ops import reference
from kanvolution.ops.joined import JoinedExpansion, joined_families
from tests.tolerances import assert_close


def draw(*shape: int, low: float = -1.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(*shape, dtype=torch.float64)


# name: (operator, arguments after x, domain of x)
FAMILIES: dict[str, tuple[ops.Expansion, tuple[Any, ...], tuple[float, float]]] = {
    **{f"legendre{n}": (ops.legendre, (n,), (-1, 1)) for n in (0, 1, 2, 7)},
    **{f"chebyshev{n}": (ops.chebyshev, (n,), (-1, 1)) for n in (0, 1, 2, 7)},
    **{
        f"jacobi{n}_{a}_{b}": (ops.jacobi, (n, a, b), (-1, 1))
        for n, a, b in ((0, 1.0, 1.0), (1, 0.5, -0.5), (2, -0.5, -0.5), (6, 1.0, 1.0), (5, 2.0, 0.3))
    },
    **{f"bernstein{n}": (ops.bernstein, (n,), (0, 1)) for n in (0, 1, 2, 6)},
    **{f"gram{n}": (ops.gram, (torch.linspace(0.1, 0.4, n + 1, dtype=torch.float64),), (-1, 1)) for n in (0, 1, 2, 6)},
    **{
        f"spline{g}_{p}": (ops.spline, (g, p, -1.5, 2.0), (-4, 4))
        for g, p in ((1, 0), (4, 0), (1, 1), (5, 1), (5, 2), (5, 3), (3, 4), (2, 5))
    },
    "rbf": (ops.rbf, (torch.linspace(-1, 1, 5, dtype=torch.float64), 0.4), (-3, 3)),
    "relu_bumps": (
        ops.relu_bumps,
        (torch.tensor([-1.0, -0.2, 0.4]).double(), torch.tensor([0.1, 0.5, 2.0]).double(), 0.8),
        (-2, 2.5),
    ),
    **{
        f"wavelet_{kind}": (
            ops.wavelet,
            (torch.tensor([1.0, 0.7, -1.4]).double(), torch.tensor([0.0, 0.5, -1.0]).double(), kind),
            (-3, 3),
        )
        for kind in ops.WAVELETS
    },
    **{f"fourier{n}": (ops.fourier, (n,), (-4, 4)) for n in (1, 4)},
    "joined_chebyshev_spline": (
        joined_families(ops.chebyshev, ops.spline),
        ("tanh", 2, "identity", 3, 2, -1.0, 1.0),
        (-2, 2),
    ),
    "joined_gram_wavelet_relu_bumps": (
        joined_families(ops.gram, ops.wavelet, ops.relu_bumps),
        (
            torch.linspace(0.1, 0.4, 4, dtype=torch.float64),
            *(torch.tensor([1.0, -1.4]).double(), torch.tensor([0.0, 0.5]).double()),
            *(torch.tensor([0.1, 0.3]).double(), torch.tensor([0.5, 0.9]).double()),
            *("tanh", "identity", "mexican_hat", "sigmoid", 0.5),
        ),
        (-2, 2),
    ),
}
family = pytest.mark.parametrize("name", list(FAMILIES))


def textbook(op: ops.Expansion, x: Tensor, args: tuple[Any, ...]) -> list[Tensor]:
    """The functions of a family by `ops.reference`; those of joined ones in order, each after its own input map."""
    if not isinstance(op, JoinedExpansion):
        return list(getattr(reference, op.name)(x, *args))
    planes = []
    for member in op.values.members(args[: op.num_tensors], args[op.num_tensors :]):
        mapped = ops.POINTWISE[member.input_map].value(x)
        planes += textbook(member.family, mapped, (*member.tensors, *member.scalars))
    return planes


@family
def test_values_are_the_textbook_formula(name: str) -> None:
    op, args, domain = FAMILIES[name]
    x = draw(2, 3, 41, low=domain[0], high=domain[1])
    expected = torch.stack(textbook(op, x, args), dim=2)
    assert_close(op(x, *args), expected)
    assert_close(op.plain(x, *args), expected)


@family
@pytest.mark.parametrize(
    "options",
    [{}, {"input_map": "tanh", "base": "silu"}, {"input_map": "sigmoid", "base": "gelu"}],
    ids=["bare", "tanh_silu", "sigmoid_gelu"],
)
def test_first_and_second_derivatives(name: str, options: dict[str, str]) -> None:
    op, args, domain = FAMILIES[name]
    x = draw(2, 2, 3, low=domain[0], high=domain[1]).requires_grad_()
    tensors = tuple(a.clone().requires_grad_() for a in args if isinstance(a, Tensor))
    rest = args[len(tensors) :]
    smooth = name not in ("spline1_0", "spline4_0", "spline1_1", "spline5_1")  # (derivatives of) steps have none

    def call(x: Tensor, *tensors: Tensor) -> Tensor:
        return op(x, *tensors, *rest, **options)

    assert torch.autograd.gradcheck(call, (x, *tensors))
    if smooth:
        assert torch.autograd.gradgradcheck(call, (x, *tensors))


@family
@pytest.mark.parametrize("channels", [1, 2], ids=["shared", "own"])
def test_learned_combinations(name: str, channels: int) -> None:
    """`mix` gives sum_k mix[c, r, k] E[n, c, k], with first and second derivatives, without saving E."""
    op, args, domain = FAMILIES[name]
    x = draw(2, 2, 3, low=domain[0], high=domain[1]).requires_grad_()
    mix = torch.randn(channels, 3, op.size(*args) + 1, dtype=x.dtype, requires_grad=True)
    expected = torch.einsum("nck...,crk->ncr...", op(x, *args, base="silu"), mix.expand(2, -1, -1))
    assert_close(op(x, *args, base="silu", mix=mix), expected)
    assert_close(op.plain(x, *args, base="silu", mix=mix), expected)

    def call(x: Tensor, mix: Tensor) -> Tensor:
        return op(x, *args, base="silu", input_map="tanh", mix=mix)

    assert torch.autograd.gradcheck(call, (x, mix), fast_mode=True)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        call(x, mix)
    assert {t.data_ptr() for t in saved} == {t.data_ptr() for t in (x, mix, *args) if isinstance(t, Tensor)}


@pytest.mark.parametrize("name", ["rbf", "relu_bumps", "wavelet_morlet"])
def test_parameters_for_each_channel(name: str) -> None:
    """A [C, K] parameter acts on channel c as its row c does on a single channel, and gets that gradient."""
    op, args, domain = FAMILIES[name]
    x = draw(2, 3, 5, low=domain[0], high=domain[1])
    rows = [tuple(a * f if isinstance(a, Tensor) else a for a in args) for f in (1.0, 1.1, 1.2)]
    count = sum(isinstance(a, Tensor) for a in args)
    stacked = tuple(torch.stack([row[i] for row in rows]).requires_grad_() for i in range(count))
    whole = op(x, *stacked, *args[count:])
    whole.square().sum().backward()
    for c, row in enumerate(rows):
        own = tuple(t.clone().requires_grad_() for t in row[:count])
        alone = op(x[:, c : c + 1], *own, *row[count:])
        assert_close(whole[:, c : c + 1], alone)
        alone.square().sum().backward()
        for mine, theirs in zip(stacked, own, strict=True):
            assert mine.grad is not None and theirs.grad is not None
            assert_close(mine.grad[c], theirs.grad)


@family
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own inputs
def test_operator_contract(name: str) -> None:
    """Schema, fake kernel, autograd registration and compiled backward agree with the eager operator."""
    op, args, domain = FAMILIES[name]
    x = draw(2, 3, 4, 5, low=domain[0], high=domain[1])
    tensors = tuple(a.clone().requires_grad_() for a in args if isinstance(a, Tensor))
    for sample in (x.clone(), x.clone().to(memory_format=torch.channels_last)):
        for mix in (None, torch.randn(3, 2, op.size(*args) + 1, dtype=x.dtype, requires_grad=True)):
            options = (*args[len(tensors) :], "tanh", "silu", sample.dtype, "eager", None)
            torch.library.opcheck(op._expand.forward, (sample.requires_grad_(), None, mix, *tensors, *options))


@family
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_is_the_rounded_exact_value(name: str, dtype: torch.dtype) -> None:
    """Functions are computed in float32: a 16-bit result is the exact one for the 16-bit input, rounded once."""
    op, args, domain = FAMILIES[name]
    x = draw(2, 3, 50, low=domain[0], high=domain[1]).to(dtype).requires_grad_()
    exact_x = x.detach().double().requires_grad_()
    value, exact = op(x, *args), op(exact_x, *args)
    assert value.dtype == dtype
    smooth = "_0" not in name  # at a step the rounding of (x - low) / h may fall on the other side
    if smooth:
        assert_close(value, exact)
    grad = torch.randn_like(exact)
    value.backward(grad.to(dtype))
    exact.backward(grad)
    assert x.grad is not None and x.grad.dtype == dtype
    if smooth and name not in ("spline1_1", "spline5_1"):
        assert_close(x.grad, exact_x.grad, {torch.float32: 1e-4}.get(dtype))


@family
@pytest.mark.parametrize("layout", ["channels_last", "strided", "transposed"])
def test_layouts(name: str, layout: str) -> None:
    op, args, domain = FAMILIES[name]
    x = draw(2, 3, 4, 6, low=domain[0], high=domain[1])
    other = {
        "channels_last": lambda: x.to(memory_format=torch.channels_last),
        "strided": lambda: x.repeat_interleave(2, dim=3)[..., ::2],
        "transposed": lambda: x.transpose(0, 3).contiguous().transpose(0, 3),
    }[layout]().requires_grad_()
    x.requires_grad_()
    expected, actual = op(x, *args, base="silu"), op(other, *args, base="silu")
    assert_close(actual, expected)
    grad = torch.randn_like(expected)
    expected.backward(grad)
    actual.backward(grad)
    assert other.grad is not None and x.grad is not None
    assert_close(other.grad, x.grad)
    if layout == "channels_last":
        flat = actual.flatten(1, 2)
        assert flat.data_ptr() == actual.data_ptr() and flat.is_contiguous(memory_format=torch.channels_last)


@family
def test_saves_only_its_inputs(name: str) -> None:
    op, args, domain = FAMILIES[name]
    x = draw(2, 3, 50, low=domain[0], high=domain[1]).requires_grad_()
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        op(x, *args, input_map="tanh", base="silu")
    inputs = [x, *(a for a in args if isinstance(a, Tensor))]
    assert {t.data_ptr() for t in saved} == {t.data_ptr() for t in inputs}


@pytest.mark.parametrize(
    ("name", "scipy_value"),
    [
        ("legendre7", lambda x, k: scipy.special.eval_legendre(k, x)),
        ("chebyshev7", lambda x, k: scipy.special.eval_chebyt(k, x)),
        ("jacobi6_1.0_1.0", lambda x, k: scipy.special.eval_jacobi(k, 1.0, 1.0, x)),
        ("jacobi5_2.0_0.3", lambda x, k: scipy.special.eval_jacobi(k, 2.0, 0.3, x)),
    ],
)
def test_polynomials_are_scipys(name: str, scipy_value: Any) -> None:
    op, args, _ = FAMILIES[name]
    x = draw(1, 1, 101)
    for k, plane in enumerate(op(x, *args).unbind(2)):
        assert_close(plane, torch.from_numpy(scipy_value(x.numpy(), k)))


@pytest.mark.parametrize("order", range(6))
def test_splines_are_scipys(order: int) -> None:
    grid_size, low, high = 4, -1.0, 3.0
    step = (high - low) / grid_size
    x = draw(1, 1, 301, low=-6, high=8)
    planes = ops.spline(x, grid_size, order, low, high).unbind(2)
    assert len(planes) == grid_size + order
    for k, plane in enumerate(planes):
        knots = low + step * np.arange(k - order, k + 2)
        element = scipy.interpolate.BSpline.basis_element(knots, extrapolate=False)
        assert_close(plane, torch.from_numpy(np.nan_to_num(element(x.numpy()))))


def test_bernstein_and_splines_sum_to_one() -> None:
    x = draw(1, 1, 101)
    assert_close(ops.bernstein(x.abs(), 5).sum(2), torch.ones_like(x))
    assert_close(ops.spline(x, 5, 3, -1.0, 1.0).sum(2), torch.ones_like(x))


def test_gram_coefficients_make_polynomials_orthogonal_over_the_points() -> None:
    degree, points = 5, 9
    beta = ops.gram_coefficients(degree, points).double()
    x = -1 + (2 * torch.arange(1, points + 1, dtype=torch.float64) - 1) / points
    values = [torch.ones_like(x), x]
    for k in range(1, degree):
        values.append(x * values[k] - beta[k] * values[k - 1])
    product = torch.stack(values) @ torch.stack(values).T
    off_diagonal = product - torch.diag(product.diagonal())
    assert off_diagonal.abs().max() < 1e-6


def test_gram_coefficients_tend_to_legendres() -> None:
    n = torch.arange(1, 6).double()
    assert_close(ops.gram_coefficients(5, 100_000)[1:].double(), n**2 / (4 * n**2 - 1), 1e-6)


def test_mexican_hat_is_the_negative_second_derivative_of_a_gaussian_with_unit_norm() -> None:
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64, requires_grad=True)
    gaussian = torch.exp(-(x**2) / 2)
    (first,) = torch.autograd.grad(gaussian.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    hat = ops.wavelet(x.detach().view(1, 1, -1), one, zero, "mexican_hat").flatten()
    assert_close(hat / hat.max(), -second / (-second).max())
    assert abs(torch.trapezoid(hat**2, x.detach()).item() - 1) < 1e-6
    assert_close(ops.wavelet(x.detach().view(1, 1, -1), one, zero, "dog").flatten(), first)


@family
@pytest.mark.parametrize("value", [0.0, 1e4, -1e4, 1e30])
def test_extreme_inputs_stay_finite_after_the_map(name: str, value: float) -> None:
    op, args, _ = FAMILIES[name]
    bounded = op in (ops.spline, ops.rbf, ops.relu_bumps, ops.wavelet, ops.fourier)
    args = tuple(a.float() if isinstance(a, Tensor) else a for a in args)
    for x in (torch.full((1, 2, 3), value), torch.full((1, 2, 3), value, dtype=torch.bfloat16)):
        x.requires_grad_()
        y = op(x, *args, input_map="identity" if bounded else "tanh")
        y.sum().backward()
        assert torch.isfinite(y).all()
        assert torch.isfinite(x.grad).all()


def test_fullgraph_compile_keeps_values_and_gradients() -> None:
    x = draw(2, 3, 8).requires_grad_()
    beta = torch.tensor([0.0, 0.3, 0.2, 0.1], dtype=torch.float64, requires_grad=True)

    def loss(x: Tensor, beta: Tensor) -> Tensor:
        y = ops.gram(x, beta, input_map="tanh", base="silu")
        return (y * ops.legendre(x, 4)).square().sum()

    expected = torch.autograd.grad(loss(x, beta), (x, beta))
    actual = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(x, beta), (x, beta))
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e)


def test_compiled_graphs_hold_the_operator_and_exported_ones_do_not() -> None:
    """The operator saves its input alone; were it taken apart by the compiler, its parts would be saved again."""
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    class Layer(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return ops.legendre(x, 3, input_map="tanh")

    x = torch.randn(2, 3, 4)
    torch.compile(Layer(), fullgraph=True, backend=keep)(x)
    assert [n for n in graphs[0].graph.nodes if "kanvolution" in str(n.target)]
    for strict in (False, True):
        program = torch.export.export(Layer(), (x,), strict=strict)
        assert not [n for n in program.graph.nodes if "kanvolution" in str(n.target)]


def test_a_family_of_ones_own_replaces_no_other() -> None:
    """A user's family may have the name of one that is there, and a notebook may define one twice."""
    x = draw(1, 2, 5)
    expected = ops.legendre(x, 3)

    def define(factor: float) -> ops.Expansion:
        @ops.expansion
        def legendre(x: Tensor, count: int, shift: float) -> ops.Planes:
            return [factor * (x + shift) ** k for k in range(1, count + 1)]

        @legendre.derivative
        def slopes(x: Tensor, count: int, shift: float) -> ops.Slopes:
            return [factor * k * (x + shift) ** (k - 1) for k in range(1, count + 1)]

        return legendre

    first, second = define(2.0), define(3.0)
    assert_close(first(x, 2, 0.5)[:, :, 0], 2 * (x + 0.5))
    assert_close(second(x, 2, 0.5)[:, :, 0], 3 * (x + 0.5))
    assert_close(ops.legendre(x, 3), expected)
    assert torch.autograd.gradcheck(lambda x: first(x, 2, 0.5), x.clone().requires_grad_())


def test_defaults_of_a_family_are_honoured_and_annotations_asked_for() -> None:
    @ops.expansion
    def powers(x: Tensor, degree: int = 3) -> ops.Planes:
        return [x**k for k in range(1, degree + 1)]

    x = draw(1, 2, 5)
    assert powers(x).shape[2] == 3 and powers(x, 2).shape[2] == 2 and powers(x, degree=4).shape[2] == 4

    def nameless(x: Tensor, degree) -> ops.Planes:
        return [x] * degree

    with pytest.raises(TypeError, match="argument 'degree' must be annotated as Tensor, int, float, bool or str"):
        ops.expansion(nameless)


def test_bad_arguments() -> None:
    x = torch.randn(1, 2, 3)
    with pytest.raises(TypeError, match=r"floating point, got torch\.int64"):
        ops.legendre(x.long(), 3)
    with pytest.raises(ValueError, match="Did you mean 'tanh'"):
        ops.legendre(x, 3, input_map="tahn")
    with pytest.raises(ValueError, match="Did you mean 'silu'"):
        ops.legendre(x, 3, base="sulu")
    with pytest.raises(ValueError, match=r"shape \[N, C, ...\]"):
        ops.legendre(torch.randn(3), 3)
    with pytest.raises(TypeError, match=r"legendre\(x, degree\) got 0 arguments after x"):
        ops.legendre(x)
    with pytest.raises(TypeError, match=r"legendre\(x, degree\) got 0 .* names \['grade'\]"):
        ops.legendre(x, grade=3)
    assert ops.legendre(x, degree=2).shape == (1, 2, 3, 3)
