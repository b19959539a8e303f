"""The operator of expansion and convolution together: against the two one after the other, in every form."""

import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import kanvolution as kv
from kanvolution import ops
from kanvolution.ops import evaluation
from kanvolution.ops.evaluation import Call
from tests.ops.test_families import FAMILIES, draw
from tests.tolerances import assert_close

family = pytest.mark.parametrize("name", [n for n in FAMILIES if n.endswith(("3", "5_3", "rbf", "bumps", "hat", "r4"))])
JOINED = "joined_gram_wavelet_relu_bumps"

# name: (convolution, shape of x, outputs, kernel)
CONVOLUTIONS: dict[str, tuple[ops.Convolution, tuple[int, ...], int, tuple[int, ...]]] = {
    "linear": (ops.Convolution(), (5, 4), 3, ()),
    "1d": (ops.Convolution((2,), (1,), (1,)), (3, 4, 11), 6, (3,)),
    "2d_groups": (ops.Convolution((1, 2), (1, 0), (1, 2), groups=2), (2, 4, 7, 9), 6, (3, 2)),
    "2d_same": (ops.Convolution((1, 1), (0, 1), (1, 1), extra=(1, 0)), (2, 3, 5, 6), 4, (2, 3)),
    "3d": (ops.Convolution((1, 1, 1), (1, 1, 1), (1, 1, 1)), (2, 2, 3, 4, 5), 3, (3, 3, 3)),
    "1d_transposed": (ops.Convolution((2,), (1,), (1,), 2, True, (1,)), (2, 4, 5), 6, (3,)),
    "2d_transposed": (ops.Convolution((2, 1), (1, 0), (1, 2), 1, True, (1, 0)), (2, 3, 4, 5), 4, (3, 2)),
    "3d_transposed": (
        ops.Convolution((2, 1, 1), (0, 0, 1), (1, 1, 1), 1, True, (1, 0, 0)),
        (1, 2, 2, 3, 3),
        3,
        (2, 2, 3),
    ),
}
convolutions = pytest.mark.parametrize("form", list(CONVOLUTIONS))


def make(name: str, form: str, mixed: bool = False) -> tuple[ops.Expansion, dict[str, Tensor], Any]:
    """A family, the tensors of a call by name, and the call as a function of them."""
    op, args, (low, high) = FAMILIES[name]
    convolution, shape, outputs, kernel = CONVOLUTIONS[form]
    learned = [a for a in args if isinstance(a, Tensor)]
    size = 2 if mixed else op.size(*args) + 1
    tensors = {"x": draw(*shape, low=low, high=high), "base_input": draw(*shape)}
    tensors["weight"] = draw(outputs, shape[1] // convolution.groups * size, *kernel)
    tensors["bias"] = draw(outputs)
    if mixed:
        tensors["mix"] = draw(shape[1], size, op.size(*args) + 1)
    tensors |= {f"learned{i}": t.clone() for i, t in enumerate(learned)}
    names = list(tensors)

    def call(*values: Tensor, together: bool = True, **options: Any) -> Tensor:
        given = dict(zip(names, values, strict=True))
        own = [given[f"learned{i}"] for i in range(len(learned))]
        options = {"base": "silu", "base_input": given["base_input"], "mix": given.get("mix"), **options}
        into = ops.Contraction(convolution, given["weight"], given["bias"])
        if together:
            return op(given["x"], *own, *args[len(own) :], into=into, **options)
        return into(op(given["x"], *own, *args[len(own) :], **options).flatten(1, 2))

    return op, tensors, call


@convolutions
def test_single_gradients_are_those_of_all(form: str) -> None:
    """Of each tensor alone: what of the others is not wanted is not returned in its place."""
    _, tensors, call = make("rbf", form)
    every = torch.autograd.grad(call(*(t.requires_grad_() for t in tensors.values())).square().sum(), tensors.values())
    for name, expected in zip(tensors, every, strict=True):
        own = {n: t.detach().requires_grad_(n == name) for n, t in tensors.items()}
        (found,) = torch.autograd.grad(call(*own.values()).square().sum(), own[name])
        assert_close(found, expected)


@convolutions
@pytest.mark.parametrize("mixed", [False, True], ids=["full", "mixed"])
@pytest.mark.parametrize("name", ["gram2", "spline5_3", JOINED])
def test_derivatives_of_first_and_second_order(name: str, form: str, mixed: bool) -> None:
    _, tensors, call = make(name, form, mixed)
    values = tuple(t.requires_grad_() for t in tensors.values())
    assert torch.autograd.gradcheck(call, values, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, values, fast_mode=True)


@family
@convolutions
def test_it_is_the_expansion_and_then_the_convolution(name: str, form: str) -> None:
    _, tensors, call = make(name, form)
    values = tuple(t.requires_grad_() for t in tensors.values())
    together, apart = call(*values), call(*values, together=False)
    assert_close(together, apart)
    grad = torch.randn_like(apart)
    for a, e in zip(torch.autograd.grad(together, values, grad), torch.autograd.grad(apart, values, grad), strict=True):
        assert_close(a, e)


@pytest.mark.parametrize("name", ["rbf", JOINED])
@pytest.mark.parametrize("frozen", ["x", "weight", "bias", "learned0", "base_input"])
def test_gradients_that_are_not_wanted_change_nothing(frozen: str, name: str) -> None:
    _, tensors, call = make(name, "2d_groups")
    everything = tuple(t.requires_grad_() for t in tensors.values())
    expected = dict(zip(tensors, torch.autograd.grad(call(*everything).square().sum(), everything), strict=True))
    tensors[frozen] = tensors[frozen].detach()
    y = call(*tensors.values())
    rest = [n for n in tensors if n != frozen]
    for own, grad in zip(rest, torch.autograd.grad(y.square().sum(), [tensors[n] for n in rest]), strict=True):
        assert_close(grad, expected[own])


@pytest.mark.parametrize("layout", ["channels_last", "strided", "expanded"])
def test_layouts(layout: str) -> None:
    """Any layout of the input gives the same; a channels-last one gives a channels-last result and gradient."""
    _, tensors, call = make("gram2", "2d_groups")
    x = tensors["x"]
    if layout == "expanded":
        x = x[:1].expand_as(x)
    expected = call(*{**tensors, "x": x.contiguous()}.values())
    other = {
        "channels_last": lambda: x.to(memory_format=torch.channels_last),
        "strided": lambda: x.repeat_interleave(2, dim=3)[..., ::2],
        "expanded": lambda: x,
    }[layout]()
    other.requires_grad_()
    y = call(*{**tensors, "x": other}.values())
    assert_close(y, expected)
    (grad,) = torch.autograd.grad(y.sum(), other)
    if layout == "channels_last":
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert grad.is_contiguous(memory_format=torch.channels_last)


def test_blocks_do_not_show() -> None:
    """Large inputs are evaluated in parts: of the batch, and of a sample where one alone is large."""
    for shape in ((7, 4, 64, 65), (2, 3, 301, 303), (3, 2, 40000), (70000, 2)):
        x = torch.randn(*shape, requires_grad=True)
        beta = torch.tensor([0.0, 0.3, 0.2], requires_grad=True)
        mix = torch.randn(1, 2, 4, requires_grad=True)
        for options in ({}, {"mix": mix}):
            values, plain = (f(x, beta, input_map="tanh", base="silu", **options) for f in (ops.gram, ops.gram.plain))
            assert_close(values, plain)
            inputs = [x, beta, *options.values()]
            grad = torch.randn_like(plain)
            actual, expected = (torch.autograd.grad(y, inputs, grad) for y in (values, plain))
            for a, e in zip(actual, expected, strict=True):
                assert_close(a, e, 1e-4)


@convolutions
@pytest.mark.parametrize("name", ["gram2", JOINED])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own inputs
def test_operator_contract(form: str, name: str) -> None:
    """Schema, fake kernel, autograd registration and compiled backward agree with the eager operator."""
    op, tensors, _ = make(name, form)
    convolution = CONVOLUTIONS[form][0]
    weight, bias = (tensors[n].requires_grad_() for n in ("weight", "bias"))
    inner = op._convolve
    assert inner is not None
    for layout in (None, torch.channels_last):
        x = tensors["x"].clone()
        if layout is not None:
            if x.ndim != 4:
                continue
            x = x.to(memory_format=layout)
        learned = tuple(t.requires_grad_() for n, t in tensors.items() if n.startswith("learned"))
        scalars = FAMILIES[name][1][len(learned) :]
        call = Call(x.requires_grad_(), None, None, learned, scalars, "tanh", "silu", x.dtype, "eager")
        torch.library.opcheck(inner.forward, inner.pack(call, ops.Contraction(convolution, weight, bias)))


def test_two_dtypes_are_an_error_with_a_remedy() -> None:
    _, tensors, call = make("gram2", "2d_groups")
    with pytest.raises(TypeError, match=r"input \(torch.float64\) and weight \(torch.float32\) must have the same"):
        call(*{**tensors, "weight": tensors["weight"].float()}.values())


def test_unknown_backend() -> None:
    with pytest.raises(ValueError, match="Did you mean 'eager'"):
        ops.legendre(torch.randn(1, 2, 3), 2, backend="eagr")


def test_compile_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kanvolution.ops.backends.HAS_CPP_COMPILER", False)
    with pytest.raises(RuntimeError, match=r"C\+\+ compiler .* backend='eager'"):
        ops.legendre(torch.randn(1, 2, 3), 2, backend="compile")


@pytest.mark.compiler
@pytest.mark.skipif(not ops.backends.HAS_CPP_COMPILER, reason="no C++ compiler")
@pytest.mark.parametrize(
    ("name", "form", "mixed"),
    [
        ("gram2", "2d_groups", False),
        ("rbf", "2d_same", True),
        ("rbf", "linear", False),
        (JOINED, "2d_groups", False),
        (JOINED, "2d_groups", True),
        pytest.param("spline5_3", "2d_groups", False, marks=pytest.mark.slow),
        pytest.param("rbf", "3d", False, marks=pytest.mark.slow),
    ],
)
def test_compiled_loops_agree(name: str, form: str, mixed: bool) -> None:
    _, tensors, call = make(name, form, mixed)
    values = tuple(t.float().requires_grad_() for t in tensors.values())
    compiled, eager = call(*values, backend="compile"), call(*values, backend="eager")
    assert_close(compiled, eager)
    grad = torch.randn_like(eager)
    for a, e in zip(torch.autograd.grad(compiled, values, grad), torch.autograd.grad(eager, values, grad), strict=True):
        assert_close(a, e, 1e-4)


@pytest.mark.compiler
@pytest.mark.skipif(not ops.backends.HAS_CPP_COMPILER, reason="no C++ compiler")
@pytest.mark.parametrize("degree", [0, 2])
@pytest.mark.parametrize("layout", ["contiguous", "last", "slice", "steps"])
def test_compiled_loops_give_the_strides_that_fake_kernels_promise(layout: str, degree: int) -> None:
    x = torch.randn(2, 8, 6, 5)
    last = x.contiguous(memory_format=torch.channels_last)
    x = {"contiguous": x, "last": last, "slice": last[:, :3], "steps": last[..., ::2]}[layout]
    found = ops.chebyshev(x, degree, input_map="tanh", backend="compile")
    assert found.stride() == evaluation.empty_expansion(x, degree + 1, x.dtype).stride()
    assert_close(found, ops.chebyshev(x, degree, input_map="tanh", backend="eager"))


@pytest.mark.compiler
@pytest.mark.skipif(not ops.backends.HAS_CPP_COMPILER, reason="no C++ compiler")
def test_a_compiled_loop_of_one_function_gives_no_view() -> None:
    @ops.expansion
    def itself(x: Tensor, count: int) -> list[Tensor]:
        return [x] * count

    @itself.derivative
    def _(x: Tensor, count: int) -> list[Tensor]:
        return [torch.ones_like(x)] * count

    x = torch.randn(2, 3, 4)
    same = itself(x, 1, backend="compile")
    assert torch.equal(same[:, :, 0], x) and same.data_ptr() != x.data_ptr()


@pytest.mark.compiler
@pytest.mark.skipif(not ops.backends.HAS_CPP_COMPILER, reason="no C++ compiler")
def test_a_loop_is_compiled_once_for_all_sizes() -> None:
    beta = torch.tensor([0.0, 0.3, 0.2], requires_grad=True)
    graphs = torch._dynamo.utils.counters["stats"]

    def step(*shape: int) -> None:
        x = torch.randn(*shape).contiguous(memory_format=torch.channels_last).requires_grad_()
        ops.gram(x, beta, input_map="tanh", base="silu", backend="compile").sum().backward()

    step(3, 4, 5, 6)
    before = graphs["unique_graphs"]
    for shape in ((5, 4, 5, 6), (8, 4, 5, 6), (7, 3, 9, 4)):
        step(*shape)
    assert graphs["unique_graphs"] == before > 0


@convolutions
@pytest.mark.parametrize("mixed", [False, True], ids=["full", "mixed"])
def test_a_batch_in_parts_gives_what_it_gives_as_a_whole(
    form: str, mixed: bool, monkeypatch: pytest.MonkeyPatch, backend: str = "eager"
) -> None:
    _, tensors, call = make("gram2", form, mixed)
    tensors = {n: t.repeat(3, *(1,) * (t.ndim - 1)) if n in ("x", "base_input") else t for n, t in tensors.items()}
    values = [t.requires_grad_() for t in tensors.values()]
    results = []
    for limit in (2**30, 0):
        monkeypatch.setitem(evaluation._PART, "cpu", limit)
        # The weight is the limit then, which the expansions of these sizes are larger than.
        y = call(*values, backend=backend)
        results.append([y, *torch.autograd.grad(y.square().sum(), values)])
    for found, expected in zip(*results, strict=True):
        assert_close(found, expected)
        assert found.stride() == expected.stride()


@pytest.mark.compiler
@pytest.mark.skipif(not ops.backends.HAS_CPP_COMPILER, reason="no C++ compiler")
def test_a_batch_in_parts_by_compiled_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    test_a_batch_in_parts_gives_what_it_gives_as_a_whole("2d_groups", True, monkeypatch, "compile")


def test_no_expansion_is_larger_than_a_part_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    module = sys.modules[ops.Expansion.__module__]
    evaluate = module.evaluate

    def watched(values: Any, call: Call, size: int) -> Tensor:
        made.append(call.x.shape[0])
        return evaluate(values, call, size)

    monkeypatch.setattr(module, "evaluate", watched)
    monkeypatch.setitem(evaluation._PART, "cpu", 4 * 4 * 5 * 36 * 4)  # four samples
    x, weight = torch.randn(18, 4, 6, 6, requires_grad=True), torch.randn(3, 20, 3, 3, requires_grad=True)
    into = ops.Contraction(ops.Convolution((1, 1), (1, 1), (1, 1)), weight, None)
    ops.legendre(x, 3, base="silu", into=into).sum().backward()
    assert sum(made) == 2 * 18 and max(made) <= 4 and len(made) == 2 * 5


@pytest.mark.parametrize("batch", [0, 1, 2, 3, 5, 8, 13])
@pytest.mark.parametrize("limit", [1, 700, 1500, 4000, 10**6])
def test_parts_cover_the_batch_and_single_samples_stay_among_themselves(
    batch: int, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(evaluation._PART, "cpu", limit)
    call = Call(torch.empty(batch, 2, 5, 5), None, None, (), (), "identity", None, torch.float32, "eager")
    parts = evaluation.parts_of_batch(call, 3, torch.empty(1))
    index = torch.arange(batch).view(-1, 1, 1, 1)
    pieces = [part(index) for part in parts]
    assert torch.equal(torch.cat(pieces), index)
    lengths = {len(piece) for piece in pieces}
    assert max(lengths) <= 1 or max(lengths) * 2 * 25 * 3 * 4 <= max(limit, 4)
    assert lengths in ({batch}, {1}) or min(lengths) > 1


class _Watch(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


class _Own(torch.Tensor):
    """A subclass that changes nothing."""


@pytest.mark.parametrize("basis", ["gram", "spline", "wavelet", "joined"])
@pytest.mark.parametrize("bias", [True, False])
def test_both_ways_into_an_operator_agree(basis: str, bias: bool) -> None:
    """A mode or a subclass sees one operator; without them the dispatcher is left out, and the results are the same."""
    layer = kv.KANConv2d(4, 6, 3, padding=1, basis=basis, bias=bias)
    x = torch.randn(2, 4, 5, 7)
    weights = list(layer.parameters())

    def results(x: torch.Tensor) -> list[torch.Tensor]:
        x = x.detach().requires_grad_()
        y = layer(x)
        return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *weights])]

    direct = results(x)
    with _Watch() as watch:
        watched = results(x)
    own = results(x.as_subclass(_Own))
    named = {name.removesuffix("_backward") for name in watch.names if name.startswith("kanvolution::")}
    assert len(named) == 1 and named.pop().endswith("_convolution")
    for a, b, c in zip(direct, watched, own, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c.as_subclass(torch.Tensor))
    with torch.no_grad():
        assert torch.equal(layer(x), direct[0])


def test_without_a_follower_no_dispatcher_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = kv.KANConv2d(4, 6, 3, basis="legendre")
    operator = kv.ops.legendre._convolve
    assert operator is not None
    monkeypatch.setattr(operator, "forward", None)
    monkeypatch.setattr(operator, "backward", None)
    x = torch.randn(2, 4, 5, 5, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    with pytest.raises(TypeError), _Watch():
        layer(x)


@pytest.mark.parametrize("form", CONVOLUTIONS)
def test_the_gradient_of_the_input_alone(form: str) -> None:
    """Without an input to look at: that of `gradients`, also where strides leave entries at the end over."""
    convolution, shape, outputs, kernel = CONVOLUTIONS[form]
    x = torch.randn(shape, dtype=torch.float64)
    weight = torch.randn(outputs, shape[1] // convolution.groups, *kernel, dtype=torch.float64)
    grad = torch.randn_like(convolution(x, weight, None))
    found = convolution.input_gradient(grad, weight, x.shape[2:])
    expected = convolution.gradients(grad, x, weight, (True, False, False))[0]
    assert expected is not None and found.shape == x.shape
    assert_close(found, expected)


def test_the_meta_device_and_arguments_as_people_write_them() -> None:
    for backend in ("auto", "triton", "eager"):
        into = ops.Contraction(ops.Convolution((1,), (1,), (1,)), torch.empty(3, 8, 3, device="meta"), None)
        x = torch.empty(2, 2, 6, device="meta")
        assert ops.legendre(x, 3, backend=backend).shape == (2, 2, 4, 6)
        assert ops.legendre(x, 3, into=into, backend=backend).shape == (2, 3, 6)
    x = torch.randn(2, 2, 6)
    assert torch.equal(ops.legendre(x, 3, keep=[0, 2]), ops.legendre(x, 3, keep=(0, 2)))
    assert torch.equal(ops.jacobi(x, 2, 1, 1), ops.jacobi(x, 2, 1.0, 1.0))
    with pytest.raises(TypeError, match=r"degree \(=3.0\) must be an integer"):
        ops.legendre(x, 3.0)
