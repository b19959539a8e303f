"""The Triton kernels against the textbook formulas in float64, differentiated by autograd.

Under TRITON_INTERPRET=1 they run on the CPU; tests/ops/test_triton.py runs this file so. Otherwise they need a GPU.
"""

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS refuses deterministic algorithms
if not INTERPRETED:
    pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
DEVICE = "cpu" if INTERPRETED else "cuda"

from kanvolution import ops  # noqa: E402
from kanvolution.ops.joined import joined_families  # noqa: E402
from tests.ops.test_families import FAMILIES, draw, textbook  # noqa: E402
from tests.tolerances import assert_close  # noqa: E402

NAMES = [
    n for n in FAMILIES if n not in ("spline4_0", "legendre0", "chebyshev0", "gram0", "bernstein1", "jacobi0_1.0_1.0")
]
JOINED = [n for n in NAMES if n.startswith("joined")]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def _poisoned_memory_and_small_tiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch.empty gives NaN, so that what no kernel writes shows; several programs even for tiny tensors."""
    from kanvolution.ops.triton import expand, launch

    if INTERPRETED:
        monkeypatch.setattr(expand, "TILE", 64)
        monkeypatch.setattr(expand, "TILE_OF_SUMS", 64)
        monkeypatch.setattr(expand, "TILE_OF_CHANNELS", 64)
        monkeypatch.setattr(expand, "PROGRAMS", 3)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    launch.LAUNCHES.clear()  # they have the sizes of tiles in them
    yield
    launch.LAUNCHES.clear()
    torch.use_deterministic_algorithms(False)


def formula(name: str, x: Tensor, base_input: Tensor | None, tensors: tuple[Tensor, ...], options: Any) -> Tensor:
    """E by `ops.reference`, [N, C, K, *S]."""
    op, args, _ = FAMILIES[name]
    if any(t.ndim == 2 for t in tensors):
        seen = x if base_input is None else base_input
        own = (t.unbind() if t.ndim == 2 else [t] * x.shape[1] for t in tensors)
        rows = zip(x.split(1, 1), seen.split(1, 1), *own, strict=True)
        return torch.cat([formula(name, x, seen, tuple(row), options) for x, seen, *row in rows], dim=1)
    mapped = ops.POINTWISE[options.get("input_map", "identity")].value(x)
    planes = textbook(op, mapped, (*tensors, *args[len(tensors) :]))
    if options.get("base"):
        planes.insert(0, ops.POINTWISE[options["base"]].value(x if base_input is None else base_input))
    if options.get("keep") is not None:
        planes = [planes[k] for k in options["keep"]]
    return torch.stack(planes, dim=2)


def check(
    name: str,
    x: Tensor,
    options: Any,
    base_input: Tensor | None = None,
    tensors: Any = None,
    mix: Tensor | None = None,
) -> Tensor:
    """Values, and the gradients of everything, of the kernels and of the formula."""
    op, args, _ = FAMILIES[name]
    dtype = x.dtype
    tensors = tuple(a for a in args if isinstance(a, Tensor)) if tensors is None else tensors
    given = [x, *(t for t in (base_input, mix) if t is not None), *(t.float() for t in tensors)]
    own = [t.to(DEVICE).detach().requires_grad_() for t in given]
    exact = [t.detach().double().requires_grad_() for t in given]

    def split(values: list[Tensor]) -> tuple[Tensor, Tensor | None, Tensor | None, tuple[Tensor, ...]]:
        x, *rest = values
        seen = None if base_input is None else rest.pop(0)
        combinations = None if mix is None else rest.pop(0)
        return x, seen, combinations, tuple(rest)

    x_, seen, combinations, learned = split(own)
    y = op(x_, *learned, *args[len(learned) :], base_input=seen, mix=combinations, backend="triton", **options)
    x_, seen, combinations, learned = split(exact)
    expected = formula(name, x_, seen, learned, options)
    if combinations is not None:
        every = combinations.expand(x_.shape[1], -1, -1)
        expected = torch.einsum("crk,nck...->ncr...", every, expected)
    expected = expected + 0 * sum(t.sum() for t in exact)  # steps have no gradient
    assert y.dtype == dtype
    assert_close(y.cpu(), expected)
    grad = torch.randn_like(expected).to(dtype)
    found = torch.autograd.grad(y, own, grad.to(DEVICE))
    for f, w in zip(found, torch.autograd.grad(expected, exact, grad.double()), strict=True):
        assert_close(f.cpu(), w, {torch.float32: 1e-4}.get(dtype))
    assert found[0].stride() == torch.empty_like(own[0]).stride()
    return y


def sample(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    low, high = FAMILIES[name][2]
    return draw(*shape, low=low, high=high).to(dtype)


STEPS = ("spline1_0", "spline1_1", "spline5_1")  # rounded inputs lie on their knots, where a step has two values


@pytest.mark.parametrize("name", NAMES)
def test_every_family(name: str) -> None:
    check(name, sample(name, 2, 3, 5, 7), {})


@pytest.mark.parametrize("name", [n for n in NAMES if n not in STEPS])
def test_every_family_in_16_bits_and_channels_last(name: str) -> None:
    for dtype in (torch.bfloat16, torch.float16)[: 1 if INTERPRETED and name != "gram2" else 2]:
        check(name, sample(name, 1, 3, 5, 7, dtype=dtype).contiguous(memory_format=torch.channels_last), {})


@pytest.mark.parametrize("base", [None, *ops.POINTWISE])
@pytest.mark.parametrize("input_map", list(ops.POINTWISE))
def test_every_input_map_and_base_function(input_map: str, base: str | None) -> None:
    x = draw(3, 2, 5, low=-3, high=3).float()
    check("fourier4", x, {"input_map": input_map, "base": base})


@pytest.mark.filterwarnings("ignore:overflow encountered")  # the interpreter's; exp(90) is infinite in float32
def test_near_and_far_inputs_of_the_maps() -> None:
    """Small inputs keep their relative precision, and huge ones stay finite, in values and slopes."""
    x = torch.tensor([[0.0, 1e-6, -1e-3, 0.199, 0.201, 5.0, -90.0, 1e4, -1e30]]).to(DEVICE).requires_grad_()
    for name in ops.POINTWISE:
        y = ops.no_functions(x, base=name, backend="triton")
        expected = ops.no_functions(x, base=name, backend="eager")
        assert torch.allclose(y, expected, rtol=1e-6, atol=0 if name == "tanh" else 1e-6)
        for a, e in zip(*(torch.autograd.grad(v.sum(), x) for v in (y, expected)), strict=True):
            assert torch.allclose(a, e, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["gram6", "spline5_3", "wavelet_morlet", "legendre7", *JOINED])
@pytest.mark.parametrize("layout", ["linear", "1d", "3d", "channels_last_3d", "sliced", "transposed", "windows"])
def test_layouts(name: str, layout: str) -> None:
    x = sample(name, 3, 2, 4, 3, 5)
    x = {
        "linear": lambda: x[:, :, 0, 0, 0],
        "1d": lambda: x[:, :, 0, 0],
        "3d": lambda: x,
        "channels_last_3d": lambda: x.contiguous(memory_format=torch.channels_last_3d),
        "sliced": lambda: x[:, :, 0, :, ::2],
        "transposed": lambda: x[:, :, 0].transpose(0, 3),
        # One stride over space, which a tensor like it has not.
        "windows": lambda: x.flatten()[:40].unfold(0, 10, 2)[:4].view(4, 1, 2, 5),
    }[layout]()
    check(name, x, {"input_map": "identity" if name in JOINED else "tanh", "base": "silu"})


@pytest.mark.parametrize("name", ["gram6", "rbf", "chebyshev7", *JOINED])
@pytest.mark.parametrize("keep", [None, (0, 2), (1, 3), (2,)], ids=str)
def test_kept_functions_and_a_base_input_of_its_own(name: str, keep: tuple[int, ...] | None) -> None:
    x = sample(name, 2, 3, 5, 3)
    check(name, x, {"base": "gelu", "keep": keep}, base_input=torch.randn(2, 3, 5, 3))


@pytest.mark.parametrize("name", ["rbf", "relu_bumps", "wavelet_mexican_hat", JOINED[-1]])
def test_learned_tensors_of_each_channel(name: str) -> None:
    """In many tiles: their gradients are sums over all of them."""
    given = [a for a in FAMILIES[name][1] if isinstance(a, Tensor)]
    rows = tuple(torch.stack([a * f for f in (1.0, 1.1, 1.2)]) for a in given)
    if name in JOINED:
        rows = (given[0], *rows[1:])  # that of Gram polynomials is one for all channels
    for form in (torch.contiguous_format, torch.channels_last):
        check(name, sample(name, 2, 3, 13, 11).contiguous(memory_format=form), {"base": "silu"}, tensors=rows)


@pytest.mark.parametrize(
    "name",
    [
        "gram2",
        *JOINED,
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("gram6", "spline5_3", "rbf", "wavelet_dog")),
    ],
)
@pytest.mark.parametrize("results", [1, 3])
def test_combinations(name: str, results: int) -> None:
    """Of each channel's own or of all, with learned functions and a base input of its own, in many tiles."""
    op, args, _ = FAMILIES[name]
    size = op.size(*args)
    for channels, last in ((3, False), (1, True)):
        x = sample(name, 2, 3, 13, 7)
        options: dict[str, Any] = {"base": "silu"} if last else {}
        seen = torch.randn(x.shape) if last and results > 1 else None
        mix = torch.randn(channels, results, size + last)
        layout = torch.channels_last if last else torch.contiguous_format
        check(name, x.contiguous(memory_format=layout), options, seen, mix=mix)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_combinations_in_16_bits(dtype: torch.dtype) -> None:
    x = sample("legendre7", 2, 3, 5, 7, dtype=dtype).contiguous(memory_format=torch.channels_last)
    check("legendre7", x, {"input_map": "tanh", "base": "gelu"}, mix=torch.randn(3, 2, 9).to(dtype))


def test_combinations_are_no_expansion_and_no_ordinary_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions are combined inside of the kernels, in a layer of low rank too."""
    import kanvolution as kv
    from kanvolution.ops import evaluation

    layer = kv.ConvSpec("gram", structure=kv.LowRank(2))(3, 4, 3, padding=1).to(DEVICE)
    kv.set_backend(layer, "triton")
    x = torch.randn(2, 3, 5, 6, device=DEVICE, requires_grad=True)
    monkeypatch.setattr(evaluation, "_planes", None)
    monkeypatch.setattr(evaluation, "_gradients", None)
    layer(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in (x, *layer.parameters()))


@pytest.mark.parametrize("keep", [(0,), (3, 4, 7), (5,), (0, 7, 8)], ids=str)
def test_joined_families_of_which_some_have_no_function_kept(keep: tuple[int, ...]) -> None:
    """Gradients of what nothing depends on are zero."""
    check(JOINED[-1], sample(JOINED[-1], 2, 3, 5, 3), {"base": "gelu", "keep": keep}, torch.randn(2, 3, 5, 3))


def test_a_family_without_device_functions_takes_joined_ones_along() -> None:
    @ops.expansion
    def powers(x: Tensor, degree: int) -> ops.Planes:
        return [x**k for k in range(1, degree + 1)]

    @powers.derivative
    def powers_derivative(x: Tensor, degree: int) -> ops.Slopes:
        return [k * x ** (k - 1) for k in range(1, degree + 1)]

    joined = joined_families(ops.legendre, powers)
    x = torch.randn(2, 3, 5, device=DEVICE, requires_grad=True)
    results = []
    for backend in ("triton", "eager"):
        y = joined(x, "tanh", 2, "sigmoid", 3, base="silu", backend=backend)
        results.append([y, *torch.autograd.grad(y.square().sum(), x)])
    for actual, expected in zip(*results, strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("wanted", [0, 1, 2, 4], ids=["x", "first", "second", "last"])
@pytest.mark.parametrize("mixed", [False, True], ids=["full", "mixed"])
def test_single_gradients_of_joined_families(wanted: int, mixed: bool) -> None:
    """Values are written over their gradients by all families, whatever else is wanted of each."""
    op, args, _ = FAMILIES[JOINED[-1]]
    tensors = [a.float().to(DEVICE) for a in args if isinstance(a, Tensor)]
    x = sample(JOINED[-1], 2, 8, 4, 3).contiguous(memory_format=torch.channels_last).to(DEVICE)
    size = op.size(*args) + 1
    mix = torch.randn(8, 2, size, device=DEVICE) if mixed else None
    weight = torch.randn(3, 8 * (2 if mixed else size), 2, 2, device=DEVICE)
    results = []
    for backend in ("triton", "eager"):
        own = [
            t.clone(memory_format=torch.preserve_format).requires_grad_(i == wanted)
            for i, t in enumerate([x, *tensors])
        ]
        into = ops.Contraction(ops.Convolution((1, 1), (1, 1), (1, 1)), weight.clone().requires_grad_(), None)
        y = op(*own, *args[len(tensors) :], base="silu", mix=mix, into=into, backend=backend)
        results.append([y, *torch.autograd.grad(y.square().sum(), [own[wanted], into.weight])])
    for actual, expected in zip(*results, strict=True):
        assert_close(actual, expected, 1e-4)


@pytest.mark.slow
def test_offsets_beyond_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels 2^30 elements apart, in memory that is never touched in between."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    x = torch.empty(2**31 + 8, dtype=torch.float16, device=DEVICE).as_strided((1, 3, 5), (2**31, 2**30, 1))
    x.copy_(torch.linspace(-1, 1, 15).view(1, 3, 5))
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    for backend, results in (("triton", found := []), ("eager", expected := [])):
        own = x.detach().requires_grad_()
        y = ops.legendre(own, 3, base="silu", backend=backend)
        results += [y, *torch.autograd.grad(y.float().square().sum(), own)]
    for f, e in zip(found, expected, strict=True):
        assert_close(f, e.float())


@pytest.mark.parametrize("basis", ["relu", "wavelet", "gram"])
def test_one_channel_as_an_operator(basis: str) -> None:
    """No result of an operator may share memory with another one, and with one channel no copy is needed otherwise."""
    import kanvolution as kv

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    layer = kv.set_backend(kv.KANConv2d(1, 3, 3, basis=basis), "triton").to(DEVICE)
    x = torch.randn(2, 1, 5, 5, device=DEVICE)
    with Watch():
        layer(x).square().sum().backward()
    watched = [p.grad for p in layer.parameters()]
    layer.zero_grad()
    layer(x).square().sum().backward()
    storages = {p.grad.untyped_storage().data_ptr() for p in layer.parameters() if p.grad is not None}
    assert len(storages) == len(watched)
    for a, b in zip(watched, (p.grad for p in layer.parameters()), strict=True):
        assert a is not None and b is not None and torch.equal(a, b)


@pytest.mark.parametrize("basis", ["gram", "legendre"])
def test_a_backward_inside_of_autocast(basis: str) -> None:
    """Of a layer that ran outside of it: in the types of the forward."""
    import kanvolution as kv

    x = torch.randn(2, 8, 5, 5, device=DEVICE).contiguous(memory_format=torch.channels_last)
    layer = kv.KANConv2d(8, 4, 3, basis=basis).to(DEVICE)
    results = []
    for backend in ("triton", "eager"):
        kv.set_backend(layer, backend)
        own = x.detach().requires_grad_()
        y = layer(own)
        with torch.autocast(DEVICE, torch.bfloat16):
            results.append(torch.autograd.grad(y, [own, *layer.parameters()], torch.ones_like(y)))
    for actual, expected in zip(*results, strict=True):
        assert_close(actual, expected, 1e-4)


def test_many_backwards_at_once() -> None:
    """As torch.autograd.functional.jacobian asks for them: by ordinary operators."""
    x = torch.randn(1, 2, 3, device=DEVICE)

    def flat(backend: str) -> Any:
        return lambda x: ops.legendre(x, 3, base="silu", backend=backend).flatten()

    found, expected = (torch.autograd.functional.jacobian(flat(b), x, vectorize=True) for b in ("triton", "eager"))
    assert_close(found, expected, 1e-5)


def test_the_parts_of_a_step() -> None:
    from kanvolution.bases import set_backend
    from kanvolution.benchmark import Settings
    from kanvolution.benchmark.cases import LayerCase
    from kanvolution.benchmark.contestants import Contestant
    from kanvolution.benchmark.parts import parts
    from kanvolution.layers import ConvSpec

    module = set_backend(LayerCase(8, 4, 5, 2).make(ConvSpec("gram", act="silu")), "triton").to(DEVICE)
    found = parts(Contestant(module, torch.randn(2, 8, 5, 5, device=DEVICE, requires_grad=True)), Settings().now)
    wanted = {"convolution", "data gradient", "weight gradient", "functions", "functions backward"}
    assert wanted <= set(found), found


def test_gradients_that_are_not_wanted() -> None:
    x = sample("rbf", 2, 3, 5).to(DEVICE)
    centers = torch.linspace(-1, 1, 4, device=DEVICE)
    for x_wanted in (True, False):
        tensors = [x.clone().requires_grad_(x_wanted), centers.clone().requires_grad_(not x_wanted)]
        wanted = [t for t in tensors if t.requires_grad]
        found = [ops.rbf(*tensors, 0.5, base="silu", backend=b).square().sum() for b in ("triton", "eager")]
        pairs = zip(*(torch.autograd.grad(f, wanted) for f in found), strict=True)
        for actual, expected in pairs:
            assert_close(actual, expected, 1e-5)


def test_results_repeat_bit_by_bit() -> None:
    x = sample("gram6", 4, 3, 9, 9).to(DEVICE)
    beta = torch.linspace(0.1, 0.4, 5, device=DEVICE).requires_grad_()
    first, second = (torch.autograd.grad(ops.gram(x, beta, backend="triton").square().sum(), beta)[0] for _ in range(2))
    assert torch.equal(first, second)


# name: (convolution, shape of x, outputs, kernel)
CONVOLUTIONS: dict[str, tuple[ops.Convolution, tuple[int, ...], int, tuple[int, ...]]] = {
    "plain": (ops.Convolution((1, 1), (1, 1), (1, 1)), (2, 3, 7, 9), 20, (3, 3)),
    "groups_stride_dilation": (ops.Convolution((1, 2), (1, 0), (1, 2), groups=2), (2, 4, 7, 9), 6, (3, 2)),
    "strides": (ops.Convolution((2, 3), (3, 2), (2, 1)), (1, 3, 11, 8), 5, (3, 5)),
    "same": (ops.Convolution((1, 1), (0, 1), (1, 1), extra=(1, 0)), (2, 3, 5, 6), 4, (2, 3)),
    "first_functions": (ops.Convolution((1, 2), (1, 1), (1, 1)), (2, 8, 4, 5), 3, (3, 2)),
    "first_functions_3d": (
        ops.Convolution((1, 1, 2), (0, 1, 0), (1, 1, 1), transposed=True, output_padding=(0, 0, 1)),
        (1, 8, 2, 3, 2),
        2,
        (2, 1, 3),
    ),
    "pointwise_wide": (ops.Convolution((1, 1), (0, 0), (1, 1)), (2, 37, 3, 5), 70, (1, 1)),
}


@pytest.fixture
def implicit(monkeypatch: pytest.MonkeyPatch) -> None:
    from kanvolution.ops.triton import implicit_gemm

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    for name in implicit_gemm.THRESHOLDS:
        monkeypatch.setitem(implicit_gemm.THRESHOLDS, name, implicit_gemm.Threshold(10**6, 0, 0))
    if INTERPRETED:
        monkeypatch.setattr(implicit_gemm, "ROWS", 32)
        monkeypatch.setattr(implicit_gemm, "PROGRAMS", 10)


def check_convolution(name: str, form: str, dtype: torch.dtype, options: Any, **layout: Any) -> None:
    """Output and all gradients of the implicit product beside those of the formula and PyTorch's convolution."""
    op, args, _ = FAMILIES[name]
    convolution, shape, outputs, kernel = CONVOLUTIONS[form]
    learned = tuple(a.float() for a in args if isinstance(a, Tensor))
    size = len(options["keep"]) if options.get("keep") else op.size(*args) + bool(options.get("base"))
    weight = torch.randn(outputs, shape[1] // convolution.groups * size, *kernel).to(dtype)
    given = [sample(name, *shape, dtype=dtype), torch.randn(shape).to(dtype), weight, torch.randn(outputs).to(dtype)]
    given = [t.contiguous(**layout) if t.shape == shape else t for t in given] + list(learned)
    own = [t.to(DEVICE).detach().requires_grad_() for t in given]
    exact = [t.detach().double().requires_grad_() for t in given]

    x, seen, weight, bias, *rest = own
    into = ops.Contraction(convolution, weight, bias)
    scalars = args[len(learned) :]
    y = op(x, *rest, *scalars, base_input=seen, into=into, backend="triton", **options)
    x, seen, weight, bias, *rest = exact
    expected = convolution(formula(name, x, seen, tuple(rest), options).flatten(1, 2), weight, bias)
    expected = expected + 0 * sum(t.sum() for t in rest)  # what is not kept has no gradient
    limit = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 6e-3}[dtype]
    assert_close(y.cpu(), expected, limit)
    assert y.is_contiguous(**layout)
    grad = torch.randn_like(expected).to(dtype)
    used = [i for i in range(len(own)) if i != 1 or options.get("base")]
    found = torch.autograd.grad(y, [own[i] for i in used], grad.to(DEVICE))
    for f, w in zip(found, torch.autograd.grad(expected, [exact[i] for i in used], grad.double()), strict=True):
        assert_close(f.cpu(), w, limit)
    assert found[0].is_contiguous(**layout)


@pytest.mark.parametrize("form", [form for form in CONVOLUTIONS if not form.startswith("first")])
@pytest.mark.parametrize("name", ["gram2", "spline5_3"])
def test_implicit_product_of_every_convolution(name: str, form: str, implicit: None) -> None:
    check_convolution(name, form, torch.float32, {"base": "silu", "input_map": "tanh"})


@pytest.mark.parametrize(
    "name", [n for n in NAMES if n.endswith(("2", "5_3", "rbf", "bumps", "t", "r4", "hat")) and n not in JOINED]
)
def test_implicit_product_of_every_family(name: str, implicit: None) -> None:
    check_convolution(name, "groups_stride_dilation", torch.float32, {"base": "gelu"})


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_implicit_product_in_every_type_and_layout(dtype: torch.dtype, layout: Any, implicit: None) -> None:
    options = {"base": "silu", "keep": (0, 2, 3)}
    check_convolution("legendre7", "groups_stride_dilation", dtype, options, memory_format=layout)


@pytest.mark.parametrize("form", ["first_functions", "first_functions_3d"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_expansions_ordered_by_functions(form: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """For channels-last inputs, where they are what runs; the order is not seen outside."""
    from kanvolution.ops import triton as kernels

    layout = torch.channels_last if form == "first_functions" else torch.channels_last_3d
    orders = []
    evaluate = kernels.evaluate

    def watched(*args: Any, **kwargs: Any) -> Tensor:
        orders.append(evaluate(*args, **kwargs))
        return orders[-1]

    monkeypatch.setattr(kernels, "evaluate", watched)
    name, options = ("gram2", {"base": "silu"}) if dtype == torch.float32 else ("legendre7", {"keep": (0, 2, 3)})
    check_convolution(name, form, dtype, options, memory_format=layout)
    # In backward it is made in the memory of its gradient.
    assert len(orders) == 1 and all(e.stride(3) == 1 and e.stride(2) == e.shape[3] and e.shape[1] == 1 for e in orders)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("form", ["plain", "groups_stride_dilation", "first_functions"])
@pytest.mark.parametrize("options", [{"base": "silu"}, {"keep": (1, 4, 5)}], ids=["base", "keep"])
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_joined_families_write_into_one_expansion(
    dtype: torch.dtype, options: dict[str, Any], form: str, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every order of it, filled up with zeros or not, and without ordinary operators."""
    from kanvolution.ops import evaluation

    monkeypatch.setattr(evaluation, "_planes", None)
    monkeypatch.setattr(evaluation, "_gradients", None)
    check_convolution(JOINED[-1], form, dtype, options, memory_format=layout)


@pytest.mark.parametrize("form", ["plain", "strides", "same"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_odd_numbers_of_channels_are_filled_up_with_zeros(
    form: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a tensor core takes several at a time: 16-bit types, channels-last."""
    from kanvolution.ops.triton import implicit_gemm

    for direction in implicit_gemm.THRESHOLDS:
        monkeypatch.setitem(implicit_gemm.THRESHOLDS, direction, implicit_gemm.Threshold(0, 0))
    seen = []
    call = ops.Convolution.__call__

    def watched(self: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        seen.append((x.shape[1], weight.shape[1]))
        return call(self, x, weight, bias)

    monkeypatch.setattr(ops.Convolution, "__call__", watched)
    check_convolution("gram2", form, dtype, {"base": "silu"}, memory_format=torch.channels_last)
    assert seen[0] == ((12, 12) if dtype == torch.float32 else (16, 16))
    assert seen[1] == (12, 12)  # the formula's


def test_a_frozen_weight_beside_channels_of_zeros() -> None:
    x = torch.randn(1, 3, 8, 4).bfloat16().contiguous(memory_format=torch.channels_last).to(DEVICE).requires_grad_()
    weight = torch.randn(4, 12, 3, 3, device=DEVICE).bfloat16()
    into = ops.Contraction(ops.Convolution((1, 1), (1, 1), (1, 1)), weight, None)
    found, expected = (
        torch.autograd.grad(ops.legendre(x, 3, into=into, backend=backend).sum(), x)[0]
        for backend in ("triton", "eager")
    )
    assert_close(found, expected)


def test_gradients_of_a_convolution_that_are_not_wanted() -> None:
    """Without that of the weight nothing is written over; without that of x nothing but values is computed."""
    x = torch.randn(2, 8, 4, 5).contiguous(memory_format=torch.channels_last).to(DEVICE)
    weight = torch.randn(3, 8 * 4, 3, 3, device=DEVICE)
    for flags in ((True, False), (False, True), (True, True)):
        results = []
        for backend in ("triton", "eager"):
            own = [
                t.clone(memory_format=torch.preserve_format).requires_grad_(f)
                for t, f in zip((x, weight), flags, strict=True)
            ]
            into = ops.Contraction(ops.Convolution((1, 1), (1, 1), (1, 1)), own[1], None)
            y = ops.legendre(own[0], 2, base="silu", into=into, backend=backend)
            results.append(torch.autograd.grad(y.square().sum(), [t for t in own if t.requires_grad]))
        for actual, expected in zip(*results, strict=True):
            assert_close(actual, expected, 1e-4)


def test_when_an_expansion_is_ordered_by_functions() -> None:
    """Contiguous inputs, groups, and channels that are no whole vectors take the other way."""
    from kanvolution.ops.evaluation import Call
    from kanvolution.ops.triton import writes_functions_first

    def ordered(
        channels: int, layout: torch.memory_format, groups: int = 1, dtype: torch.dtype = torch.float32
    ) -> bool:
        x = torch.empty(2, channels, 4, 4, dtype=dtype, device=DEVICE).contiguous(memory_format=layout)
        return writes_functions_first(
            ops.legendre.values, Call(x, None, None, (), (3,), "tanh", None, dtype, "triton"), groups
        )

    assert ordered(16, torch.channels_last)
    assert not ordered(16, torch.contiguous_format)
    assert not ordered(16, torch.channels_last, groups=2)
    assert not ordered(12, torch.channels_last)
    assert not ordered(16, torch.channels_last, dtype=torch.float64)


@pytest.mark.parametrize("wanted", [("x",), ("weight",), ("mix", "bias")], ids=str)
def test_an_expansion_ordered_by_functions_with_combinations_and_some_gradients(wanted: tuple[str, ...]) -> None:
    tensors = {"x": torch.randn(2, 8, 4, 3).contiguous(memory_format=torch.channels_last), "mix": torch.randn(8, 2, 4)}
    tensors |= {"weight": torch.randn(3, 2, 8, 2, 2).flatten(1, 2), "bias": torch.randn(3)}
    results = []
    for backend in ("triton", "eager"):
        own = {name: t.to(DEVICE).requires_grad_(name in wanted) for name, t in tensors.items()}
        into = ops.Contraction(ops.Convolution((2, 1), (1, 0), (1, 1)), own["weight"], own["bias"])
        y = ops.legendre(own["x"], 3, mix=own["mix"], into=into, backend=backend)
        results.append([y, *torch.autograd.grad(y.square().sum(), [own[name] for name in wanted])])
    for actual, expected in zip(*results, strict=True):
        assert_close(actual, expected, 1e-4)
        assert actual.stride() == expected.stride()


def test_implicit_product_is_what_runs(implicit: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """No expansion is made anywhere, forward or backward."""
    from kanvolution.ops import triton as kernels

    monkeypatch.setattr(kernels, "evaluate", None)
    monkeypatch.setattr(kernels, "evaluate_gradients", None)
    check_convolution("gram2", "plain", torch.float32, {"base": "silu"})


def test_the_benchmark_compares_before_it_times(monkeypatch: pytest.MonkeyPatch) -> None:
    from kanvolution import benchmark

    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    program = importlib.import_module("kernels")
    arguments = (benchmark.LayerCase(2, 3, 4, 2), "float32", torch.channels_last, 1, torch.device(DEVICE))
    results = program.measure("rbf", *arguments)
    assert [r["contestant"] for r in results] == ["roof", "eager", "expand", "implicit"]
    assert all(r["correct"] and r["step"]["median"] > 0 for r in results)
    for basis in ("wavelet_edge", "gram_rank2"):
        others = program.measure(basis, *arguments)
        assert [r["contestant"] for r in others] == ["roof", "eager", "expand"]
        assert all(r["correct"] for r in others)
    case = {"basis": "rbf", "shape": "tiny", "dtype": "float32"}
    record = {"machine": {}, "results": [{**case, **r} for r in results]}
    record["results"] += [{**case, "basis": "gram_rank2", **r} for r in others]
    *_, full, short = program.markdown(record).splitlines()
    assert full.count("|") == short.count("|") and short.endswith("|  |")
    monkeypatch.setitem(program.TOLERANCES, "float32", 0.0)
    assert not any("step" in r for r in program.measure("rbf", *arguments)[1:])
